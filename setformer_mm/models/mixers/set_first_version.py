"""SeT attention in its first version, to tell what the second one is worth."""

from torch import Tensor

from ...ops import Folded
from ...ops.autocast import without_autocast
from ...ops.positions import position_exponents
from ...ops.reference import add_over_grid, compute_dtype, kernel_features, log_plan
from ..set_attention import SeTAttention
from ..token_mixer import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class FirstSeTAttention(SeTAttention):
    """The least that the paper's words ask for, which this project had at first.

    Four things are not as in :class:`SeTAttention`. Tokens are not centred. A value is
    ``|x| v(x)`` as it is, most of which all tokens have in common. One set of
    references, and so one transport plan, serves both ways. The defaults are a soft
    plan, ``epsilon=0.1``, after three iterations, and narrow position weights,
    ``tau=0.15``. In plain PyTorch, for pictures, whose padding takes part.

    Args:
        embed_dims (int): See :class:`SeTAttention`, as for all arguments.
        num_heads (int): Likewise.
        reference_shape (tuple[int, int]): Likewise.
        epsilon (float): Likewise.
        num_iters (int): Likewise.
        alpha (float): Likewise.
        tau (float, optional): Likewise.
    """

    handles_padding = False
    handles_lengths = False
    is_two_dimensional = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reference_shape: tuple[int, int] = (4, 4),
        epsilon: float = 0.1,
        num_iters: int = 3,
        alpha: float = 2.0,
        tau: float | None = 0.15,
    ) -> None:
        fields = dict(epsilon=epsilon, num_iters=num_iters, alpha=alpha, tau=tau)
        first = dict(return_references=False, centred=False)
        super().__init__(embed_dims, num_heads, reference_shape, **first, **fields)

    def attend(
        self,
        tokens: Tensor,
        folded: Folded,
        spatial_shape: tuple[int, int],
        valid_shape: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(tokens):
            folded = folded.to(compute_dtype(tokens))
            features, lengths = kernel_features(tokens, folded)
            scores = features @ folded.score_maps.chunk(2, -1)[0]
            log_weights = log_plan(scores, self.epsilon, self.num_iters)
            if self.tau is not None:
                geometry = spatial_shape, self.reference_shape, *scores.shape[-2:]
                factors = position_exponents(*geometry, self.tau, like=features)
                log_weights = add_over_grid(log_weights, *factors)
            aggregates = log_weights.mT.softmax(-1) @ (lengths * features)
            out = log_weights.softmax(-1) @ (aggregates @ folded.value_map)
        return out.transpose(1, 2).to(tokens.dtype)
