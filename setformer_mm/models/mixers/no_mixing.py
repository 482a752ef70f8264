"""The control of a comparison: projections, and nothing between the tokens."""

from typing import Any

from torch import Tensor, nn

from ..pointwise_linear import pointwise_linear
from ..token_mixer import TOKEN_MIXERS, TokenMixer


@TOKEN_MIXERS.register_module()
class NoMixing(TokenMixer):
    """The two projections of :class:`~setformer_mm.models.SeTAttention` alone.

    Tokens meet in the convolutions of the stem and between stages only, those of
    sequences nowhere; what a mixer is worth is what it adds to this.

    Args:
        embed_dims (int): Channels.
        num_heads (int): Not used.
    """

    handles_lengths = True

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self, x: Tensor, prepared: Any = None, valid_shape: Tensor | None = None
    ) -> Tensor:
        return pointwise_linear(self.out_proj, pointwise_linear(self.in_proj, x))
