"""Shrink a checkpoint to what inference and fine-tuning need.

``python tools/publish_checkpoint.py SOURCE TARGET [--dtype fp16] [--config CONFIG]``

The config goes with the weights, so that inferencers of the host libraries need nothing
else. They execute it; hence one that holds more than values is left out.
"""

import argparse
import hashlib
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Keep weights, class names and config; drop the rest: optimiser, "
        "EMA and log state."
    )
    parser.add_argument("source", help="checkpoint of a training run")
    parser.add_argument("target", help="checkpoint to write")
    parser.add_argument(
        "--config", help="put in this one, instead of the checkpoint's own"
    )
    parser.add_argument(
        "--dtype", choices=["fp32", "fp16", "bf16"], help="cast floating-point weights"
    )
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch

from setformer_mm.utils.checkpoints import (
    find_non_finite,
    load_checkpoints_safely,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_checkpoint
from toolkit.config_text import holds_values_alone
from toolkit.launch import read_config, run_tool
from toolkit.outputs import require_sources_kept, require_writable_file

DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def publish(checkpoint: dict, dtype: torch.dtype | None = None) -> dict:
    """Reduce a checkpoint to tensors and plain Python values.

    Args:
        checkpoint: as :func:`read_checkpoint` returns it.
        dtype: of floating-point weights; None keeps them as they are.

    Returns:
        A checkpoint that loads with ``weights_only=True`` and no further permission;
        its ``meta`` has ``cfg``, the text of the config, if that holds values alone.

    Raises:
        UserError: if a weight is too large for ``dtype``.
    """
    weights = {}
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(value, torch.Tensor):  # what a module adds of its own
            weights[name] = value
            continue
        cast = dtype if value.is_floating_point() else None
        # A copy, because a view would be stored with all that it is a view of.
        weights[name] = value.detach().to(dtype=cast, copy=True)
    if too_large := find_non_finite(weights):
        raise UserError(
            f"{too_large[0]} holds numbers that are too large for {dtype}; publish in "
            "bf16 or fp32"
        )
    meta = checkpoint.get("meta", {})
    kept = {key: meta[key] for key in ("epoch", "iter", "seed") if key in meta}
    if names := meta.get("dataset_meta"):
        kept["dataset_meta"] = {
            key: [list(v) if isinstance(v, tuple) else v for v in names[key]]
            for key in ("classes", "palette")
            if names.get(key) is not None
        }
    if holds_values_alone(meta.get("cfg")):
        kept["cfg"] = meta["cfg"]
    return dict(meta=kept, state_dict=weights)


def main() -> None:
    args = parse_args()
    require_writable_file(args.target, "TARGET")
    require_sources_kept([args.source], [args.target])
    load_checkpoints_safely()
    checkpoint = read_checkpoint(args.source)
    if args.config:
        text = read_config(args.config).pretty_text
        checkpoint["meta"] = {**checkpoint.get("meta", {}), "cfg": text}
    published = publish(checkpoint, DTYPES.get(args.dtype))
    content = save_checkpoint(published, args.target)
    count = sum(value.numel() for value in published["state_dict"].values())
    print(f"{Path(args.target)}: {count:,} numbers, {len(content):,} bytes")
    if "cfg" not in published["meta"]:
        print(
            "without a config: the checkpoint has none that holds values alone; "
            "--config puts one in"
        )
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    run_tool(main)
