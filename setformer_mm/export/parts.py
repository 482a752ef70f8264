"""The part of a model that is exported: from normalised pictures to logits or maps."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Part(NamedTuple):
    """What becomes a file.

    Attributes:
        module (nn.Module): From pictures ``(B, C, H, W)``, normalised, to a tuple of
            tensors.
        task (str): See :class:`~setformer_mm.export.Metadata`.
        outputs (tuple[str, ...]): Names of the tensors.
    """

    module: nn.Module
    task: str
    outputs: tuple[str, ...]


def deployed_part(model: nn.Module, images: Tensor) -> Part:
    """Take from a model what is exported, for inference, its parameters folded.

    Args:
        model (nn.Module): A classifier of mmpretrain or of :mod:`setformer_mm.timm`, a
            segmentor of mmseg, a detector of mmdet, of which backbone and neck are
            taken as of any other model with a backbone, or a backbone. It is copied and
            stays as it is.
        images (Tensor): Normalised pictures ``(B, C, H, W)`` of any size.

    Returns:
        Part: In evaluation mode.

    Raises:
        TypeError: If it is none of these, or does not return tensors.
    """
    model = deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "switch_to_deploy") and hasattr(module, "folded"):
            module.switch_to_deploy()
    for name, pool in list(model.named_modules()):
        if type(pool) is nn.AdaptiveAvgPool2d and pool.output_size not in (1, (1, 1)):
            model.set_submodule(name, _AnySizePool(pool.output_size))
    module, task = _part_of(model)
    module.eval()
    with torch.no_grad():
        outs = module(images)
    kinds = [type(out).__name__ for out in outs]
    if not all(isinstance(out, Tensor) for out in outs):
        raise TypeError(
            f"{type(model).__name__} must return tensors to be exported, got {kinds}"
        )
    if task == "features":
        return Part(module, task, tuple(f"features_{i}" for i in range(len(outs))))
    return Part(module, task, ("logits",))


def _part_of(model: nn.Module) -> tuple[nn.Module, str]:
    if hasattr(model, "decode_head"):
        if isinstance(model.decode_head, nn.ModuleList):
            raise TypeError(
                "a segmentor of one decode head can be exported, got "
                f"{len(model.decode_head)} in {type(model).__name__}"
            )
        return _Segmentor(model), "segmentation"
    has_backbone = hasattr(model, "backbone")
    if has_backbone and getattr(model, "head", None) is not None:
        return _Classifier(model), "classification"
    if hasattr(model, "forward_head"):
        return _Single(model), "classification"
    if has_backbone:
        return _Pyramid(model), "features"
    if hasattr(model, "stages"):
        return model, "features"
    raise TypeError(
        "a classifier, a segmentor, a detector with a backbone, or a backbone can be "
        f"exported, got {type(model).__name__}"
    )


class _Classifier(nn.Module):
    """A classifier of mmpretrain, to logits ``(B, classes)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(images, mode="tensor"),)


class _Single(nn.Module):
    """A model of one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(images),)


class _Segmentor(nn.Module):
    """A segmentor of mmseg, to logits ``(B, classes, H, W)`` of whole pictures."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        head = self.model.decode_head
        logits = head(self.model.extract_feat(images))
        size = images.shape[2:]
        align = head.align_corners
        return (F.interpolate(logits, size, mode="bilinear", align_corners=align),)


class _Pyramid(nn.Module):
    """Backbone and, if there is one, neck, of a detector for example."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = getattr(model, "neck", None) or nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with _StridesForPools():
            return tuple(self.neck(self.backbone(images)))


class _StridesForPools(TorchFunctionMode):
    """Takes every second pixel by a slice, where mmdet's FPN pools over single ones:
    torch.export closes sizes over such a pool, to even or to odd ones.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.max_pool2d and args[1:] == (1,) and kwargs.get("stride") == 2:
            return args[0][..., ::2, ::2]
        return func(*args, **kwargs)


class _AnySizePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, whose sizes can be open in any
    format; that of torch cannot in ONNX.

    Args:
        output_size (int | tuple[int | None, int | None]): Rows and columns of the
            result; None for as many as there are.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        is_pair = isinstance(output_size, tuple)
        self.output_size = output_size if is_pair else (output_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = (
            self._averages(size, size if count is None else count, x)
            for size, count in zip(x.shape[2:], self.output_size)
        )
        return rows @ x @ cols.mT

    @staticmethod
    def _averages(size: int, count: int, like: Tensor) -> Tensor:
        """Each of ``count`` rows averages its share of ``size``, as torch cuts it.

        Of shape ``(1, 1, count, size)``: a matrix would be taken for a linear layer's.
        """
        cells = torch.arange(count, device=like.device)[:, None]
        places = torch.arange(size, device=like.device)
        start = cells * size // count
        end = ((cells + 1) * size + count - 1) // count
        is_inside = (places >= start) & (places < end)
        return (is_inside.to(like.dtype) / (end - start).to(like.dtype))[None, None]
