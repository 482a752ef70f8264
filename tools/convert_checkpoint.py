"""Turn a checkpoint of NAT into an initialisation of SeTformer.

``python tools/convert_checkpoint.py NAT.pth OUT.pth --config CONFIG``

SeTformer has the skeleton of the Neighborhood Attention Transformer (Hassani et al.,
CVPR 2023, arXiv 2204.07143): stem, downsampling, norms and MLPs are the same layers and
are copied. Of NAT's attention the projections to the values and of the output are taken
over: what a head carries from token to token passes through these two, as it passes
through ``in_proj`` and ``out_proj`` in SeT attention. Queries and keys have a
counterpart only in mixers that project to all three; position biases have none here,
anchors and references none in NAT. The file written holds what comes from NAT and
nothing else: the rest is up to the model that loads it.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Turn a checkpoint of NAT into an initialisation of SeTformer."
    )
    parser.add_argument(
        "source", help="checkpoint of a NAT classifier, detector or segmenter"
    )
    parser.add_argument("target", help="checkpoint to write")
    parser.add_argument("--config", required=True, help="config that will start so")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import torch
from mmengine.config import Config
from torch import Tensor

from setformer_mm.models import SeTformer
from setformer_mm.models.mlp import MixFFN
from setformer_mm.utils.checkpoints import load_checkpoints_safely, read_checkpoint
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_checkpoint
from toolkit.launch import build_model, read_config, run_tool
from toolkit.outputs import require_sources_kept, require_writable_file

# Parts of our names and what NAT calls them, in its classification/nat.py.
NAT_NAMES = {
    "backbone.": "",
    "stages.": "levels.",
    "patch_embed.conv1.": "patch_embed.proj.0.",
    "patch_embed.conv2.": "patch_embed.proj.1.",
    "downsample.conv.": "downsample.reduction.",
    "attn.in_proj.": "attn.qkv.",
    "attn.qkv_proj.": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.2.": "mlp.fc2.",
    "head.fc.": "head.",
}
# The layers behind which NAT-S and NAT-B scale each channel of a branch.
LAYER_SCALES = {"attn.proj.": "gamma1", "mlp.fc2.": "gamma2"}
# Without these there is no skeleton to speak of.
LANDMARKS = (
    "patch_embed.proj.1.weight",
    "levels.0.blocks.0.attn.qkv.weight",
    "levels.0.blocks.0.mlp.fc1.weight",
)


class Row(NamedTuple):
    """What became of one tensor: a line of the report."""

    what: str  # copied, adapted, fresh, or left out
    ours: str  # name here, if it has one
    nat: str  # name in NAT, if it has one, and what was done to it
    count: int  # of numbers


class Skeleton(NamedTuple):
    """What two networks must share for their layers to fit."""

    embed_dims: int
    mlp_ratio: float
    depths: tuple[int, ...]

    def __str__(self) -> str:
        depths = ", ".join(map(str, self.depths))
        return (
            f"{self.embed_dims} channels, MLP ratio {self.mlp_ratio:g} "
            f"and depths {depths}"
        )


def read_nat(path: str) -> dict[str, Tensor]:
    """Read the tensors of a NAT, by their names in a classifier.

    Raises:
        UserError: if it is no checkpoint, damaged, or one of something else.
    """
    nat = {
        name.removeprefix("backbone."): value.float()
        for name, value in read_checkpoint(path)["state_dict"].items()
        if isinstance(value, Tensor)
    }
    for name in LANDMARKS:
        if name not in nat:
            found = f", its first is {next(iter(nat))}" if nat else ""
            raise UserError(
                f"{path} is not a checkpoint of NAT: it has no tensor {name}{found}"
            )
    return nat


def read_targets(cfg: Config) -> dict[str, Tensor]:
    """Build the model of a config and return its tensors by name.

    Raises:
        UserError: if its backbone is not SeTformer, or no NAT can be its start.
    """
    model = build_model(cfg) if "model" in cfg else None
    if not isinstance(getattr(model, "backbone", None), SeTformer):
        raise UserError(f"{cfg.filename} has no model with a SeTformer as its backbone")
    if any(isinstance(module, MixFFN) for module in model.backbone.modules()):
        raise UserError(
            f"{cfg.filename} has mix_ffn=True, and NAT's MLPs have no convolutions; "
            "convert without it"
        )
    return {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("_extra_state")  # no weight
    }


def nat_name(name: str, nat: Mapping[str, Tensor]) -> str:
    """Name in NAT of what fills a tensor of ours; empty outside backbone and head."""
    if not name.startswith(("backbone.", "head.fc.")):
        return ""
    for ours, theirs in NAT_NAMES.items():
        name = name.replace(ours, theirs)
    # A classifier has one norm, behind the last stage; other models number theirs.
    return name.replace("norm3.", "norm.") if "norm.weight" in nat else name


def skeleton(tensors: Mapping[str, Tensor]) -> Skeleton:
    """Read the skeleton off tensors that have NAT's names."""
    depths = defaultdict(int)
    for name in tensors:
        if block := re.match(r"levels\.(\d+)\.blocks\.(\d+)\.", name):
            level, index = map(int, block.groups())
            depths[level] = max(depths[level], index + 1)
    embed_dims = tensors["patch_embed.proj.1.weight"].shape[0]
    hidden_dims = tensors["levels.0.blocks.0.mlp.fc1.weight"].shape[0]
    in_order = tuple(depths[level] for level in sorted(depths))
    return Skeleton(embed_dims, hidden_dims / embed_dims, in_order)


def require_same_skeleton(ours: Skeleton, nat: Skeleton) -> None:
    """Check that only blocks at the very end of NAT have no place here.

    A block left out further in front would change what all blocks behind it see.

    Raises:
        ValueError: naming both skeletons.
    """
    last = len(ours.depths) - 1
    fits = (
        ours[:2] == nat[:2]
        and last < len(nat.depths)
        and ours.depths[:last] == nat.depths[:last]
        and ours.depths[last] <= nat.depths[last]
    )
    if not fits:
        raise ValueError(
            f"NAT of {nat} against SeTformer of {ours}; M takes NAT-M, T takes NAT-T, "
            "S takes NAT-S, and B takes NAT-B"
        )


def adapt(
    source: str, nat: Mapping[str, Tensor], name: str
) -> tuple[Tensor, list[str], str]:
    """Read a tensor of NAT in the form that the layer of our ``name`` has.

    Returns:
        The tensor, the names of what went into it, and what was done, "" if nothing.
    """
    value = nat[source]
    # `qkv` has queries, keys, values, all heads of each together, as `qkv_proj` has.
    if ".attn.in_proj." in name:
        return value.chunk(3)[-1], [source], ", values alone"
    for layer, scale in LAYER_SCALES.items():
        block, is_scaled, _ = source.partition(layer)
        if is_scaled and block + scale in nat:
            scaled = torch.einsum("o,o...->o...", nat[block + scale], value)
            return scaled, [source, block + scale], f" x {scale}"
    return value, [source], ""


def convert(
    nat: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Row]]:
    """Fill the tensors of a model from NAT as far as it has them.

    Args:
        nat: what :func:`read_nat` returns.
        targets: tensors of the model by name, of which shape and dtype matter.

    Returns:
        The filled tensors by name, and the report on all tensors of both sides.

    Raises:
        ValueError: if the two do not fit.
    """
    sources = {name: nat_name(name, nat) for name in targets}
    require_same_skeleton(
        skeleton({sources[name]: value for name, value in targets.items()}),
        skeleton(nat),
    )
    converted, rows, used = {}, [], set()
    for name, target in targets.items():
        source = sources[name]
        if source not in nat:
            require_may_be_fresh(name, source)
            rows.append(Row("fresh", name, "", target.numel()))
            continue
        value, read, how = adapt(source, nat, name)
        if value.shape != target.shape and name.startswith("head."):
            rows.append(Row("fresh", name, "", target.numel()))  # for other classes
            continue
        if value.shape != target.shape:
            raise ValueError(
                f"{source} gives {tuple(value.shape)}, but {name} is "
                f"{tuple(target.shape)}"
            )
        # A copy, because a view would be stored with all that it is a view of.
        converted[name] = value.to(target.dtype, copy=True)
        what = "adapted" if how else "copied"
        rows.append(Row(what, name, source + how, target.numel()))
        used.update(read)
    rows += [
        Row("left out", "", name, value.numel())
        for name, value in nat.items()
        if name not in used
    ]
    return converted, rows


def require_may_be_fresh(name: str, source: str) -> None:
    """Refuse to leave a layer of the skeleton without its weights.

    NAT has nothing for anchors and references, a classifier no norms of the other
    stages, and nothing of it stands for another neck or head.
    """
    of_skeleton = name.startswith("backbone.") and ".attn." not in name
    if of_skeleton and not re.match(r"backbone\.norm\d\.", name):
        raise ValueError(f"it lacks {source}, which {name} starts from")


def print_report(rows: list[Row]) -> None:
    """Print every tensor, and the sums."""
    width = max(len(row.ours) for row in rows)
    for row in rows:
        print(f"{row.what:9} {row.ours or '-':{width}} {row.nat or '-'}")
    total = sum(row.count for row in rows if row.ours)
    print()
    for what in ("copied", "adapted", "fresh", "left out"):
        counts = [row.count for row in rows if row.what == what]
        line = f"{what:9} {len(counts):4} tensors, {sum(counts):11,} numbers"
        if what != "left out":
            line += f", {sum(counts) / total:5.1%} of the model"
        print(line)


def main() -> None:
    args = parse_args()
    load_checkpoints_safely()
    require_writable_file(args.target, "TARGET")
    require_sources_kept([args.source], [args.target])
    nat = read_nat(args.source)
    cfg = read_config(args.config)
    try:
        weights, rows = convert(nat, read_targets(cfg))
    except ValueError as error:
        sentence = f"{args.source} does not fit {args.config}: {error}"
        raise UserError(sentence) from error
    print_report(rows)
    meta = dict(converted_from=Path(args.source).name)
    save_checkpoint(dict(meta=meta, state_dict=weights), args.target)
    is_pretrained = cfg.model.backbone.get("init_cfg")
    key = "model.backbone.init_cfg.checkpoint" if is_pretrained else "load_from"
    print(f"Initialisation written to {args.target}; train from it with")
    print(f"  python tools/train.py {args.config} --cfg-options {key}={args.target}")


if __name__ == "__main__":
    run_tool(main)
