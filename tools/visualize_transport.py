"""Look inside SeT attention: what references collect and give back, and to whom.

``python tools/visualize_transport.py IMAGE [--config CONFIG --checkpoint FILE]`` takes
the committed detector of the embedded data unless told otherwise, and draws

- ``references``: what some references collect, which are columns of Q;
- ``return_references``: who reads from those of the way back, columns of P;
- ``..._without_positions``: both again by the transport plans alone;
- ``attention``: what some tokens attend to, which are rows of P Q^T;
- ``sinkhorn``: how fast the plans meet their marginals, and the output its limit;
- ``rank``: the effective rank of P Q^T, what it comes from, and its bound.

All but the last two show one head of each stage, or with ``--stage`` all heads of one.
Stages, blocks, heads and references are counted from 0, references row by row.
docs/looking_inside.md has an example.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from toolkit.flags import add_allow_missing

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/digits/mask_rcnn_setformer_digits.py"
CHECKPOINT = ROOT / "configs/digits/checkpoints/mask_rcnn_setformer_digits.pth"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look inside SeT attention.")
    parser.add_argument("image", help="picture file")
    parser.add_argument("--config", help="config file (that of the detector of digits)")
    parser.add_argument("--checkpoint", help="checkpoint file (its committed one)")
    parser.add_argument("--stage", type=int, help="one stage (one head of each)")
    parser.add_argument("--block", type=int, help="block in the stage (its last one)")
    parser.add_argument(
        "--head", type=int, nargs="+", help="heads (0, or with --stage all)"
    )
    parser.add_argument(
        "--references", type=int, nargs="+", help="references (six spread out)"
    )
    parser.add_argument(
        "--points",
        type=to_point,
        nargs="+",
        metavar="X,Y",
        help="tokens, as fractions of width and height (six spread out)",
    )
    parser.add_argument("--out", help="folder to write (transport_output/<image>)")
    parser.add_argument("--format", choices=["png", "jpg"], default="png")
    add_allow_missing(parser)
    args = parser.parse_args()
    if (args.config is None) != (args.checkpoint is None):
        parser.error("--config and --checkpoint belong together")
    args.config = args.config or str(CONFIG)
    args.checkpoint = args.checkpoint or str(CHECKPOINT)
    args.out = Path(args.out or Path("transport_output", Path(args.image).stem))
    return args


def to_point(text: str) -> tuple[float, float]:
    """Read ``X,Y``."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = -1
    if not (0 <= x < 1 and 0 <= y < 1):
        raise argparse.ArgumentTypeError(f"must be X,Y with both in [0, 1), got {text}")
    return x, y


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.models import SeTformer
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.transport import WAYS, marginal_violation, record_transports
from toolkit.config_checks import require_parts
from toolkit.inspected_model import (
    attentions_of,
    build_with_backbone,
    preprocess,
    require_picture,
)
from toolkit.launch import read_config, run_tool
from toolkit.outputs import require_sources_kept, require_writable_folder
from toolkit.transport_pictures import (
    SPREAD,
    Transports,
    View,
    bound_of_rank,
    cell_at,
    draw_attention,
    draw_rank,
    draw_references,
    draw_sinkhorn,
    rank_by_head,
)

# What is written: of either way with position weights and without, and of both.
PICTURES = (
    *("references", "references_without_positions"),
    *("return_references", "return_references_without_positions"),
    *("attention", "rank", "sinkhorn"),
)


def choose_views(backbone: SeTformer, args: argparse.Namespace) -> list[View]:
    """Choose the rows of the contact sheets.

    Raises:
        UserError: if a stage, block, head or reference does not exist.
    """
    stages = range(len(backbone.stages))
    if args.stage is not None:
        require_in_range("--stage", [args.stage], len(stages))
        stages = [args.stage]
    views = []
    for i in stages:
        blocks = backbone.stages[i].blocks
        block = len(blocks) - 1 if args.block is None else args.block
        require_in_range("--block", [block], len(blocks), f" in stage {i}")
        attention = blocks[block].attn
        heads, references = args.head, args.references
        if heads is None:
            heads = [0] if args.stage is None else range(attention.num_heads)
        require_in_range("--head", heads, attention.num_heads, f" in stage {i}")
        if references is None:
            cells = [cell_at(point, attention.reference_shape) for point in SPREAD]
            references = list(dict.fromkeys(cells))
        count = attention.references.shape[1]
        require_in_range("--references", references, count, f" in stage {i}")
        views += [View((i, block), head, references) for head in heads]
    return views


def require_in_range(
    flag: str, values: Iterable[int], count: int, where: str = ""
) -> None:
    """Check numbers that count from 0.

    Raises:
        UserError: naming the first that is not in ``0..count-1``.
    """
    for value in values:
        if not 0 <= value < count:
            raise UserError(f"{flag} must be in 0..{count - 1}{where}, got {value}")


def print_table(
    ranks: dict[str, dict[tuple[int, int], list[float]]], transports: Transports
) -> None:
    """Print how well plans meet their marginals (the worst head), and the ranks.

    Rows meet theirs always, because the iterations end on them.
    """
    columns = ["block", "tokens", "heads", "in", "back", *ranks, "bound"]
    table = [columns]
    for block, transport in transports.items():
        plans = [transport.plan(way) for way in WAYS]
        violations = (marginal_violation(plan.sum(-2)).max() for plan in plans)
        spans = [(min(r[block]), max(r[block])) for r in ranks.values()]
        table.append(
            [
                "stage {}, block {}".format(*block),
                *map(str, (plans[0].shape[1], plans[0].shape[0])),
                *(f"{violation:.0e}" for violation in violations),
                *(f"{low:.1f} to {high:.1f}" for low, high in spans),
                str(bound_of_rank(transport)),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table)]
    print(
        "Violation of 1/M by the columns of both plans (L1, the worst head), "
        "effective ranks:"
    )
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))


def main() -> None:
    args = parse_args()
    require_writable_folder(args.out, "--out")
    require_picture(args.image)
    paths = {name: args.out / f"{name}.{args.format}" for name in PICTURES}
    require_sources_kept([args.image], paths.values())
    cfg = read_config(args.config)
    require_parts(cfg, ("model", "test_dataloader"))
    load_checkpoints_safely()
    checkpoint = read_checkpoint(args.checkpoint)
    model, backbone = build_with_backbone(cfg, args.config)
    views = choose_views(backbone, args)
    load_fitting_weights(model, args.checkpoint, args.allow_missing, checkpoint)

    inputs, picture = preprocess(cfg, model, args.image)
    attentions = attentions_of(backbone)
    recorded = record_transports(backbone, list(attentions.values()), inputs)
    transports = dict(zip(attentions, recorded))
    by_content = {key: t.without_positions() for key, t in transports.items()}
    by_position = {key: t.without_content() for key, t in transports.items()}

    args.out.mkdir(parents=True, exist_ok=True)
    for way, name, shown in (
        ("in", "references", "What references (circles) collect"),
        ("back", "return_references", "Who reads from return references (circles)"),
    ):
        draw_references(shown, views, transports, way, picture, paths[name])
        draw_references(
            f"{shown}, without position weights",
            views,
            by_content,
            way,
            picture,
            paths[f"{name}_without_positions"],
        )
    draw_attention(
        "What tokens (circles) attend to",
        views,
        transports,
        picture,
        args.points or SPREAD,
        paths["attention"],
    )
    ranks = {
        "P Q^T": rank_by_head(transports),
        "without positions": rank_by_head(by_content),
        "positions alone": rank_by_head(by_position),
    }
    draw_rank(ranks, transports, paths["rank"])
    print_table(ranks, transports)
    draw_sinkhorn(transports, paths["sinkhorn"])
    print(f"Pictures drawn in {args.out}")


if __name__ == "__main__":
    run_tool(main)
