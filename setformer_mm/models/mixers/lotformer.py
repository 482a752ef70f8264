"""LOTFormer: transport from queries to keys by way of a small learnt measure."""

import math

import torch
from torch import Tensor, nn

from ...ops.autocast import without_autocast
from ..token_mixer import (
    TOKEN_MIXERS,
    QueryKeyValueMixer,
    at_least_float32,
    require_positive_integer,
)
from .sinkhorn import require_odd, transport_plan


def pivot_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pivots: Tensor,
    log_masses: Tensor,
    epsilon: float,
    num_steps: int,
) -> Tensor:
    """``O = N P diag(1/m) R V``: two entropic plans, glued at the pivots.

    ``P`` takes uniform queries, ``1/N`` each, to pivots of masses ``m``, ``R`` takes
    these to uniform keys. The whole matrix has rank ``r`` and would with converged
    plans be doubly stochastic.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        pivots (Tensor): Of shape ``(h, r, D)``.
        log_masses (Tensor): Logarithms of ``m``, of sum 1, of shape ``(h, r)``.
        epsilon (float): Entropic regularisation of the cost ``-<., .> / sqrt(D)``.
        num_steps (int): Scalings of each plan, odd: rows of ``N P`` sum to 1.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    count = q.shape[-2]
    # Not of a number: math.log closes a graph over this many tokens.
    log_share = -q.new_ones(count).sum().log()
    temperature = epsilon * math.sqrt(q.shape[-1])
    rows, columns = log_masses[..., :, None], log_masses[..., None, :]
    to_pivots = transport_plan(
        q @ pivots.mT / temperature, log_share, columns, num_steps
    )
    to_keys = transport_plan(pivots @ k.mT / temperature, rows, log_share, num_steps)
    return count * to_pivots @ (to_keys / rows.exp() @ v)


@TOKEN_MIXERS.register_module()
class PivotAttention(QueryKeyValueMixer):
    """Doubly stochastic linear attention through a learnable pivot measure.

    "LOTFormer: Doubly-Stochastic Linear Attention via Low-Rank Optimal Transport",
    arXiv 2509.23436: the coupling of queries and keys that is glued from two entropic
    plans, queries to pivot and pivot to keys. Points and masses of the pivot are learnt
    for each head. Cost, regularisation and the number of scalings are those of the
    authors' code for DeiT; its depthwise convolution of values and the position
    embedding of keys are left out: they would not be the mixer's own.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        num_pivots (int): ``r``, points of the pivot measure.
        epsilon (float): Entropic regularisation.
        num_steps (int): Scalings of each plan, odd.
        one_projection (bool): See :class:`QueryKeyValueMixer`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_pivots: int = 32,
        epsilon: float = 1.0,
        num_steps: int = 5,
        one_projection: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        require_odd(num_steps)
        require_positive_integer(num_pivots=num_pivots)
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        head_dim = embed_dims // num_heads
        self.epsilon, self.num_steps = epsilon, num_steps
        self.pivots = nn.Parameter(torch.empty(num_heads, num_pivots, head_dim))
        self.mass_logits = nn.Parameter(torch.empty(num_heads, num_pivots))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw pivots anew, of equal masses."""
        nn.init.normal_(self.pivots, std=1 / math.sqrt(self.pivots.shape[-1]))
        nn.init.zeros_(self.mass_logits)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        with without_autocast(q):
            tensors = at_least_float32(q, k, v, self.pivots, self.mass_logits)
            *tensors, logits = tensors
            log_masses = logits.log_softmax(-1)
            out = pivot_attention(*tensors, log_masses, self.epsilon, self.num_steps)
        return out.to(q.dtype)

    def extra_repr(self) -> str:
        fields = f"epsilon={self.epsilon}, num_steps={self.num_steps}"
        return f"{fields}, {super().extra_repr()}"
