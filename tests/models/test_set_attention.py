"""The attention module against the operator; its cached fold is never stale."""

import copy
import io

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from setformer_mm.models import SeTAttention
from setformer_mm.models import set_attention as module
from setformer_mm.ops import NonFiniteError, set_attention
from setformer_mm.utils.errors import UserError

FIELDS = dict(
    reference_shape=(2, 3), epsilon=0.2, num_iters=2, alpha=1.5, tau=0.3, backend="auto"
)
PARAMETERS = "anchors", "references", "return_references"


def build(**fields) -> SeTAttention:
    return SeTAttention(8, 2, **FIELDS, **fields)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 4, 8)


def without_cache(attention: SeTAttention, x: torch.Tensor) -> torch.Tensor:
    """What the parameters as they are now give, by the operator."""
    batch, height, width, channels = x.shape
    fields = {k: getattr(attention, k) for k in FIELDS}
    if attention.centred:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        x = (wide - wide.mean((1, 2), keepdim=True)).to(x.dtype)
    out = set_attention(
        attention.in_proj(x).reshape(batch, height * width, 2, 4),
        *(getattr(attention, name) for name in PARAMETERS),
        spatial_shape=(height, width),
        **fields,
    )
    return attention.out_proj(out.reshape(x.shape))


@pytest.fixture
def folds(monkeypatch) -> list:
    """One entry for every call of ``fold``."""
    calls = []
    original = module.fold

    def record(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(module, "fold", record)
    return calls


def test_fields_reach_the_operator():
    attention = build()
    for name, value in FIELDS.items():
        assert getattr(attention, name) == value
    x = images()
    assert torch.equal(attention(x), without_cache(attention, x))
    for name, other in dict(epsilon=0.5, num_iters=0, alpha=3.0, tau=None).items():
        changed = copy.deepcopy(attention)
        setattr(changed, name, other)
        assert torch.equal(changed(x), without_cache(changed, x))
        assert not torch.allclose(changed(x), attention(x))
    attention.backend = "tpu"
    with pytest.raises(ValueError, match="backend"):
        attention(x)


def test_what_all_tokens_have_in_common_does_not_matter():
    attention, as_they_are = build(), build(centred=False)
    as_they_are.load_state_dict(
        attention.state_dict() | {"_extra_state": as_they_are.get_extra_state()}
    )
    x, offset = images().double(), torch.randn(2, 1, 1, 8).double()
    attention.double(), as_they_are.double()
    torch.testing.assert_close(attention(x), attention(x + offset))
    assert not torch.allclose(as_they_are(x), as_they_are(x + offset))
    centred = x - x.mean((1, 2), keepdim=True)
    torch.testing.assert_close(attention(x), as_they_are(centred))
    alike = offset.expand(-1, 3, 4, -1).clone().requires_grad_()
    out = attention(alike)
    torch.testing.assert_close(out, attention(torch.zeros_like(alike)))
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


def test_the_mean_is_of_valid_tokens():
    attention = build().double()
    x = images().double()
    valid_shape = torch.tensor([[2, 3], [3, 4]])
    out = attention(x, valid_shape=valid_shape)
    for image, (rows, columns) in enumerate(valid_shape.tolist()):
        alone = attention(x[image : image + 1, :rows, :columns])
        torch.testing.assert_close(out[image : image + 1, :rows, :columns], alone)


def test_centred_is_a_truth_value():
    with pytest.raises(ValueError, match="centred must be True or False, got 'no'"):
        build(centred="no")


def test_weights_say_whether_tokens_are_centred():
    attention, as_they_are = build(), build(centred=False)
    for source, target in ((attention, as_they_are), (as_they_are, attention)):
        rule = f"attention must have centred={source.centred}.*give attention=dict"
        for kind in (ValueError, UserError):  # of which tools show a sentence alone
            with pytest.raises(kind, match=rule):
                target.load_state_dict(source.state_dict())
    # As it was before they could be, and before the grid was stored.
    grid_alone = {"_extra_state": torch.tensor([2, 3])}
    for old in (as_they_are.state_dict() | grid_alone, without_grid(as_they_are)):
        as_they_are.load_state_dict(old)
        with pytest.raises(ValueError, match="attention must have centred=False"):
            attention.load_state_dict(old)
    # A part that has nothing to do with it.
    part = {"out_proj.bias": torch.ones(8)}
    attention.load_state_dict(part, strict=False)
    assert torch.equal(attention.out_proj.bias, torch.ones(8))
    odd = attention.state_dict() | {"_extra_state": torch.tensor([[2, 3], [0, 1]])}
    with pytest.raises(ValueError, match=r"a grid over ones or zeros, got \[\[2, 3\]"):
        attention.load_state_dict(odd)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_long_mean_costs_no_precision(dtype):
    attention = build()
    near = (0.3 * images()).to(dtype)
    far = near + 30 * torch.randn(1, 1, 1, 8).sign().to(dtype)  # rounded here
    expected = attention(far.float())
    out = attention.to(dtype)(far).float()
    assert (out - expected).norm() < 0.01 * expected.norm()


def test_parameters_start_on_the_sphere():
    attention = SeTAttention(24, 3, reference_shape=(3, 5))
    assert attention.anchors.shape == (3, 8, 8)
    assert attention.references.shape == (3, 15, 8)
    assert attention.return_references.shape == (3, 15, 8)
    for name in PARAMETERS:
        parameter = getattr(attention, name)
        torch.testing.assert_close(
            parameter.norm(dim=-1), torch.ones(parameter.shape[:2])
        )


def test_ways_have_references_of_their_own():
    attention = build()
    assert not torch.equal(attention.references, attention.return_references)
    assert not torch.allclose(*attention.folded().score_maps.chunk(2, -1))
    attention(images()).square().sum().backward()
    for name in PARAMETERS:
        assert getattr(attention, name).grad.norm() > 0, name


@pytest.mark.parametrize("training", [True, False])
def test_one_set_of_references_both_ways(training):
    one, two = build(return_references=False), build()
    assert one.return_references is None
    assert "return_references" not in one.state_dict()
    one.train(training), two.train(training)
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    assert missing == ["return_references"] and not unexpected
    with torch.no_grad():
        two.return_references.copy_(two.references)
        x = images()
        assert torch.equal(one(x), without_cache(one, x))
        for folded in SeTAttention.prepare([one, build(return_references=False)]):
            assert torch.equal(*folded.score_maps.chunk(2, -1))
    torch.testing.assert_close(one(x), two(x))


def test_channels_have_to_divide_among_the_heads():
    with pytest.raises(ValueError, match="divisible by num_heads, got 10 and 4"):
        SeTAttention(10, 4)


def test_memory_format_does_not_matter():
    attention = build()
    x = images()
    expected = attention(x)
    permuted = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not permuted.is_contiguous()
    torch.testing.assert_close(attention(permuted), expected)
    torch.testing.assert_close(
        attention(x[::2, :, ::2]), attention(x[::2, :, ::2].clone())
    )


def test_empty_batch():
    attention = build()
    x = torch.randn(0, 3, 4, 8, requires_grad=True)
    attention(x).sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_module_of_another_dtype(dtype):
    attention = build()
    x = images()
    expected = attention(x)
    attention = attention.to(dtype).eval()
    with torch.no_grad():
        for _ in range(2):
            out = attention(x.to(dtype))
            assert out.dtype == dtype
            torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)


def test_fold_is_computed_once_in_evaluation(folds):
    attention = build().eval()
    x = images()
    with torch.no_grad():
        first = attention(x)
        assert torch.equal(attention(x), first)
        assert len(folds) == 1
        assert torch.equal(first, without_cache(attention, x))


def test_fold_is_computed_every_time_for_gradients_and_in_training(folds):
    x = images()
    for mode in (True, False):
        attention = build().train(mode)
        for _ in range(2):
            attention(x).sum().backward()
        assert attention.anchors.grad.norm() > 0
    with torch.no_grad():
        attention.train()
        for _ in range(2):
            attention(x)
    assert len(folds) == 6
    assert attention._cached_fold is None


def replace_parameter(attention: SeTAttention) -> None:
    attention.references = nn.Parameter(torch.randn_like(attention.references))


def replace_return_references(attention: SeTAttention) -> None:
    attention.return_references = nn.Parameter(torch.randn(2, 6, 4))


def drop_return_references(attention: SeTAttention) -> None:
    attention.return_references = None


def copy_without_gradient(attention: SeTAttention) -> None:
    with torch.no_grad():
        attention.references.copy_(torch.randn_like(attention.references))


def step(attention: SeTAttention) -> None:
    optimizer = torch.optim.SGD([attention.anchors], lr=1.0)
    attention.anchors.grad = torch.randn_like(attention.anchors)
    optimizer.step()


def change_alpha(attention: SeTAttention) -> None:
    attention.alpha = 4.0


CHANGES = {
    "load_state_dict": lambda a: a.load_state_dict(build().state_dict()),
    "load through a parent": lambda a: nn.Sequential(a).load_state_dict(
        nn.Sequential(build()).state_dict()
    ),
    "assigning load": lambda a: a.load_state_dict(build().state_dict(), assign=True),
    "copy_ under no_grad": copy_without_gradient,
    "anchors.data.copy_": lambda a: a.anchors.data.copy_(torch.randn(2, 4, 4)),
    "references.data.copy_": lambda a: a.references.data.copy_(torch.randn(2, 6, 4)),
    "return_references.data.copy_": lambda a: a.return_references.data.copy_(
        torch.randn(2, 6, 4)
    ),
    "data set": lambda a: setattr(a.anchors, "data", torch.randn(2, 4, 4)),
    "optimiser step": step,
    "replaced parameter": replace_parameter,
    "replaced return_references": replace_return_references,
    "no return_references": drop_return_references,
    "alpha": change_alpha,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_fold_follows_every_change_of_its_parameters(change):
    attention = build().eval()
    x = images()
    with torch.no_grad():
        before = attention(x)
    change(attention)
    with torch.no_grad():
        after = attention(x)
        assert torch.equal(after, without_cache(attention, x))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("change", [c for c in CHANGES if "data.copy_" not in c])
def test_fold_follows_without_comparing_values(change):
    """As on an accelerator, where every change but those through ``.data`` is seen."""
    attention = build().eval()
    x = images()
    with torch.no_grad():
        before = attention(x)
    attention._cached_fold._values = [None] * len(PARAMETERS)
    CHANGES[change](attention)
    with torch.no_grad():
        after = attention(x)
        assert torch.equal(after, without_cache(attention, x))
    assert not torch.equal(after, before)


DROPS = {
    "train": lambda a: a.train(),
    "eval": lambda a: a.eval(),
    "to": lambda a: a.to(torch.float64),
    "cast of a parent": lambda a: nn.Sequential(a).double(),
    "load_state_dict": lambda a: a.load_state_dict(build().state_dict()),
    "drop_fold": lambda a: a.drop_fold(),
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_fold_is_dropped(drop):
    """Where values cannot be compared cheaply, on a GPU, this alone keeps it fresh."""
    attention = build().eval()
    with torch.no_grad():
        attention(images())
    assert attention._cached_fold is not None
    drop(attention)
    assert attention._cached_fold is None


def test_deployed_fold_serves_every_mode():
    attention = build().eval()
    x = images()
    with torch.no_grad():
        expected = attention(x)
    attention.switch_to_deploy()
    assert torch.equal(attention(x), expected)
    with torch.no_grad():
        assert torch.equal(attention(x), expected)
        attention.anchors.mul_(torch.rand_like(attention.anchors))
        assert torch.equal(attention(x), expected)
    assert not torch.equal(without_cache(attention, x), expected)


def test_deployed_fold_moves_with_the_parameters_in_full_precision():
    attention = build().eval()
    attention.switch_to_deploy()
    attention.to(torch.bfloat16)
    assert all(m.dtype == torch.float64 for m in attention.folded()[:3])
    x = images().bfloat16()
    assert torch.equal(attention(x), without_cache(attention, x))


def test_gradients_after_deploying_in_inference_mode():
    attention = build().eval()
    with torch.inference_mode():
        attention.switch_to_deploy()
    x = images().requires_grad_()
    attention(x).sum().backward()
    assert x.grad.isfinite().all() and attention.in_proj.weight.grad.isfinite().all()


@pytest.mark.parametrize("undo", ["train", "load_state_dict"])
def test_deployed_fold_is_undone(undo):
    attention = build().eval()
    attention.switch_to_deploy()
    DROPS[undo](attention)
    attention.eval()
    copy_without_gradient(attention)
    x = images()
    assert torch.equal(attention(x), without_cache(attention, x))


def test_blocks_fold_together_as_they_do_alone(folds):
    attentions = [build() for _ in range(3)]
    together = SeTAttention.prepare(attentions)
    assert len(folds) == 1
    for attention, folded in zip(attentions, together):
        alone = attention.folded()
        assert folded.alpha == alone.alpha
        parameters = attention.folding_parameters()
        for a, b in zip(folded[:3], alone[:3]):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            weight = torch.randn_like(a)
            for p, q in zip(
                torch.autograd.grad(a, parameters, weight, True, allow_unused=True),
                torch.autograd.grad(b, parameters, weight, True, allow_unused=True),
            ):
                assert (p is None) == (q is None)
                if p is not None:
                    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_blocks_of_different_kinds_fold_each_for_itself():
    """A field that was changed by hand in one block holds for that block."""
    attentions = [build() for _ in range(4)]
    attentions[1].alpha = 4.0
    attentions[2].return_references = None
    attentions[3].double()
    for attention, folded in zip(attentions, SeTAttention.prepare(attentions)):
        alone = attention.folded()
        assert folded.alpha == attention.alpha
        for a, b in zip(folded[:3], alone[:3]):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_block_that_is_not_finite_is_named():
    attentions = [build() for _ in range(3)]
    with torch.no_grad():
        attentions[1].references[1, 2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="^references of block 1 .* in head 1$"):
        SeTAttention.prepare(attentions)
    with pytest.raises(NonFiniteError, match="^references must .* in head 1$"):
        attentions[1].eval()(images())


def test_blocks_take_their_caches_in_evaluation(folds):
    attentions = [build().eval() for _ in range(3)]
    with torch.no_grad():
        first = SeTAttention.prepare(attentions)
        assert len(folds) == 3
        for a, b in zip(SeTAttention.prepare(attentions), first):
            assert a is b
    assert len(folds) == 3


def test_train_and_eval_return_self():
    attention = build()
    assert attention.train() is attention
    assert attention.eval() is attention


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_copies_do_not_share_the_fold(mode):
    attention = build().eval()
    x = images()
    with mode():
        expected = attention(x)
    duplicate = copy.deepcopy(attention)
    buffer = io.BytesIO()
    torch.save(attention, buffer)
    buffer.seek(0)
    stored = torch.load(buffer, weights_only=False)
    duplicate.references.data.normal_()
    with torch.no_grad():
        assert torch.equal(duplicate(x), without_cache(duplicate, x))
        assert torch.equal(attention(x), expected)
        assert torch.equal(stored(x), expected)


def test_state_dict_holds_parameters_and_the_grid():
    attention = build().eval()
    names = set(attention.state_dict())
    with torch.no_grad():
        attention(images())
    assert (
        set(attention.state_dict())
        == names
        == dict(attention.named_parameters()).keys() | {"_extra_state"}
    )
    assert attention.state_dict()["_extra_state"].tolist() == [[2, 3], [1, 1]]


def test_training_after_inference_mode():
    attention = build().eval()
    x = images()
    with torch.inference_mode():
        expected = attention(x)
    with torch.no_grad():
        assert torch.equal(attention(x), expected)
    for mode in (False, True):
        attention.train(mode)(x).sum().backward()
        assert attention.references.grad.isfinite().all()


def test_module_made_in_inference_mode(folds):
    """Its parameters have no version counters."""
    with torch.inference_mode():
        attention = build().eval()
        x = images()
        for _ in range(2):
            attention(x)
        assert len(folds) == 1
        attention.references.normal_()
        assert torch.equal(attention(x), without_cache(attention, x))


class Regressor(BaseModel):
    """Notes, for every validation batch, the result and what it should have been."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = build()
        self.predictions = []

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = torch.stack(list(inputs))
        out = self.attention(x)
        if mode == "loss":
            return dict(loss=out.square().mean())
        self.predictions.append((out, without_cache(self.attention, x)))
        return list(out)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(nothing=0)


def test_weights_that_the_ema_hook_swaps_in_are_used(tmp_path, folds):
    """mmengine swaps through ``.data``, which version counters do not see."""
    samples = [dict(inputs=torch.randn(3, 4, 8)) for _ in range(4)]
    loader = dict(
        dataset=samples,
        batch_size=2,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    model = Regressor()
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=Evaluator(Nothing(prefix="")),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=5.0)),
        custom_hooks=[dict(type="EMAHook", momentum=0.3)],
        default_hooks=dict(checkpoint=None),
        experiment_name=f"ema_{tmp_path.name}",
        log_level="ERROR",
    )
    runner.train()
    results = model.predictions
    assert len(results) == 6
    assert all(torch.equal(out, expected) for out, expected in results)
    assert not torch.allclose(results[0][0], results[2][0]), "nothing was trained"
    # 6 training steps, and one fold for each of the 3 validations of 2 batches.
    assert len(folds) == 9


@pytest.mark.parametrize("name", ["references", "return_references"])
def test_references_of_another_grid_are_resampled(name, monkeypatch):
    messages = []
    monkeypatch.setattr(module, "print_log", lambda m, **_: messages.append(m))
    source = SeTAttention(8, 2, reference_shape=(4, 4))
    rows = torch.arange(4.0).repeat_interleave(4)
    cols = torch.arange(4.0).repeat(4)
    with torch.no_grad():  # each channel varies along one axis, linearly
        getattr(source, name).copy_(
            torch.stack([rows, cols, 5 - rows, 0 * rows + 1], -1)
        )
    state = source.state_dict()
    target = SeTAttention(8, 2, reference_shape=(2, 3))
    target.load_state_dict(state)
    assert messages == ["references resampled from 4x4 to 2x3"]
    assert state[name].shape == (2, 16, 4), "the caller's weights were changed"
    row, col, reversed_row, one = (
        getattr(target, name).detach().unflatten(1, (2, 3)).unbind(-1)
    )
    # Cell centres of 2 rows and 3 columns, in units of 4 of them.
    torch.testing.assert_close(row, torch.tensor([[0.5], [2.5]]).expand(2, 2, 3))
    torch.testing.assert_close(reversed_row, 5 - row)
    torch.testing.assert_close(one, torch.ones(2, 2, 3))
    expected = torch.tensor([1 / 6, 1.5, 17 / 6])
    torch.testing.assert_close(col, expected.expand(2, 2, 3))


def test_resampling_keeps_the_dtype_of_the_checkpoint():
    state = SeTAttention(8, 2, reference_shape=(3, 3)).bfloat16().state_dict()
    target = build().bfloat16()
    target.load_state_dict(state)
    assert target.references.dtype == torch.bfloat16
    assert target.return_references.dtype == torch.bfloat16


def test_another_thread_may_drop_the_fold_at_any_moment(monkeypatch):
    attention = build().eval()
    is_valid = module._CachedFold.is_valid

    def is_valid_and_gone(self, of):
        of.drop_fold()
        return is_valid(self, of)

    monkeypatch.setattr(module._CachedFold, "is_valid", is_valid_and_gone)
    with torch.no_grad():
        first = attention.folded()
        assert attention.folded() is first


def test_references_of_the_same_grid_are_loaded_as_they_are():
    source, target = build(), build()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.references, source.references)
    assert torch.equal(target.return_references, source.return_references)


@pytest.mark.parametrize("grid", [(2, 3), (3, 3)])
def test_return_references_that_one_side_lacks_are_reported_as_usual(grid):
    both = SeTAttention(8, 2, grid)
    one = SeTAttention(8, 2, grid, return_references=False)
    with pytest.raises(RuntimeError, match=r'Unexpected .*"return_references"'):
        build(return_references=False).load_state_dict(both.state_dict())
    target = build()
    before = target.return_references.clone()
    with pytest.raises(RuntimeError, match=r'Missing .*"return_references"'):
        target.load_state_dict(one.state_dict())
    assert torch.equal(target.return_references, before)


def without_grid(attention: SeTAttention) -> dict[str, torch.Tensor]:
    """Weights as they were stored before the grid was."""
    return {k: v for k, v in attention.state_dict().items() if "extra" not in k}


def linear_references(attention: SeTAttention) -> SeTAttention:
    """Let each channel vary along the rows, the columns, or not at all."""
    height, width = attention.reference_shape
    rows = (torch.arange(height) + 0.5).div(height).repeat_interleave(width)
    cols = (torch.arange(width) + 0.5).div(width).repeat(height)
    with torch.no_grad():
        for references in attention.folding_parameters()[1:]:
            references.copy_(torch.stack([rows, cols, rows - cols, 0 * rows + 1], -1))
    return attention


@pytest.mark.parametrize(
    ("source", "target"), [((2, 8), (4, 4)), ((2, 8), (4, 8)), ((3, 5), (2, 3))]
)
def test_grids_of_any_shape_are_resampled_by_their_shape(source, target, monkeypatch):
    messages = []
    monkeypatch.setattr(module, "print_log", lambda m, **_: messages.append(m))
    source = linear_references(SeTAttention(8, 2, reference_shape=source))
    target = SeTAttention(8, 2, reference_shape=target)
    nn.ModuleDict(dict(attn=target)).load_state_dict(
        nn.ModuleDict(dict(attn=source)).state_dict()
    )
    shapes = [*source.reference_shape, *target.reference_shape]
    assert messages == ["attn.references resampled from {}x{} to {}x{}".format(*shapes)]
    expected = linear_references(copy.deepcopy(target))
    for name in ("references", "return_references"):
        grid = getattr(source, name).unflatten(1, source.reference_shape)
        grid = nn.functional.interpolate(
            grid.permute(0, 3, 1, 2), target.reference_shape, mode="bilinear"
        )
        loaded = getattr(target, name)
        assert torch.equal(loaded, grid.permute(0, 2, 3, 1).flatten(1, 2))
        # Linear functions of the place stay so away from the margin, which repeats.
        inner = (loaded - getattr(expected, name)).abs() < 1e-6
        assert inner[..., 3].all() and inner.float().mean() > 0.4


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 6)])
def test_weights_without_a_grid_lie_on_the_models_own(grid, monkeypatch):
    messages = []
    monkeypatch.setattr(module, "print_log", lambda m, **_: messages.append(m))
    source, target = (
        SeTAttention(8, 2, shape, centred=False) for shape in ((2, 3), grid)
    )
    assert target.load_state_dict(without_grid(source)) == ([], [])
    assert torch.equal(target.references, source.references)
    assert torch.equal(target.return_references, source.return_references)
    assert not messages


def test_weights_without_a_grid_lie_on_a_square_one_of_another_size():
    source, target, same = (
        SeTAttention(8, 2, shape, centred=False) for shape in ((3, 3), (2, 3), (2, 3))
    )
    target.load_state_dict(without_grid(source))
    same.load_state_dict(source.state_dict())
    assert torch.equal(target.references, same.references)


def test_the_grid_survives_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    source, target, same = (
        SeTAttention(8, 2, grid) for grid in ((2, 8), (4, 4), (4, 4))
    )
    safetensors.save_file(source.state_dict(), tmp_path / "weights.safetensors")
    target.load_state_dict(safetensors.load_file(tmp_path / "weights.safetensors"))
    same.load_state_dict(source.state_dict())
    assert torch.equal(target.references, same.references)
    assert not torch.equal(target.references, source.references)


def test_references_that_are_no_grid_are_reported_as_usual():
    state = build().state_dict()
    for shape in ((), (2,), (2, 6, 4, 1)):
        state["references"] = torch.ones(shape)
        with pytest.raises(RuntimeError, match="size mismatch for references"):
            build().load_state_dict(state)


def test_references_that_cannot_be_resampled_are_an_error():
    state = without_grid(SeTAttention(8, 2, reference_shape=(3, 5)))
    with pytest.raises(ValueError, match=r"square grid .*\(2, 3\), got 15 references"):
        build(centred=False).load_state_dict(state)
    for grid in ([4, 4], [-3, -5], [15], [1, 3, 5]):
        state["_extra_state"] = torch.tensor([grid, [1] * len(grid)])
        with pytest.raises(ValueError, match=r"the grid \(.*\(2, 3\), got 15 refer"):
            build().load_state_dict(state)
    state = SeTAttention(8, 4, reference_shape=(3, 3)).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        build().load_state_dict(state)


def test_printed_form_names_the_fields():
    fields = "reference_shape=(2, 3)", "epsilon=0.2", "tau=0.3", "backend='auto'"
    for field in (*fields, "centred=False"):
        assert field in repr(build(centred=False))
    assert "return_references=True" in repr(build())
    assert "return_references=False" in repr(build(return_references=False))
