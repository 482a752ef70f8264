"""How much padding changes the features of an image.

``python tools/measure_padding.py CONFIG CHECKPOINT``

Padded pixels become tokens that carry transport mass, so an image's features depend on
how much the batch pads it. Each validation image of the config is run alone and with
zeros added on the right and below, as the host libraries pad a batch. Printed is
``|padded - alone| / |alone|`` over the area of the image, for each backbone output.
"""

import argparse

import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor
from torch.nn import functional as F

from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.launch import add_allow_missing, read_config, run_tool
from setformer_mm.utils.preflight import require_data

PADDED_SHARES = (0.125, 0.25, 0.5, 1.0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what padding changes.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--num-images", type=int, default=32, help="images to average")
    add_allow_missing(parser)
    return parser.parse_args()


@torch.no_grad()
def relative_changes(backbone: torch.nn.Module, image: Tensor, share: float) -> Tensor:
    """Compare features of ``image`` ``(1, C, H, W)`` with and without padding.

    Returns:
        Tensor: One relative change an output of the backbone.
    """
    height, width = image.shape[2:]
    padding = (0, round(width * share), 0, round(height * share))
    alone = backbone(image)
    padded = backbone(F.pad(image, padding))
    return torch.stack(
        [
            (b[..., : a.shape[2], : a.shape[3]] - a).norm() / a.norm()
            for a, b in zip(alone, padded)
        ]
    )


def main() -> None:
    args = parse_args()
    load_checkpoints_safely()
    cfg = read_config(args.config)
    require_data(cfg, ("val",))
    read_checkpoint(args.checkpoint)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    load_fitting_weights(model, args.checkpoint, args.allow_missing)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    images = []
    for index in range(min(args.num_images, len(dataset))):
        sample = dataset[index]
        data = dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]])
        images.append(model.data_preprocessor(data, False)["inputs"])
    print(f"{len(images)} images; change of each output of the backbone in per cent")
    for share in PADDED_SHARES:
        changes = [relative_changes(model.backbone, image, share) for image in images]
        row = "".join(f"{100 * c:8.1f}" for c in torch.stack(changes).mean(0))
        print(f"each side longer by {100 * share:5.1f} %: {row}")


if __name__ == "__main__":
    run_tool(main)
