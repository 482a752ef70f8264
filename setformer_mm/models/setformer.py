"""SeTformer: a hierarchical vision backbone whose attention is self-optimal transport.

Paper: "SeTformer is What You Need for Vision and Language", Shamsolmoali, Zareapoor,
Granger and Felsberg, AAAI 2024, arXiv 2401.03540. No official code is known. The paper
states the design (overlapping convolutional stem and downsampling, four stages,
pre-norm blocks without convolution, window or attention bias); widths, depths and MLP
ratios are reconstructed so that parameters and FLOPs meet the stated ones, and so is
much of the attention (docs/method.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from ..ops.valid import check_valid
from ..utils.spelling import did_you_mean
from .mlp import MLP
from .padding import detect_valid_shape, halved, mean_of_tokens, zero_padding
from .strided_conv import StridedConv2d
from .token_mixer import build_token_mixer, spread_over_stages

NUM_STAGES = 4

ARCHITECTURES = {
    "mini": dict(
        embed_dims=64, depths=(3, 4, 6, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3
    ),
    "tiny": dict(
        embed_dims=64, depths=(3, 4, 18, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3
    ),
    "small": dict(
        embed_dims=96, depths=(3, 4, 18, 3), num_heads=(3, 6, 12, 24), mlp_ratio=2
    ),
    "base": dict(
        embed_dims=128, depths=(3, 4, 18, 3), num_heads=(4, 8, 16, 32), mlp_ratio=2
    ),
}


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
        x = x.contiguous(memory_format=torch.channels_last)
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


class SeTBlock(nn.Module):
    """Pre-norm block: attention and an MLP, each with a residual connection.

    Args:
        embed_dims (int): Channels ``C``.
        num_heads (int): Heads.
        mlp_ratio (float): Hidden channels of the MLP over ``C``.
        drop_path (float): Probability of skipping a branch, a sample.
        attention (dict): See :func:`build_token_mixer`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        attention: dict,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = build_token_mixer(attention, embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = StochasticDepth(drop_path, mode="row")

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
        return x + self.drop_path(self.mlp(self.norm2(x)))


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

    def _prepare(self) -> list:
        """See :meth:`TokenMixer.prepare`.

        Whoever wraps blocks or replaces their class, as FSDP and adapters do, may have
        their parameters ready in their own forward pass alone; there they prepare
        themselves.
        """
        as_built = (
            type(block) is SeTBlock and type(block.attn) is self._mixer_type
            for block in self.blocks
        )
        if not all(as_built):
            return [None] * len(self.blocks)
        return self._mixer_type.prepare([block.attn for block in self.blocks])


@MODELS.register_module()
class SeTformer(BaseModule):
    """SeTformer backbone for classification, detection and segmentation.

    Feature maps have the strides 4, 8, 16, 32 (sides rounded up, inputs of any size)
    and ``C, 2C, 4C, 8C`` channels.

    Args:
        arch (str | dict): "mini", "tiny", "small", "base", or their first letters, in
            any case; or a dict with exactly the keys ``embed_dims`` (``C`` of the first
            stage), ``depths``, ``num_heads`` (four numbers each) and ``mlp_ratio``.
        in_channels (int): Channels of the images.
        out_indices (Sequence[int]): Stages to return, rising, in 0..3; each gets a norm
            ``norm{i}`` of its own. Stages after the last one are not built.
        attention (dict, optional): ``dict(type=..., **fields)``: what stands in the
            attention slot of the blocks, :class:`SeTAttention` by default, or another
            one of ``TOKEN_MIXERS``. Each field is one for all stages, or a list or
            tuple of four.
        drop_path_rate (float): Stochastic depth of the last block in [0, 1), growing
            linearly from 0 at the first.
        frozen_stages (int): -1 freezes nothing, 0 the stem, ``n`` the stem and the
            first ``n`` stages with their norms.
        gap_before_final_norm (bool): Average over the grid before the output norm, and
            return vectors ``(B, channels)`` instead of maps.
        with_cp (bool): Trade time for memory: recompute blocks in the backward pass.
        padding (str): "detect" makes the result of a picture its own, however far its
            batch pads it: see :func:`detect_valid_shape`. "ignore" takes padding for
            picture, as other backbones do.
        init_cfg (dict | list[dict], optional): mmengine's initialisation; for weights
            ``dict(type="Pretrained", checkpoint=..., prefix="backbone.")``. References
            trained on another grid are resampled.

    Raises:
        ValueError: If an argument is out of its rule.
    """

    def __init__(
        self,
        arch: str | dict = "tiny",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        attention: dict | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        gap_before_final_norm: bool = False,
        with_cp: bool = False,
        padding: str = "detect",
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        arch = _resolve_architecture(arch)
        attention = dict(type="SeTAttention") | dict(attention or {})
        attention = spread_over_stages(attention, NUM_STAGES)
        if (
            not isinstance(out_indices, list | tuple)
            or not out_indices
            or not all(type(index) is int for index in out_indices)
            or list(out_indices) != sorted(set(out_indices) & set(range(NUM_STAGES)))
        ):
            raise ValueError(
                f"out_indices must be rising numbers in 0..3, got {out_indices}"
            )
        num_stages = out_indices[-1] + 1
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f"frozen_stages must be in -1..{num_stages}, got {frozen_stages}"
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")

        if padding not in ("detect", "ignore"):
            raise ValueError(f"padding must be 'detect' or 'ignore', got {padding!r}")

        depths = arch["depths"][:num_stages]
        self.padding = padding
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.gap_before_final_norm = gap_before_final_norm
        self.embed_dims = [arch["embed_dims"] * 2**i for i in range(NUM_STAGES)]
        num_blocks = sum(depths)
        drop_paths = [
            drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)
        ]

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims[0])
        self.stages = nn.ModuleList(
            SeTStage(
                depths[i],
                self.embed_dims[i],
                drop_paths[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=i < num_stages - 1,
                with_cp=with_cp,
                num_heads=arch["num_heads"][i],
                mlp_ratio=arch["mlp_ratio"],
                attention=attention[i],
            )
            for i in range(num_stages)
        )
        self._handles_padding = all(
            block.attn.handles_padding for s in self.stages for block in s.blocks
        )
        for i in self.out_indices:
            self.add_module(f"norm{i}", nn.LayerNorm(self.embed_dims[i]))
        self.apply(_init_linear)
        self._freeze()

    def forward(
        self, x: Tensor, valid_shape: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Compute features.

        Args:
            x (Tensor): Images of shape ``(B, in_channels, H, W)``.
            valid_shape (Tensor, optional): Rows and columns of each image that are no
                padding, int64 of shape ``(B, 2)``. Features of an image are those of
                this part alone, and 0 outside. None: found if ``padding`` is "detect",
                otherwise everything.

        Returns:
            tuple[Tensor, ...]: One map ``(B, channels, H', W')`` an output stage, or
            one vector ``(B, channels)`` with ``gap_before_final_norm``.

        Raises:
            ValueError: If ``valid_shape`` is out of its rule, or the token mixer cannot
                leave padding out.
            TypeError: If it is no int64 tensor.
        """
        if valid_shape is not None:
            check_valid("valid_shape", valid_shape, x, x.shape[2:])
            if not self._handles_padding:
                mixer = type(self.stages[0].blocks[0].attn).__name__
                raise ValueError(f"valid_shape must be None: {mixer} mixes in padding")
            x = zero_padding(x.permute(0, 2, 3, 1), valid_shape).permute(0, 3, 1, 2)
        elif self.padding == "detect" and self._handles_padding:
            valid_shape = detect_valid_shape(x)
        outs = []
        x = self.patch_embed(x, valid_shape)
        valid_shape = halved(halved(valid_shape))
        for i, stage in enumerate(self.stages):
            out, x = stage(x, valid_shape)
            if i in self.out_indices:
                norm = getattr(self, f"norm{i}")
                if self.gap_before_final_norm:
                    outs.append(norm(mean_of_tokens(out, valid_shape)))
                else:
                    out = zero_padding(norm(out), valid_shape)
                    outs.append(out.permute(0, 3, 1, 2).contiguous())
            valid_shape = halved(valid_shape)
        return tuple(outs)

    def train(self, mode: bool = True) -> "SeTformer":
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Keep what attention folds of its parameters, for compiled inference.

        See :meth:`TokenMixer.switch_to_deploy`; call it after loading a checkpoint.
        """
        for stage in self.stages:
            for block in stage.blocks:
                block.attn.switch_to_deploy()

    def get_layer_depth(
        self, param_name: str, prefix: str = "backbone."
    ) -> tuple[int, int]:
        """Place a parameter for layer-wise learning rate decay.

        The stem is layer 0, the blocks are 1, 2, ..., each downsampling belongs to the
        block after it, and the output norms come last.

        Args:
            param_name (str): Full name of the parameter.
            prefix (str): What the backbone is called in that name.

        Returns:
            tuple[int, int]: The layer and the number of layers, where the last one
            stands for everything outside the backbone.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split(".")
        if parts[0] == "patch_embed":
            return 0, num_layers
        if parts[0] == "stages":
            stage = int(parts[1])
            if parts[2] == "downsample":
                return sum(depths[: stage + 1]) + 1, num_layers
            return sum(depths[:stage]) + int(parts[3]) + 1, num_layers
        return num_layers - 1, num_layers

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        modules: list[nn.Module] = [self.patch_embed]
        for i in range(self.frozen_stages):
            modules.append(self.stages[i])
            if i in self.out_indices:
                modules.append(getattr(self, f"norm{i}"))
        return modules

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _resolve_architecture(arch: str | dict) -> dict:
    """Look a variant up or check a dict that describes one."""
    if isinstance(arch, str):
        by_letter = {name[0]: name for name in ARCHITECTURES}
        name = by_letter.get(arch.lower(), arch.lower())
        if name not in ARCHITECTURES:
            raise ValueError(
                f"arch must be one of {', '.join(ARCHITECTURES)}, a first letter of "
                f"these, or a dict, got {arch!r}{did_you_mean(arch, ARCHITECTURES)}"
            )
        return ARCHITECTURES[name]
    if not isinstance(arch, dict):
        raise ValueError(f"arch must be a name or a dict, got {arch!r}")
    keys = set(ARCHITECTURES["tiny"])
    if set(arch) != keys:
        raise ValueError(
            f"arch must have exactly the keys {sorted(keys)}, got {sorted(arch)}"
        )
    for key in ("depths", "num_heads"):
        is_list = isinstance(arch[key], list | tuple) and len(arch[key]) == NUM_STAGES
        if not is_list or not all(map(_is_positive_integer, arch[key])):
            raise ValueError(
                f"arch[{key!r}] must hold four positive integers, got {arch[key]}"
            )
    if not _is_positive_integer(arch["embed_dims"]):
        raise ValueError(
            f"arch['embed_dims'] must be a positive integer, got {arch['embed_dims']!r}"
        )
    return arch


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
