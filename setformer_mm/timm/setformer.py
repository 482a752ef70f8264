"""SeTformer as timm's models are: a thin face of ``setformer_mm.models.stages``."""

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..configs import root
from ..models.architectures import resolve_architecture
from ..models.stages import (
    PatchEmbed,
    SeTStage,
    build_stages,
    init_linear,
    place_in_depth,
)
from ..models.strided_conv import StridedConv2d
from .state_dict import from_mm

__all__ = ["SeTformerClassifier"]

# What torch.fx must not look into: it decides by modes, types and sizes.
register_notrace_module(SeTStage)
register_notrace_module(StridedConv2d)


class SeTformerClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="setformer_mm",
    tags=["image-classification", "timm"],
    license="apache-2.0",
    paper_url="https://arxiv.org/abs/2401.03540",
):
    """SeTformer with a classification head and timm's methods.

    It takes images of any size. What a batch pads is taken for picture; the backbone
    for mmdet and mmseg can leave it out.

    Args:
        arch (str | dict): See :class:`setformer_mm.models.SeTformer`.
        in_chans (int): Channels of the images.
        num_classes (int): Classes; 0 for none, and features come out.
        global_pool (str): One of timm's poolings; "" for none.
        img_size (int | tuple[int, int], optional): What timm notes for the size to use,
            instead of 224; the model itself takes any.
        drop_rate (float): Dropout before the classifier.
        drop_path_rate (float): Stochastic depth of the last block.
        attention (dict, optional): See :class:`setformer_mm.models.SeTformer`.
        mix_ffn (bool): Likewise.
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        arch: str | dict = "tiny",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attention: dict | None = None,
        mix_ffn: bool = False,
    ) -> None:
        super().__init__()
        arch = resolve_architecture(arch)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        channels = [arch["embed_dims"] * 2**i for i in range(len(arch["depths"]))]
        self.feature_info = [
            dict(num_chs=c, reduction=2 ** (i + 2), module=f"stages.{i}")
            for i, c in enumerate(channels)
        ]
        self.num_features = channels[-1]
        self.patch_embed = PatchEmbed(in_chans, channels[0])
        self.stages = build_stages(
            arch,
            attention=attention,
            drop_path_rate=drop_path_rate,
            mix_ffn=mix_ffn,
        )
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate
        )
        self.head_hidden_size = self.head.num_features
        self.apply(init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``(B, in_chans, H, W)``; logits are ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised maps ``(B, num_features, H / 32, W / 32)``, sides rounded up."""
        x = self.patch_embed(x)
        for stage in self.stages:
            out, x = stage(x)
        return _maps(self.norm(out))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool maps and classify, or return what the classifier would take."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Collect what the stages return.

        Args:
            x (Tensor): Images ``(B, in_chans, H, W)``.
            indices (int | list[int], optional): Stages, or how many of the last ones;
                all by default.
            norm (bool): Whether the last stage's is normalised, as the final features.
            stop_early (bool): Whether to leave out stages that nobody asked for.
            output_fmt (str): "NCHW".
            intermediates_only (bool): Whether to leave out the final features.

        Returns:
            list[Tensor] | tuple[Tensor, list[Tensor]]: Maps of the stages; with the
            final features before them.

        Raises:
            ValueError: If ``output_fmt`` is another one.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.stages), indices)
        num_stages = last + 1 if stop_early else len(self.stages)
        intermediates = []
        x = self.patch_embed(x)
        for i, stage in enumerate(self.stages[:num_stages]):
            out, x = stage(x)
            if i in taken:
                is_final = i == len(self.stages) - 1
                intermediates.append(
                    _maps(self.norm(out) if norm and is_final else out)
                )
        if intermediates_only:
            return intermediates
        if num_stages == len(self.stages):
            out = self.norm(out)
        return _maps(out), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what the stages ``indices`` do not need; return them from 0 on."""
        taken, last = feature_take_indices(len(self.stages), indices)
        is_cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.stages[-1].downsample = None
        if is_cut:
            self.num_features = self.feature_info[last]["num_chs"]
        if is_cut or prune_norm:
            self.norm = nn.Identity()
        if is_cut or prune_head:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Set the number of classes, 0 for none, and the pooling unless None."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head.reset(
            num_classes, pool_type=global_pool, in_features=self.num_features
        )
        self.head.apply(init_linear)
        self.head_hidden_size = self.head.num_features
        # What save_pretrained writes.
        self._hub_mixin_config = (self._hub_mixin_config or {}) | dict(
            num_classes=num_classes, global_pool=self.global_pool
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass, or do not."""
        for stage in self.stages:
            stage.with_cp = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Anchors and references, which are points and no weights."""
        points = ("anchors", "references", "return_references")
        return {n for n, _ in self.named_parameters() if n.split(".")[-1] in points}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Layers for layer-wise decay: those of ``SeTformerLayerDecayConstructor``.

        Args:
            coarse (bool): Whether a layer is a stage and not a block.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        if coarse:
            ends = [sum(depths[: i + 1]) for i in range(len(depths))]
            return lambda name: sum(
                place_in_depth(name, depths) > end for end in (0, *ends)
            )
        return lambda name: place_in_depth(name, depths)

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> nn.Module:
        """What ``from_pretrained`` calls: by default all weights must be there."""
        return super()._from_pretrained(strict=strict, **kwargs)

    def switch_to_deploy(self) -> None:
        """See :meth:`setformer_mm.models.SeTformer.switch_to_deploy`."""
        for stage in self.stages:
            stage.switch_to_deploy()


def _maps(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2).contiguous()


def _cfg(**fields: Any) -> dict:
    return (
        dict(
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            first_conv="patch_embed.conv1",
            classifier="head.fc",
            license="apache-2.0",
            paper_name="SeTformer Is What You Need for Vision and Language",
            paper_ids="arXiv:2401.03540",
        )
        | fields
    )


# Those of the classifier of digits are committed.
_WEIGHTS = root() / "configs/digits/checkpoints/setformer_digits.pth"

# Interpolation, crop and normalisation are timm's defaults and those of the configs.
default_cfgs = generate_default_cfgs(
    {f"setformer_{name}": _cfg() for name in ("mini", "tiny", "small", "base")}
    | {
        "setformer_digits": _cfg(
            file=str(_WEIGHTS) if _WEIGHTS.exists() else None,
            input_size=(3, 64, 64),
            pool_size=(2, 2),
            num_classes=10,
            interpolation="bilinear",
            crop_pct=1.0,
        )
    }
)


def _create(
    variant: str, arch: str | dict, pretrained: bool, **kwargs: Any
) -> nn.Module:
    num_stages = len(resolve_architecture(arch)["depths"])
    feature_cfg = dict(feature_cls="getter", out_indices=tuple(range(num_stages)))
    feature_cfg |= kwargs.pop("feature_cfg", {})
    feature_cls = kwargs.get("feature_cls", feature_cfg["feature_cls"])
    if feature_cls != "getter":
        raise ValueError(
            f"feature_cls must be 'getter' for {variant}, got {feature_cls!r}, which "
            "would return what its stages hold: tokens (B, H, W, C)"
        )
    return build_model_with_cfg(
        SeTformerClassifier,
        variant,
        pretrained,
        pretrained_filter_fn=from_mm,
        feature_cfg=feature_cfg,
        arch=arch,
        **kwargs,
    )


@register_model
def setformer_mini(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SeTformer-M."""
    return _create("setformer_mini", "mini", pretrained, **kwargs)


@register_model
def setformer_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SeTformer-T."""
    return _create("setformer_tiny", "tiny", pretrained, **kwargs)


@register_model
def setformer_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SeTformer-S."""
    return _create("setformer_small", "small", pretrained, **kwargs)


@register_model
def setformer_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SeTformer-B."""
    return _create("setformer_base", "base", pretrained, **kwargs)


@register_model
def setformer_digits(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The small classifier of ``configs/digits``, whose weights are committed."""
    arch = dict(embed_dims=32, depths=(1, 1, 3, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2)
    return _create("setformer_digits", arch, pretrained, **kwargs)
