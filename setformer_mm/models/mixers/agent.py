"""Attention by way of agent tokens, pooled from the queries."""

from torch import Tensor
from torch.nn import functional as F

from ..token_mixer import TOKEN_MIXERS, QueryKeyValueMixer


def agent_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spatial_shape: tuple[int, int],
    agent_shape: tuple[int, int],
) -> Tensor:
    """``O = softmax(Q A^T / sqrt(D)) softmax(A K^T / sqrt(D)) V``, ``A = pool(Q)``.

    Args:
        q (Tensor): Queries of shape ``(B, h, N, D)``, row-major.
        k (Tensor): Keys, likewise.
        v (Tensor): Values, likewise.
        spatial_shape (tuple[int, int]): Grid ``(H, W)`` of the tokens.
        agent_shape (tuple[int, int]): Grid of the agents.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    maps = q.mT.flatten(0, 1).unflatten(2, spatial_shape)
    pooled = F.adaptive_avg_pool2d(maps, agent_shape)
    agents = pooled.flatten(2).unflatten(0, q.shape[:2]).mT
    gathered = F.scaled_dot_product_attention(agents, k, v)
    return F.scaled_dot_product_attention(q, agents, gathered)


@TOKEN_MIXERS.register_module()
class AgentAttention(QueryKeyValueMixer):
    """Softmax attention to a few pooled queries, and theirs to the tokens; linear.

    "Agent Attention: On the Integration of Softmax and Linear Attention", arXiv
    2312.08874, as in its authors' code without the position biases and the depthwise
    convolution, which would not be the mixer's own.

    Args:
        embed_dims (int): See :class:`QueryKeyValueMixer`.
        num_heads (int): Likewise.
        agent_shape (tuple[int, int]): Grid of agents, 7 x 7 as in the authors' DeiT.
        one_projection (bool): See :class:`QueryKeyValueMixer`.
    """

    is_two_dimensional = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        agent_shape: tuple[int, int] = (7, 7),
        one_projection: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, one_projection)
        self.agent_shape = tuple(agent_shape)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        return agent_attention(q, k, v, spatial_shape, self.agent_shape)

    def extra_repr(self) -> str:
        return f"agent_shape={self.agent_shape}, {super().extra_repr()}"
