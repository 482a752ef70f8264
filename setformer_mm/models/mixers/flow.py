"""Flow-Attention: linear attention that conserves what flows in and out of a token."""

from torch import Tensor

from ...ops.autocast import without_autocast
from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer, at_least_float32

# Of a flow: sigmoids underflow, and a token without any would divide 0 by 0.
LEAST_FLOW = 1e-6


def flow_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Competition among values, aggregation, allocation to queries.

    With ``q, k`` passed through a sigmoid: incoming flow ``I_i = <q_i, sum_j k_j>``,
    outgoing ``O_j = <k_j, sum_i q_i>``; conserved ``I'_i = <q_i, sum_j k_j / O_j>``,
    ``O'_j = <k_j, sum_i q_i / I_i>``; the result of token ``i`` is

        sigmoid(I'_i) / I_i  q_i^T  sum_j k_j (N softmax(O')_j v_j)^T

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    q, k = q.sigmoid(), k.sigmoid()
    incoming = (q @ k.sum(-2, keepdim=True).mT).clamp(min=LEAST_FLOW)
    outgoing = (k @ q.sum(-2, keepdim=True).mT).clamp(min=LEAST_FLOW)
    conserved_incoming = q @ (k / outgoing).sum(-2, keepdim=True).mT
    conserved_outgoing = k @ (q / incoming).sum(-2, keepdim=True).mT
    competition = q.shape[-2] * conserved_outgoing.softmax(-2)
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

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        with without_autocast(q):
            return flow_attention(*at_least_float32(q, k, v)).to(q.dtype)
