"""How a config uses the backbone: widths, unused outputs, foreign constructors."""

from collections.abc import Iterator

from mmengine.config import Config

from setformer_mm.models.architectures import resolve_architecture, resolve_out_indices
from setformer_mm.utils.errors import UserError

from .config_checks import SETFORMERS

# Layer-wise decay of mmdet and mmseg, for backbones that they know by name.
FOREIGN_CONSTRUCTORS = {
    "LearningRateDecayOptimizerConstructor",
    "LayerDecayOptimizerConstructor",
}
# Heads of mmpretrain that take all outputs are rare; these take the last one.
LAST_OUTPUT_HEADS = {"LinearClsHead", "StackedLinearClsHead", "MultiLabelLinearClsHead"}


def require_fitting_widths(cfg: Config) -> None:
    """Check that neck and heads expect the widths that the backbone has.

    Raises:
        UserError: naming the field that does not, and what it must be.
    """
    found = _architecture_and_outputs(cfg)
    if found is None:
        return
    arch, outputs = found
    widths = [arch["embed_dims"] * 2**stage for stage in outputs]
    for field, given, expected in _expected_widths(cfg.model, widths):
        if given != expected:
            raise UserError(
                f"{field}.in_channels must be {expected}, what the backbone's outputs "
                f"{outputs} have, got {given}"
            )


def unused_outputs(cfg: Config) -> str | None:
    """Find outputs of the backbone that neck and heads never take.

    Returns:
        One sentence with what to write instead; None if all are used, or how they are
        used cannot be told.
    """
    found = _architecture_and_outputs(cfg)
    if found is None:
        return None
    _, outputs = found
    used = _used_places(cfg.model, len(outputs))
    if used is None or len(used) == len(outputs):
        return None
    kept = tuple(stage for place, stage in enumerate(outputs) if place in used)
    unused = [stage for stage in outputs if stage not in kept]
    return (
        f"no neck or head takes what stages {unused} of the backbone return, whose "
        "norms get no gradient then, which training in several processes refuses: set "
        f"model.backbone.out_indices={kept}, and in_channels, start_level and in_index "
        "of neck and heads by these outputs alone"
    )


def require_known_constructor(cfg: Config) -> None:
    """Check that layer-wise decay knows the layers of the backbone.

    Raises:
        UserError: for the constructors of mmdet and mmseg.
    """
    constructor = (cfg.get("optim_wrapper") or {}).get("constructor")
    name = str(constructor).rpartition(".")[2]
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    if name in FOREIGN_CONSTRUCTORS and backbone.get("type") in SETFORMERS:
        raise UserError(
            f"optim_wrapper.constructor={constructor} of mmdet and mmseg does not know "
            "the layers of SeTformer; use constructor='SeTformerLayerDecayConstructor' "
            "with paramwise_cfg=dict(layer_decay_rate=0.9)"
        )


def _architecture_and_outputs(cfg: Config) -> tuple[dict, tuple[int, ...]] | None:
    """The backbone's sizes and its output stages; None if it is no SeTformer."""
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    if backbone.get("type") not in SETFORMERS:
        return None
    arch = resolve_architecture(backbone.get("arch", "tiny"))
    return arch, resolve_out_indices(backbone.get("out_indices"), len(arch["depths"]))


def _expected_widths(model: dict, widths: list[int]) -> Iterator[tuple]:
    """Yield fields, their widths, and those they must have, where one can tell."""
    neck, head = model.get("neck"), model.get("head")
    if isinstance(neck, dict) and isinstance(neck.get("in_channels"), list | tuple):
        yield "model.neck", list(neck["in_channels"]), widths
    elif "decode_head" in model and neck is None:
        by_place = dict(enumerate(widths)) | dict(zip(range(-len(widths), 0), widths))
        for name, segmentor in _segmentation_heads(model):
            places, given = segmentor.get("in_index", -1), segmentor.get("in_channels")
            if isinstance(places, int) and places in by_place and given is not None:
                yield f"model.{name}", given, by_place[places]
            elif isinstance(given, list | tuple) and set(places) <= set(by_place):
                yield f"model.{name}", list(given), [by_place[p] for p in places]
    elif isinstance(head, dict) and head.get("type") in LAST_OUTPUT_HEADS:
        gathers = neck is None or neck.get("type") == "GlobalAveragePooling"
        if gathers and "in_channels" in head:
            yield "model.head", head["in_channels"], widths[-1]


def _used_places(model: dict, count: int) -> set[int] | None:
    """Places among ``count`` outputs that are taken; None if that cannot be told."""
    every = set(range(count))
    neck = model.get("neck")
    if isinstance(neck, dict) and "start_level" in neck:
        last = neck.get("end_level", -1)
        return set(range(neck["start_level"], count if last < 0 else last + 1)) & every
    if "decode_head" in model and neck is None:
        return {
            place % count for place in _in_indices(model) if -count <= place < count
        }
    head = model.get("head")
    if isinstance(head, dict) and head.get("type") in LAST_OUTPUT_HEADS:
        return {count - 1}
    return None


def _in_indices(model: dict) -> Iterator[int]:
    """What the heads of a segmentor take."""
    for _, head in _segmentation_heads(model):
        index = head.get("in_index", -1)
        yield from [index] if isinstance(index, int) else index


def _segmentation_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """The heads of a segmentor, by their fields."""
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or []
        if isinstance(heads, dict):
            yield name, heads
        else:
            yield from ((f"{name}[{i}]", head) for i, head in enumerate(heads))
