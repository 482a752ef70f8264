"""What a batch's padding does to the features of a picture, and to the time.

``python tools/measure_padding.py CONFIG CHECKPOINT`` takes the backbone of a trained
model and pictures of its validation split, and compares it with itself where padding is
ignored. Without arguments, SeTformer-T stands beside other backbones of its size, all
with random weights, on pictures of noise. Each picture is run alone and with zeros on
the right and below, as the host libraries pad a batch. Printed is ``|padded - alone| /
|alone|`` over the area of the picture, the mean over pictures of the largest of a
backbone's outputs, and the time of pictures padded to twice their area over that of
the pictures alone.
"""

import argparse
import copy
from collections.abc import Callable
from statistics import median
from time import perf_counter

from toolkit.flags import add_allow_missing, positive_integer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what padding changes.")
    parser.add_argument("config", nargs="?", help="config file")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file")
    parser.add_argument(
        "--num-images", type=positive_integer, default=32, help="images to average"
    )
    parser.add_argument(
        "--rounds", type=positive_integer, default=5, help="of timing, in turns"
    )
    add_allow_missing(parser)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from setformer_mm.models import SeTformer
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.markdown import markdown_table
from toolkit.launch import read_config, run_tool
from toolkit.preflight import require_data

PADDED_SHARES = (0.125, 0.25, 0.5, 1.0)
DOUBLE = 2**0.5 - 1  # longer sides by this make twice the area
PEERS = {
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "PVTv2-B2": "pvt_v2_b2",
    "ResNet-50": "resnet50",
}
PICTURE_OF_NOISE = 224, 320

# From pictures (B, C, H, W) to maps (B, channels, H', W').
Backbone = Callable[[Tensor], list[Tensor]]


def padded(image: Tensor, share: float) -> Tensor:
    """Make each side longer by about a share of it, with zeros.

    By a multiple of four pixels, which some of timm's want of their sides.
    """
    rows, cols = (4 * round(side * share / 4) for side in image.shape[2:])
    return F.pad(image, (0, cols, 0, rows))


@torch.no_grad()
def relative_changes(backbone: Backbone, image: Tensor, share: float) -> Tensor:
    """Compare features of ``image`` ``(1, C, H, W)`` with and without padding.

    Returns:
        Tensor: One relative change an output of the backbone.
    """
    alone = backbone(image)
    together = backbone(padded(image, share))
    return torch.stack(
        [
            (b[..., : a.shape[2], : a.shape[3]] - a).norm() / a.norm()
            for a, b in zip(alone, together)
        ]
    )


@torch.no_grad()
def seconds(backbone: Backbone, image: Tensor) -> float:
    start = perf_counter()
    backbone(image)
    return perf_counter() - start


def measure(
    backbones: dict[str, Backbone], images: list[Tensor], rounds: int
) -> list[list[str]]:
    """One row a backbone: changes in per cent, one a share, and the ratio of times."""
    batch = images[0].repeat(8, 1, 1, 1)
    pair = batch, padded(batch, DOUBLE)
    ratios: dict[str, list[float]] = {name: [] for name in backbones}
    for turn in range(rounds + 1):  # the first one warms up
        for name, backbone in backbones.items():
            alone, together = (seconds(backbone, given) for given in pair)
            if turn:
                ratios[name].append(together / alone)
    rows = []
    for name, backbone in backbones.items():
        changes = [
            sum(relative_changes(backbone, i, share).max().item() for i in images)
            for share in PADDED_SHARES
        ]
        cells = [f"{100 * change / len(images):.2g}" for change in changes]
        rows.append([name, *cells, f"{median(ratios[name]):.2f}"])
    return rows


def ignoring(backbone: SeTformer) -> SeTformer:
    """The same backbone, for which padding is picture."""
    twin = copy.deepcopy(backbone)
    twin.padding = "ignore"
    return twin


def trained(args: argparse.Namespace) -> tuple[dict[str, Backbone], list[Tensor]]:
    """The backbone of a checkpoint, and pictures of its validation split."""
    cfg = read_config(args.config)
    require_data(cfg, ("val",))
    checkpoint = read_checkpoint(args.checkpoint)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    load_fitting_weights(model, args.checkpoint, args.allow_missing, checkpoint)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    images = []
    for index in range(min(args.num_images, len(dataset))):
        sample = dataset[index]
        data = dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]])
        images.append(model.data_preprocessor(data, False)["inputs"])
    backbone = model.backbone
    return {"as it is": backbone, "padding ignored": ignoring(backbone)}, images


def peers(num_images: int) -> tuple[dict[str, Backbone], list[Tensor]]:
    """SeTformer-T and peers of its size, and pictures of noise."""
    try:
        import timm
    except ImportError as error:
        raise UserError("peers come from timm: pip install timm") from error
    torch.manual_seed(0)
    setformer = as_if_trained(SeTformer("tiny"))
    backbones = {"SeTformer-T": setformer, "padding ignored": ignoring(setformer)}
    for name, model in PEERS.items():
        any_size = dict(strict_img_size=False) if "swin" in model else {}
        model = timm.create_model(model, features_only=True, **any_size)
        backbones[name] = maps_of(as_if_trained(model))
    images = [torch.randn(1, 3, *PICTURE_OF_NOISE) for _ in range(num_images)]
    return backbones, images


@torch.no_grad()
def as_if_trained(model: nn.Module) -> nn.Module:
    """Give it biases, and scales near 1, where it starts with zeros or nearly so: with
    these zeros stay zeros, and branches that mix pixels count for nothing.
    """
    for name, parameter in model.named_parameters():
        noise = 0.1 * torch.randn_like(parameter)
        if name.endswith("bias"):
            parameter.add_(noise)
        elif parameter.ndim == 1:
            parameter.copy_(1 + noise)
    return model.eval()


def maps_of(model: nn.Module) -> Backbone:
    """Some of timm's have their channels last."""

    def run(images: Tensor) -> list[Tensor]:
        maps = model(images)
        channels = model.feature_info.channels()
        return [
            m if m.shape[1] == count else m.permute(0, 3, 1, 2)
            for m, count in zip(maps, channels)
        ]

    return run


def main() -> None:
    args = parse_args()
    if (args.config is None) != (args.checkpoint is None):
        raise UserError("CONFIG and CHECKPOINT go together; without both, peers")
    load_checkpoints_safely()
    if args.config is None:
        backbones, images = peers(args.num_images)
    else:
        backbones, images = trained(args)
    header = ["each side longer by"]
    header += [f"{100 * share:g} %" for share in PADDED_SHARES]
    header += ["time at twice the area"]
    print(f"{len(images)} images; largest change of an output in per cent\n")
    print(markdown_table(header, measure(backbones, images, args.rounds)))


if __name__ == "__main__":
    run_tool(main)
