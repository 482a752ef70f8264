"""The mixers that SeT attention is compared with, against dense evaluations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from setformer_mm.models import TOKEN_MIXERS, SeTformer
from setformer_mm.models.mixers.agent import agent_attention
from setformer_mm.models.mixers.cosformer import cosformer_attention
from setformer_mm.models.mixers.flow import flow_attention
from setformer_mm.models.mixers.soft import RIDGE, NewtonInverse, soft_attention

from .dense import GRID, dense, random_heads

SMALL = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=1.5)
MIXERS = sorted(set(TOKEN_MIXERS.module_dict))
# Parameters with 16 channels and 2 heads: four projections of 16 x 17 in most of them.
PARAMETERS = dict(
    AgentAttention=4 * 272,
    CosFormerAttention=4 * 272,
    FirstSeTAttention=2 * 272 + 8 * 16 + 16 * 16,
    FlowAttention=4 * 272,
    NoMixing=2 * 272,
    NystromAttention=4 * 272 + 2 * 33,  # a kernel a head
    PivotAttention=4 * 272 + 2 * 32 * (8 + 1),  # points and masses
    RankAugmentedAttention=5 * 272,  # and the gate
    SOFTAttention=3 * 272 + 8 * 8 + 2 * 8,
    SeTAttention=2 * 272 + 8 * 16 + 2 * 16 * 16,
    SinkhornAttention=4 * 272,
    SoftmaxAttention=4 * 272,
    SpatialReductionAttention=4 * 272,
    WindowAttention=4 * 272 + 2 * 13 * 13,
)


def test_agent_attention_is_two_softmax_attentions():
    q, k, v = random_heads()
    out = agent_attention(q, k, v, GRID, (2, 3))
    # Adaptive pooling of 5 rows to 2: rows 0..2 and 2..4; 6 columns to 3: pairs.
    rows = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]) / 3
    columns = torch.repeat_interleave(torch.eye(3), 2, dim=1) / 2
    pool = torch.kron(rows, columns).double()
    agents = pool @ q
    to_agents = (q @ agents.mT / 2).softmax(-1)
    from_tokens = (agents @ k.mT / 2).softmax(-1)
    torch.testing.assert_close(out, dense(to_agents @ from_tokens, v))


def test_cosformer_weights_by_the_cosine_of_the_distance():
    q, k, v = random_heads()
    q[0, 1, 7] = -1  # shares no channel with any key
    count = q.shape[-2]
    i = torch.arange(count).double()
    cosine = torch.cos(math.pi / 2 * (i[:, None] - i) / count)
    scores = (q.relu() @ k.relu().mT) * cosine
    sums = scores.sum(-1, keepdim=True)
    expected = dense(scores / sums.masked_fill(sums == 0, 1), v)
    torch.testing.assert_close(cosformer_attention(q, k, v), expected)
    assert not cosformer_attention(q, k, v)[0, 1, 7].any()


def test_flow_attention_by_its_definition():
    q, k, v = random_heads()
    phi_q, phi_k = q.sigmoid(), k.sigmoid()
    flow = phi_q @ phi_k.mT
    incoming, outgoing = flow.sum(-1), flow.sum(-2)
    conserved_incoming = (flow / outgoing[..., None, :]).sum(-1)
    conserved_outgoing = (flow / incoming[..., :, None]).sum(-2)
    competition = conserved_outgoing.softmax(-1) * q.shape[-2]
    weights = conserved_incoming.sigmoid()[..., None] * flow / incoming[..., None]
    expected = dense(weights * competition[..., None, :], v)
    torch.testing.assert_close(flow_attention(q, k, v), expected)


def test_flow_is_conserved():
    """After normalisation by the other side, all flow together is one a token."""
    q, k, _ = random_heads()
    flow = q.sigmoid() @ k.sigmoid().mT
    conserved = (flow / flow.sum(-2, keepdim=True)).sum(-1)
    torch.testing.assert_close(conserved.sum(-1), torch.full((2, 3), 30.0).double())


def test_flow_attention_of_a_token_without_flow():
    """One saturated query or key spoils nobody's result."""
    q, k, v = (x.float().requires_grad_() for x in random_heads())
    with torch.no_grad():
        q[0, 1, 7] = -200
        k[1, 2, 3] = -200
    out = flow_attention(q, k, v)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(x.isfinite().all() for x in (out, *gradients))
    assert not out[0, 1, 7].any() and out[0, 1, 6].any()


@pytest.mark.parametrize("normalise", [False, True])
def test_soft_attention_is_a_nystrom_approximation(normalise):
    """Against distances pair by pair, and LAPACK's inverse."""
    q, _, v = random_heads()
    (landmarks,) = random_heads(1, num_tokens=7)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        differences = a[..., :, None, :] - b[..., None, :, :]
        return torch.exp(-differences.square().sum(-1) / (2 * math.sqrt(4)))

    among = kernel(landmarks, landmarks)
    inverse = torch.linalg.inv(among + RIDGE * torch.eye(7))
    if normalise:
        degrees = among.sum(-1).sqrt()
        inverse = inverse / degrees[..., :, None] / degrees[..., None, :]
    weights = kernel(q, landmarks) @ inverse @ kernel(landmarks, q)
    expected = dense(weights, v)
    out = soft_attention(q, landmarks, v, normalise)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    single = soft_attention(q.float(), landmarks.float(), v.float(), normalise)
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)


def test_soft_attention_with_all_tokens_as_landmarks_is_the_kernel_itself():
    q, _, v = random_heads(num_tokens=6)
    q = 3 * q  # far apart: the ridge is small beside the eigenvalues
    squares = (q[..., :, None, :] - q[..., None, :, :]).square().sum(-1)
    expected = dense(torch.exp(-squares / 4), v)
    out = soft_attention(q, q, v, normalise=False)
    torch.testing.assert_close(out, expected, rtol=0.1, atol=0.1)


def test_gradients_of_the_inverse():
    """The closed form, which no step of the iteration was recorded for."""
    factor = torch.randn(2, 5, 8).double()
    matrix = (factor @ factor.mT / 8 + torch.eye(5)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: NewtonInverse.apply((m + m.mT) / 2, 20), (matrix,)
    )
    # Far from 0, and of a matrix that is not symmetric to begin with.
    inverse = NewtonInverse.apply(matrix, 20)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))


@pytest.mark.parametrize("normalise", [False, True])
def test_gradients_of_soft_attention(normalise):
    q, landmarks, v = (
        torch.randn(1, 2, n, 3).double().requires_grad_() for n in (5, 3, 5)
    )
    assert torch.autograd.gradcheck(
        lambda *inputs: soft_attention(*inputs, normalise), (q, landmarks, v)
    )


@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_newton_has_converged(condition):
    """Eigenvalues down to the ridge of ten landmarks that nearly coincide."""
    eigenvalues = torch.logspace(0, -math.log10(condition), 10).double() * 10
    basis = torch.linalg.qr(torch.randn(10, 10).double()).Q
    matrix = (basis * eigenvalues) @ basis.mT
    inverse = NewtonInverse.apply(matrix[None], 20)[0]
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))


@pytest.mark.parametrize("kind", MIXERS)
def test_in_the_slot_of_the_backbone(kind):
    model = SeTformer(SMALL, attention=dict(type=kind))
    outs = model(torch.randn(2, 3, 50, 37))
    sum(out.square().mean() for out in outs).backward()
    assert [out.shape[2:] for out in outs] == [(13, 10), (7, 5), (4, 3), (2, 2)]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval().switch_to_deploy()
    with torch.no_grad():
        again = model(torch.randn(1, 3, 32, 32))
    assert all(out.isfinite().all() for out in again)


@pytest.mark.parametrize("kind", MIXERS)
def test_number_of_parameters(kind):
    parameters = TOKEN_MIXERS.get(kind)(16, 2).parameters()
    assert sum(parameter.numel() for parameter in parameters) == PARAMETERS[kind]


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(kind, dtype):
    """Large tokens must not overflow sums over all of them."""
    mixer = TOKEN_MIXERS.get(kind)(16, 2)
    x = 30 * torch.randn(1, 20, 20, 16)
    with torch.autocast("cpu", dtype):
        out = mixer(x)
        # Scaled as for float16: RALA's gradients grow with the square of the tokens.
        (out.float().abs().mean() / 256).backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("kind", sorted(set(MIXERS) - {"NoMixing"}))
def test_a_mixer_mixes(kind):
    """Each output depends on each token, and what is called no mixing does not mix.

    64 channels: cosFormer's tokens of few channels may share none that is positive.
    """
    mixer = TOKEN_MIXERS.get(kind)(64, 2).double()
    x = torch.randn(1, 4, 4, 64).double().requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[0, 0, 0].square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()
    control = TOKEN_MIXERS.get("NoMixing")(64, 2).double()
    (gradient,) = torch.autograd.grad(control(x)[0, 0, 0].square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).sum() == 1


@pytest.mark.parametrize(
    "kind",
    ["Softmax", "Agent", "CosFormer", "Flow", "Nystrom", "Pivot", "RankAugmented"]
    + ["Sinkhorn", "Window"],
)
def test_one_projection_is_query_key_and_value(kind):
    """As three equal ones compute, at a third of their parameters."""
    mixer = TOKEN_MIXERS.get(f"{kind}Attention")
    one, three = (m.double() for m in (mixer(8, 2, one_projection=True), mixer(8, 2)))
    assert one.qkv_proj.weight.shape == (8, 8)
    assert len(one.state_dict()) == len(three.state_dict())
    state = one.state_dict()
    for name in ("qkv_proj.weight", "qkv_proj.bias"):
        state[name] = torch.cat([state[name]] * 3)
    three.load_state_dict(state)
    x = torch.randn(2, *GRID, 8, dtype=torch.float64)
    torch.testing.assert_close(one(x), three(x))
    one(x).square().sum().backward()
    three(x).square().sum().backward()
    gradients = three.qkv_proj.weight.grad.unflatten(0, (3, 8))
    torch.testing.assert_close(one.qkv_proj.weight.grad, gradients.sum(0))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            "Nystrom",
            dict(num_landmarks=0),
            "num_landmarks must be a positive integer, got 0",
        ),
        ("Nystrom", dict(num_landmarks=2.5), "positive integer, got 2.5"),
        ("Softmax", dict(one_projection="False"), "one_projection must be True or F"),
        ("SOFT", dict(normalise=1), "normalise must be True or False, got 1"),
        ("SeT", dict(return_references="no"), "must be True or False, got 'no'"),
        ("Nystrom", dict(kernel_size=4), "kernel_size must be odd .* got 4"),
        ("Pivot", dict(num_pivots=0), "num_pivots must be a positive integer, got 0"),
        ("Pivot", dict(epsilon=0.0), "epsilon must be positive, got 0.0"),
        (
            "Window",
            dict(window_size=0),
            "window_size must be a positive integer, got 0",
        ),
    ],
)
def test_fields_that_mean_nothing(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        TOKEN_MIXERS.get(f"{kind}Attention")(8, 2, **fields)


def test_landmarks_of_a_grid_that_the_stride_does_not_divide():
    mixer = TOKEN_MIXERS.get("SOFTAttention")(8, 2, landmark_stride=4)
    q = torch.randn(2, 2, 15, 4)
    landmarks = mixer.landmarks(q, (3, 5))
    assert landmarks.shape == (2, 2, 2, 4)
    maps = q.mT.reshape(4, 4, 3, 5)
    padded = F.pad(maps, (0, 3, 0, 1))
    expected = F.conv2d(padded, mixer.landmark_conv.weight, stride=4)
    expected = F.gelu(mixer.landmark_norm(expected.flatten(2).mT)).view(2, 2, 2, 4)
    torch.testing.assert_close(landmarks, expected)


def test_a_users_own_mixer():
    @TOKEN_MIXERS.register_module(force=True)
    class Doubling(TOKEN_MIXERS.get("NoMixing")):
        def __init__(self, embed_dims: int, num_heads: int, factor: float) -> None:
            super().__init__(embed_dims, num_heads)
            self.factor = factor

    try:
        fields = dict(type="Doubling", factor=(1, 2, 3, 4))
        model = SeTformer(SMALL, attention=fields)
        factors = [stage.blocks[0].attn.factor for stage in model.stages]
        assert factors == [1, 2, 3, 4]
    finally:
        TOKEN_MIXERS.module_dict.pop("Doubling")


def test_a_name_is_not_taken_twice_unasked():
    with pytest.raises(KeyError, match="there is a token mixer NoMixing already"):
        TOKEN_MIXERS.register_module()(TOKEN_MIXERS.get("NoMixing"))
