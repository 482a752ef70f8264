"""Flow-Attention: linear attention that conserves what flows in and out of a token."""

from torch import Tensor

from ...ops.autocast import without_autocast
from ..token_mixer import (
    TOKEN_MIXERS,
    QueryKeyValueMixer,
    at_least_float32,
    divisors,
    softmax_of_tokens,
    valid_tokens,
)

# Of a flow: sigmoids underflow, and a token without any would divide 0 by 0.
LEAST_FLOW = 1e-6


def flow_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Competition among values, aggregation, allocation to queries.

    With ``q, k`` passed through a sigmoid: incoming flow ``I_i = <q_i, sum_j k_j>``,
    outgoing ``O_j = <k_j, sum_i q_i>``; conserved ``I'_i = <q_i, sum_j k_j / O_j>``,
    ``O'_j = <k_j, sum_i q_i / I_i>``; the result of token ``i`` is

        sigmoid(I'_i) / I_i  q_i^T  sum_j k_j (N softmax(O')_j v_j)^T

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        lengths (Tensor, optional): Tokens of each sequence that count, of shape
            ``(B,)``; None if all do.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    q, k = q.sigmoid(), k.sigmoid()
    valid, count = None, q.shape[-2]
    if lengths is not None:
        valid, count = valid_tokens(lengths, count), divisors(lengths)
        q, k = q.where(valid, 0), k.where(valid, 0)
    incoming = (q @ k.sum(-2, keepdim=True).mT).clamp(min=LEAST_FLOW)
    outgoing = (k @ q.sum(-2, keepdim=True).mT).clamp(min=LEAST_FLOW)
    conserved_incoming = q @ (k / outgoing).sum(-2, keepdim=True).mT
    conserved_outgoing = k @ (q / incoming).sum(-2, keepdim=True).mT
    competition = count * softmax_of_tokens(conserved_outgoing, valid)
    aggregated = (q / incoming) @ (k.mT @ (competition * v))
    return conserved_incoming.sigmoid() * aggregated


@TOKEN_MIXERS.register_module()
class FlowAttention(QueryKeyValueMixer):
    """Linear attention under conservation of flow.

    "Flowformer: Linearizing Transformers with Conservation Flows", arXiv 2202.06258,
    as in its authors' code for images: no causal mask, and a factor ``N`` of the
    competition, which keeps the mean weight at 1. Left out is their bound on ``O'``,
    which is 1 in the mean: to [-5, 5] there, to [-1, 1] in their code for sequences.
    Flows have a least value here; their code adds as much to each of them.
    """

    handles_lengths = True

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spatial_shape: tuple[int, int],
        lengths: Tensor | None = None,
    ) -> Tensor:
        with without_autocast(q):
            return flow_attention(*at_least_float32(q, k, v), lengths).to(q.dtype)
