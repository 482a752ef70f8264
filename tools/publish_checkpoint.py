"""Shrink a checkpoint to what inference and fine-tuning need.

``python tools/publish_checkpoint.py SOURCE TARGET [--dtype fp16]``
"""

import argparse
import hashlib
from pathlib import Path

import torch

from setformer_mm.utils.checkpoints import (
    find_non_finite,
    load_checkpoints_safely,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_checkpoint
from toolkit.launch import run_tool
from toolkit.outputs import require_another_file, require_writable_file

DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Keep weights and class names; drop optimiser, EMA and log state."
    )
    parser.add_argument("source", help="checkpoint of a training run")
    parser.add_argument("target", help="checkpoint to write")
    parser.add_argument("--dtype", choices=DTYPES, help="cast floating-point weights")
    return parser.parse_args()


def publish(checkpoint: dict, dtype: torch.dtype | None = None) -> dict:
    """Reduce a checkpoint to tensors and plain Python values.

    Args:
        checkpoint: as :func:`read_checkpoint` returns it.
        dtype: of floating-point weights; None keeps them as they are.

    Returns:
        A checkpoint that loads with ``weights_only=True`` and no further permission.

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
    return dict(meta=kept, state_dict=weights)


def main() -> None:
    args = parse_args()
    require_writable_file(args.target, "TARGET")
    require_another_file(args.source, args.target)
    load_checkpoints_safely()
    published = publish(read_checkpoint(args.source), DTYPES.get(args.dtype))
    content = save_checkpoint(published, args.target)
    count = sum(value.numel() for value in published["state_dict"].values())
    print(f"{Path(args.target)}: {count:,} numbers, {len(content):,} bytes")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    run_tool(main)
