"""The peers of SeTformer: our configs with their backbones in the place of ours."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .model_figures import SETFORMERS, Published, Task

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    """A backbone that takes the place of ours.

    Attributes:
        backbone: Config, without the stages to return.
        channels: Of the first stage; each of the other three doubles them.
        library: What it takes beside mmpretrain.
    """

    backbone: dict
    channels: int
    library: str | None = None


def swin(arch: str, channels: int) -> Peer:
    return Peer(dict(type="mmpretrain.SwinTransformer", arch=arch), channels)


def convnext(arch: str, channels: int) -> Peer:
    # Heads average as those of SeTformer do.
    backbone = dict(type="mmpretrain.ConvNeXt", arch=arch, gap_before_final_norm=False)
    return Peer(backbone, channels)


def from_timm(name: str, channels: int) -> Peer:
    backbone = dict(type="mmpretrain.TIMMBackbone", model_name=name, features_only=True)
    return Peer(backbone, channels, library="timm")


PEERS = dict(
    swin_t=swin("tiny", 96),
    swin_s=swin("small", 96),
    swin_b=swin("base", 128),
    convnext_t=convnext("tiny", 96),
    convnext_s=convnext("small", 96),
    convnext_b=convnext("base", 128),
    focalnet_t=from_timm("focalnet_tiny_lrf", 96),
    focalnet_s=from_timm("focalnet_small_lrf", 96),
    focalnet_b=from_timm("focalnet_base_lrf", 128),
)


def models_of(name: str, published: Published) -> tuple[list[str], dict[str, str]]:
    """Keys of the models that can be built here, and why other peers cannot."""
    keys, missing = list(SETFORMERS), {}
    for key, model in published.models.items():
        if model.is_setformer:
            continue
        if key not in PEERS:
            missing[key] = "–"
        elif (library := PEERS[key].library) and not importlib.util.find_spec(library):
            missing[key] = f"{library} is not installed"
        else:
            keys.append(key)
    return keys, missing


def config_path(task: Task, key: str) -> Path:
    """The config of a SeTformer, or of the one of a peer's size."""
    return ROOT / "configs" / f"{task.config.format(key[-1])}.py"


def load_config(task: Task, key: str) -> Config:
    """The config of a model, without weights to start from."""
    cfg = Config.fromfile(config_path(task, key))
    cfg.model.backbone.init_cfg = None
    if key in PEERS:
        replace_backbone(cfg, PEERS[key])
    return cfg


def replace_backbone(cfg: Config, peer: Peer) -> None:
    """Put a peer's backbone in the place of ours, and fit what follows it."""
    model = cfg.model
    classifies = cfg.default_scope == "mmpretrain"
    out_indices = (3,) if classifies else (0, 1, 2, 3)
    model.backbone = dict(**peer.backbone, out_indices=out_indices)
    channels = [peer.channels * 2**stage for stage in range(4)]
    if classifies:
        model.head.in_channels = channels[-1]
    elif cfg.default_scope == "mmdet":
        model.neck.in_channels = channels
    else:
        model.decode_head.in_channels = channels
        model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
