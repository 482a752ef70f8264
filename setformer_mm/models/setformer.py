"""SeTformer: a hierarchical vision backbone whose attention is self-optimal transport.

Paper: "SeTformer is What You Need for Vision and Language", Shamsolmoali, Zareapoor,
Granger and Felsberg, AAAI 2024, arXiv 2401.03540. No official code is known. The paper
states the design (overlapping convolutional stem and downsampling, four stages,
pre-norm blocks without convolution, window or attention bias); widths, depths and MLP
ratios are reconstructed so that parameters and FLOPs meet the stated ones, and so is
much of the attention (docs/method.md).
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops.valid import check_valid, is_traced
from .architectures import resolve_architecture, resolve_out_indices
from .padding import detect_valid_shape, halved, mean_of_tokens, zero_padding
from .stages import (
    OutputNorm,
    PatchEmbed,
    build_stages,
    init_linear,
    place_in_depth,
)


@MODELS.register_module()
class SeTformer(BaseModule):
    """SeTformer backbone for classification, detection and segmentation.

    Feature maps have the strides 4, 8, 16, 32 (sides rounded up, inputs of any size)
    and ``C, 2C, 4C, 8C`` channels; of an ``arch`` with fewer or more stages, as many.

    Args:
        arch (str | dict): "mini", "tiny", "small", "base", or their first letters, in
            any case; or a dict with exactly the keys ``embed_dims`` (``C`` of the first
            stage), ``depths``, ``num_heads`` (one number a stage each) and
            ``mlp_ratio``.
        in_channels (int): Channels of the images.
        out_indices (int | Sequence[int], optional): Stages to return, rising from 0,
            or negative, counted from the last; all by default. Each gets a norm
            ``norm{i}`` of its own, so name those alone that neck and heads use: under
            DistributedDataParallel a norm without a gradient is an error. Stages after
            the last one are not built.
        attention (dict, optional): ``dict(type=..., **fields)``: what stands in the
            attention slot of the blocks, :class:`SeTAttention` by default, or another
            one of ``TOKEN_MIXERS``. Each field is one for all stages, or a list or
            tuple of one a stage.
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
        mix_ffn (bool): Give the MLP of each block a depthwise 3x3 convolution, as
            SegFormer and PVTv2 do. The paper's blocks have none.
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
        out_indices: int | Sequence[int] | None = None,
        attention: dict | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        gap_before_final_norm: bool = False,
        with_cp: bool = False,
        padding: str = "detect",
        mix_ffn: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        arch = resolve_architecture(arch)
        self.out_indices = resolve_out_indices(out_indices, len(arch["depths"]))
        num_stages = self.out_indices[-1] + 1
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f"frozen_stages must be in -1..{num_stages}, got {frozen_stages}"
            )
        if padding not in ("detect", "ignore"):
            raise ValueError(f"padding must be 'detect' or 'ignore', got {padding!r}")

        self.padding = padding
        self.frozen_stages = frozen_stages
        self.gap_before_final_norm = gap_before_final_norm
        self.embed_dims = [
            arch["embed_dims"] * 2**i for i in range(len(arch["depths"]))
        ]
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims[0])
        self.stages = build_stages(
            arch, num_stages, attention, drop_path_rate, with_cp, mix_ffn
        )
        self._handles_padding = all(
            block.attn.handles_padding for s in self.stages for block in s.blocks
        )
        for i in self.out_indices:
            self.add_module(f"norm{i}", OutputNorm(self.embed_dims[i]))
        self.apply(init_linear)
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
            ValueError: If images or ``valid_shape`` are out of their rule, or the token
                mixer cannot leave padding out.
            TypeError: If it is no int64 tensor.
        """
        if x.dim() != 4 or (not is_traced() and 0 in x.shape[2:]):
            raise ValueError(
                "x must be (B, in_channels, H, W) with sides of at least 1, got "
                f"{tuple(x.shape)}"
            )
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
                    valid = () if valid_shape is None else (valid_shape,)
                    outs.append(norm(out, *valid))
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
            stage.switch_to_deploy()

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
        return place_in_depth(param_name[len(prefix) :], depths), num_layers

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
