"""The parts of the backbone: stem, blocks, downsampling, stages. They need torch alone.

:class:`~setformer_mm.models.SeTformer` is made of them for the OpenMMLab libraries, and
:class:`setformer_mm.timm.SeTformerClassifier` for timm and Hugging Face.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mlp import MLP, MixFFN
from .padding import halved, zero_padding
from .stochastic_depth import StochasticDepth
from .strided_conv import StridedConv2d
from .token_mixer import build_token_mixer, require_bool, spread_over_stages


class PatchEmbed(nn.Module):
    """Stem: two 3x3 convolutions of stride 2 and a LayerNorm.

    Takes images ``(B, in_channels, H, W)`` to tokens ``(B, H / 4, W / 4, C)``, sides
    rounded up.
    """

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.conv1 = StridedConv2d(in_channels, embed_dims // 2)
        self.conv2 = StridedConv2d(embed_dims // 2, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor, valid_shape: Tensor | None = None) -> Tensor:
        # Tokens come out of the convolutions in their own order of memory, uncopied.
        # In this form torch.func.vmap knows the memory format channels_last, too.
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        x = zero_padding(self.conv1(x).permute(0, 2, 3, 1), halved(valid_shape))
        return self.norm(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that doubles the channels, and a LayerNorm.

    Takes tokens ``(B, H, W, C)`` to ``(B, H / 2, W / 2, 2C)``, sides rounded up.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.conv = StridedConv2d(embed_dims, 2 * embed_dims, bias=False)
        self.norm = nn.LayerNorm(2 * embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class OutputNorm(nn.LayerNorm):
    """The norm of what a stage returns, and its form for others.

    Takes tokens ``(B, H, W, C)`` to maps ``(B, C, H, W)``, and vectors ``(B, C)`` to
    vectors. Whoever hooks it, as Grad-CAM does, gets maps.
    """

    def forward(self, x: Tensor, valid_shape: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        if x.dim() == 2:
            return x
        return zero_padding(x, valid_shape).permute(0, 3, 1, 2).contiguous()


class SeTBlock(nn.Module):
    """Pre-norm block: attention and an MLP, each with a residual connection.

    Args:
        embed_dims (int): Channels ``C``.
        num_heads (int): Heads.
        mlp_ratio (float): Hidden channels of the MLP over ``C``.
        drop_path (float): Probability of skipping a branch, a sample.
        attention (dict): See :func:`build_token_mixer`.
        mix_ffn (bool): Whether the MLP is a :class:`~.mlp.MixFFN`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        attention: dict,
        mix_ffn: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = build_token_mixer(attention, embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims)
        mlp = MixFFN if mix_ffn else MLP
        self.mlp = mlp(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = StochasticDepth(drop_path)

    def forward(
        self, x: Tensor, prepared: Any = None, valid_shape: Tensor | None = None
    ) -> Tensor:
        """Take tokens ``(B, H, W, C)`` to tokens of the same shape.

        Args:
            x (Tensor): The tokens.
            prepared (Any): See :meth:`TokenMixer.prepare`.
            valid_shape (Tensor, optional): See :class:`TokenMixer`.
        """
        valid = () if valid_shape is None else (valid_shape,)
        x = x + self.drop_path(self.attn(self.norm1(x), prepared, *valid))
        if not isinstance(self.mlp, MixFFN):
            valid = ()  # to others, which users may put in its place, a token is alone
        return x + self.drop_path(self.mlp(self.norm2(x), *valid))


class SeTStage(nn.Module):
    """Blocks at one resolution, with the downsampling that leads to the next stage.

    Args:
        depth (int): Number of blocks.
        embed_dims (int): Channels ``C``.
        drop_paths (Sequence[float]): One probability a block.
        downsample (bool): Whether another stage follows.
        with_cp (bool): Whether blocks recompute their activations in the backward pass.
        **block: Further arguments of :class:`SeTBlock`.
    """

    def __init__(
        self,
        depth: int,
        embed_dims: int,
        drop_paths: Sequence[float],
        downsample: bool,
        with_cp: bool,
        **block,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(
            SeTBlock(embed_dims, drop_path=drop_paths[i], **block) for i in range(depth)
        )
        self.downsample = Downsample(embed_dims) if downsample else None
        self._mixer_type = type(self.blocks[0].attn)

    def forward(
        self, x: Tensor, valid_shape: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the blocks.

        Args:
            x (Tensor): Tokens of shape ``(B, H, W, C)``.
            valid_shape (Tensor, optional): See :class:`TokenMixer`.

        Returns:
            tuple[Tensor, Tensor | None]: The output of the stage, of the same shape,
            with anything in what is padding; and, downsampled, what the next stage
            takes.
        """
        for block, prepared in zip(self.blocks, self._prepare()):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, prepared, valid_shape, use_reentrant=False)
            else:
                x = block(x, prepared, valid_shape)
        if self.downsample is None:
            return x, None
        return x, self.downsample(zero_padding(x, valid_shape))

    def switch_to_deploy(self) -> None:
        """See :meth:`TokenMixer.switch_to_deploy`."""
        for block in self.blocks:
            block.attn.switch_to_deploy()

    def _prepare(self) -> list:
        """See :meth:`TokenMixer.prepare`.

        Whoever wraps blocks, replaces their class or their forward pass, as FSDP,
        adapters and mmengine's checkpointing do, may have their parameters ready in
        that pass alone, or repeat it; there they prepare themselves.
        """
        as_built = (
            _is_as_built(block, SeTBlock) and _is_as_built(block.attn, self._mixer_type)
            for block in self.blocks
        )
        if not all(as_built):
            return [None] * len(self.blocks)
        return self._mixer_type.prepare([block.attn for block in self.blocks])


def _is_as_built(module: nn.Module, kind: type) -> bool:
    return type(module) is kind and "forward" not in module.__dict__


def build_stages(
    arch: dict,
    num_stages: int | None = None,
    attention: dict | None = None,
    drop_path_rate: float = 0.0,
    with_cp: bool = False,
    mix_ffn: bool = False,
) -> nn.ModuleList:
    """Build the first stages of an architecture.

    Args:
        arch (dict): See :func:`resolve_architecture`.
        num_stages (int, optional): How many; all by default.
        attention (dict, optional): See :class:`~setformer_mm.models.SeTformer`, as for
            the next three.
        drop_path_rate (float): That of the last block built.
        with_cp (bool): Whether to recompute activations.
        mix_ffn (bool): Whether MLPs have a convolution.

    Returns:
        nn.ModuleList: One :class:`SeTStage` each; all but the last one downsample.

    Raises:
        ValueError: If an argument is out of its rule.
    """
    require_bool(mix_ffn=mix_ffn)
    attention = resolve_attention(attention)
    attention = spread_over_stages(attention, len(arch["depths"]))
    depths = arch["depths"][:num_stages]
    drop_paths = rising_drop_paths(drop_path_rate, sum(depths))
    return nn.ModuleList(
        SeTStage(
            depth,
            arch["embed_dims"] * 2**i,
            drop_paths[sum(depths[:i]) : sum(depths[: i + 1])],
            downsample=i < len(depths) - 1,
            with_cp=with_cp,
            num_heads=arch["num_heads"][i],
            mlp_ratio=arch["mlp_ratio"],
            attention=attention[i],
            mix_ffn=mix_ffn,
        )
        for i, depth in enumerate(depths)
    )


def resolve_attention(attention: dict | None) -> dict:
    """Name the token mixer of a backbone or encoder, SeT attention if it has no type.

    Raises:
        ValueError: If it is no dict.
    """
    if not isinstance(attention, dict | None):
        raise ValueError(
            f"attention must be dict(type=..., **fields), got {attention!r}"
        )
    return dict(type="SeTAttention") | dict(attention or {})


def rising_drop_paths(rate: float, num_blocks: int) -> list[float]:
    """Probabilities of stochastic depth, from 0 at the first block to the last's.

    Args:
        rate (float): That of the last block, in [0, 1).
        num_blocks (int): Blocks.

    Raises:
        ValueError: If the rate is out of its range.
    """
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {rate!r}")
    return [rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def place_in_depth(name: str, depths: Sequence[int]) -> int:
    """Place a parameter for layer-wise learning rate decay.

    Args:
        name (str): Name of the parameter in a model of a stem ``patch_embed`` and
            ``stages``.
        depths (Sequence[int]): Blocks of each stage.

    Returns:
        int: 0 for the stem; 1, 2, ... for the blocks, each downsampling with the block
        after it; and one more than the last block for everything else.
    """
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return 0
    if parts[0] != "stages":
        return sum(depths) + 1
    stage = int(parts[1])
    if parts[2] == "downsample":
        return sum(depths[: stage + 1]) + 1
    return sum(depths[:stage]) + int(parts[3]) + 1


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer; for ``module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
