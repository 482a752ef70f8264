"""An encoder of sequences, made of the backbone's blocks.

The paper's title says vision and language; what it says of language is the operator
with positions along one dimension. The rest, pre-norm blocks at one resolution, is
that of the backbone (docs/sequences.md).
"""

import torch
from torch import Tensor, nn

from ..ops.valid import check_valid
from .architectures import check_mlp_ratio
from .padding import mean_of_tokens, zero_padding
from .set_attention import SeTAttention
from .stages import SeTStage, init_linear, resolve_attention, rising_drop_paths
from .token_mixer import require_positive_integer

POOLINGS = (None, "mean", "first")
# Fields of SeTAttention: as many references as the backbone's grids have.
OF_SEQUENCES = dict(reference_shape=(16,), centred=False)


class SeTEncoder(nn.Module):
    """SeTformer's blocks over sequences of vectors.

    What of a batch is padding, ``lengths`` tell: a sequence's result is its own,
    whatever stands behind it and beside it in the batch.

    Args:
        depth (int): Blocks.
        embed_dims (int): Channels ``C``.
        num_heads (int): Heads.
        mlp_ratio (float): Hidden channels of the MLP over ``C``.
        attention (dict, optional): ``dict(type=..., **fields)``: what stands in the
            attention slot of the blocks, one of ``TOKEN_MIXERS``; by default
            :class:`SeTAttention` with ``reference_shape=(16,)``, its references in a
            row, and ``centred=False``, as it was measured on sequences.
        drop_path_rate (float): Stochastic depth of the last block in [0, 1), growing
            linearly from 0 at the first.
        pooling (str, optional): What is returned: all tokens if None, their "mean", or
            the "first" one, as of tokenizers that put a token for the whole in front.
        with_cp (bool): Trade time for memory: recompute blocks in the backward pass.

    Raises:
        ValueError: If an argument is out of its rule, or the token mixer is for
            pictures alone.
    """

    def __init__(
        self,
        depth: int,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        attention: dict | None = None,
        drop_path_rate: float = 0.0,
        pooling: str | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        sizes = dict(depth=depth, embed_dims=embed_dims, num_heads=num_heads)
        require_positive_integer(**sizes)
        check_mlp_ratio(mlp_ratio, embed_dims)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        attention = resolve_attention(attention)
        if attention["type"] in ("SeTAttention", SeTAttention):
            attention = dict(OF_SEQUENCES) | attention
        self.pooling = pooling
        self.stage = SeTStage(
            depth,
            embed_dims,
            rising_drop_paths(drop_path_rate, depth),
            downsample=False,
            with_cp=with_cp,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            attention=attention,
        )
        mixer = self.stage.blocks[0].attn
        if mixer.is_two_dimensional:
            raise ValueError(
                f"attention must be for sequences, got {attention}, which is for "
                "pictures alone; name another type, or SeTAttention with "
                "reference_shape=(M,)"
            )
        self._handles_lengths = mixer.handles_lengths
        self.norm = nn.LayerNorm(embed_dims)
        self.apply(init_linear)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x (Tensor): Embedded tokens of shape ``(B, N, C)``.
            lengths (Tensor, optional): Tokens of each sequence, from the first on, that
                are no padding, int64 of shape ``(B,)``; None if all are.

        Returns:
            Tensor: Of shape ``(B, N, C)``, 0 in what is padding; with ``pooling``
            ``(B, C)``, from tokens after the last norm.

        Raises:
            ValueError: If ``x`` or ``lengths`` is out of its rule, or the token mixer
                cannot leave padding out.
            TypeError: If ``lengths`` is no int64 tensor.
        """
        channels = self.norm.normalized_shape[0]
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != channels:
            raise ValueError(
                f"x must be (B, N, {channels}) with N at least 1, got {tuple(x.shape)}"
            )
        if lengths is not None:
            check_valid("lengths", lengths, x, x.shape[1:2])
            if not self._handles_lengths:
                mixer = type(self.stage.blocks[0].attn).__name__
                raise ValueError(
                    f"lengths must be None: {mixer} mixes in padding; give it "
                    "sequences of one length"
                )
        valid_shape = _of_one_column(lengths)
        x = zero_padding(x.unsqueeze(2), valid_shape)
        x = zero_padding(self.norm(self.stage(x, valid_shape)[0]), valid_shape)
        tokens = x.squeeze(2)
        return tokens if self.pooling is None else pool(tokens, lengths, self.pooling)

    def switch_to_deploy(self) -> None:
        """Keep what attention folds of its parameters, for compiled inference.

        See :meth:`TokenMixer.switch_to_deploy`; call it after loading a checkpoint.
        """
        self.stage.switch_to_deploy()


def pool(tokens: Tensor, lengths: Tensor | None, pooling: str) -> Tensor:
    """One vector a sequence.

    Args:
        tokens (Tensor): Of shape ``(B, N, C)``.
        lengths (Tensor | None): Of shape ``(B,)``; None if nothing is padding.
        pooling (str): "mean" or "first".

    Returns:
        Tensor: Of shape ``(B, C)``; the mean of no tokens is 0.
    """
    if pooling == "first":
        return tokens[:, 0]
    return mean_of_tokens(tokens.unsqueeze(2), _of_one_column(lengths))


def _of_one_column(lengths: Tensor | None) -> Tensor | None:
    """Lengths as the valid shape of a grid of one column."""
    if lengths is None:
        return None
    return torch.stack([lengths, torch.ones_like(lengths)], 1)
