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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from setformer_mm.models import SeTAttention, SeTformer
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    load_fitting_weights,
    read_checkpoint,
)
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import save_figure
from setformer_mm.utils.transport import (
    WAYS,
    Transport,
    effective_rank,
    marginal_violation,
    record_transports,
)
from toolkit.config_checks import require_parts
from toolkit.launch import (
    add_allow_missing,
    build_model,
    read_config,
    run_tool,
)
from toolkit.outputs import require_writable_folder
from toolkit.pictures import read_picture

ROOT = Path(__file__).resolve().parents[1]
DPI = 120
CONFIG = ROOT / "configs/digits/mask_rcnn_setformer_digits.py"
CHECKPOINT = ROOT / "configs/digits/checkpoints/mask_rcnn_setformer_digits.pth"

# Two rows of three points (x, y), as fractions of width and height.
SPREAD = tuple((x / 6, y / 4) for y in (1, 3) for x in (1, 3, 5))
# Sinkhorn iterations to look at, and as many as stand for convergence.
ITERATIONS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30)
CONVERGED = 100
STAGE_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")

# What blocks transport, by their stage and their number in it.
Transports = dict[tuple[int, int], Transport]


class View(NamedTuple):
    """A row of a contact sheet.

    Attributes:
        block: stage, and block in it.
        head: of the block.
        references: of the head, the same numbers for both ways.
    """

    block: tuple[int, int]
    head: int
    references: list[int]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look inside SeT attention.")
    parser.add_argument("image", help="picture file")
    parser.add_argument("--config", help="config file (that of the mini detector)")
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
        default=SPREAD,
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


def require_picture(path: str) -> None:
    """Check that a file is a picture.

    Raises:
        UserError: if it is none, or not there.
    """
    if not Path(path).is_file():
        raise UserError(f"the picture {path} does not exist")
    read_picture(path)


def build_with_backbone(cfg: Config, path: str) -> tuple[nn.Module, SeTformer]:
    """Build the model of a config and find its backbone.

    Args:
        cfg: the config.
        path: its file.

    Raises:
        UserError: if that is no SeTformer, or one with another attention.
    """
    for field in ("model", "test_dataloader"):
        if field not in cfg:
            raise UserError(f"the config {path} has no field {field}")
    model = build_model(cfg)
    backbone = next((m for m in model.modules() if isinstance(m, SeTformer)), None)
    if backbone is None:
        found = type(getattr(model, "backbone", model)).__name__
        raise UserError(f"the backbone must be SeTformer, got {found} in {path}")
    for stage in backbone.stages:
        for block in stage.blocks:
            if not isinstance(block.attn, SeTAttention):
                found = type(block.attn).__name__
                raise UserError(
                    f"the attention must be SeTAttention, got {found} in {path}"
                )
    return model, backbone


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


def preprocess(cfg: Config, model: nn.Module, path: str) -> tuple[Tensor, np.ndarray]:
    """Send a picture through the test pipeline of a config.

    Returns:
        What the backbone takes, ``(1, 3, H, W)``, and the same to look at: RGB of uint8
        ``(H, W, 3)``, padding black.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    steps = [step for step in dataset.pipeline if "Annotations" not in str(step.type)]
    sample = Compose(steps)(dict(img_path=path, img_id=0))
    batch = {key: [value] for key, value in sample.items()}
    inputs = model.data_preprocessor(batch, False)["inputs"]
    picture = sample["inputs"].flip(0)  # the host libraries load BGR
    below, right = (a - b for a, b in zip(inputs.shape[2:], picture.shape[1:]))
    picture = F.pad(picture, (0, right, 0, below))  # as they do
    return inputs, picture.permute(1, 2, 0).numpy()


def cell_at(point: tuple[float, float], grid: tuple[int, int]) -> int:
    """Number of the cell of a grid (rows, columns) that holds a point (x, y)."""
    (x, y), (rows, columns) = point, grid
    return int(y * rows) * columns + int(x * columns)


def draw_references(
    title: str,
    views: list[View],
    transports: Transports,
    way: str,
    picture: np.ndarray,
    path: Path,
) -> None:
    """A row a head, a map a reference: what it collects, or who reads from it."""
    maps = max(len(view.references) for view in views)
    figure, rows = contact_sheet(title, picture, len(views), maps)
    for view, axes in zip(views, rows):
        transport = transports[view.block]
        to_tokens, from_tokens = transport.factors
        by_reference = from_tokens if way == "in" else to_tokens.mT
        chosen = by_reference[view.head, view.references]
        labels = [f"reference {reference}" for reference in view.references]
        cells = view.references, transport.reference_shape
        draw_row(axes, picture, view, transport, chosen, *cells, labels)
    save_figure(figure, path, DPI)


def draw_attention(
    title: str,
    views: list[View],
    transports: Transports,
    picture: np.ndarray,
    points: Sequence[tuple[float, float]],
    path: Path,
) -> None:
    """Rows of P Q^T: a row a head, a map a token."""
    figure, rows = contact_sheet(title, picture, len(views), len(points))
    for view, axes in zip(views, rows):
        transport = transports[view.block]
        grid = transport.spatial_shape
        tokens = [cell_at(point, grid) for point in points]
        attended = transport.attention_rows(tokens)[view.head]
        places = [divmod(token, grid[1]) for token in tokens]
        labels = [f"row {row}, column {column}" for row, column in places]
        draw_row(axes, picture, view, transport, attended, tokens, grid, labels)
    save_figure(figure, path, DPI)


def contact_sheet(
    title: str, picture: np.ndarray, rows: int, maps: int
) -> tuple[Figure, np.ndarray]:
    """Empty axes for the picture and ``maps`` maps in each of ``rows`` rows."""
    height, width = picture.shape[:2]
    # In inches; the name of a row takes one.
    row_height = max(1.0, 1.25 * height / width) + 0.25
    size = 1.35 * (1 + maps), row_height * rows + 0.4
    figure = Figure(figsize=size, layout="constrained")
    title = f"{title}; each map relative to its largest value"
    figure.suptitle(title, fontsize=9, wrap=True)
    axes = figure.subplots(rows, 1 + maps, squeeze=False)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[], frame_on=False)
    return figure, axes


def draw_row(
    axes: Sequence[Axes],
    picture: np.ndarray,
    view: View,
    transport: Transport,
    maps: Tensor,
    cells: Sequence[int],
    grid: tuple[int, int],
    labels: Sequence[str],
) -> None:
    """The picture, and over grey copies of it what belongs to cells of a grid.

    Args:
        axes: one for the picture and one a map.
        picture: RGB ``(H, W, 3)``.
        view: for its name.
        transport: where the maps come from.
        maps: ``(n, N)``, non-negative.
        cells: ``n`` cells to circle.
        grid: rows and columns of cells.
        labels: ``n`` of them.
    """
    (stage, block), head, _ = view
    shape = transport.spatial_shape
    name = f"stage {stage}, block {block}\nhead {head}\n{shape[0]} x {shape[1]} tokens"
    axes[0].imshow(picture)
    axes[0].set_ylabel(name, fontsize=7)
    height, width = picture.shape[:2]
    for panel, values, cell, label in zip(axes[1:], maps, cells, labels):
        heat = (values / values.max()).unflatten(0, shape).numpy()
        panel.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=255)
        # One square a token, the less transparent the hotter.
        panel.imshow(
            heat,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.8 * np.sqrt(heat),
            interpolation="nearest",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        panel.set_title(label, fontsize=7, pad=2)
        row, column = divmod(cell, grid[1])
        x = (column + 0.5) / grid[1] * width - 0.5
        y = (row + 0.5) / grid[0] * height - 0.5
        for marked in (axes[0], panel):
            marked.plot(x, y, "o", color="cyan", markerfacecolor="none", markersize=4)


def draw_sinkhorn(transports: Transports, path: Path) -> None:
    """Column sums by iteration, their violation, and the distance from the limit.

    Plans of both ways count alike, one a head each.
    """
    stages = sorted({stage for stage, _ in transports})
    sums, distances = {i: [] for i in stages}, {i: [] for i in stages}
    for (stage, _), transport in tqdm(transports.items(), "Sinkhorn", unit="block"):
        of_block = transport.convergence(ITERATIONS, CONVERGED)
        sums[stage].append(of_block[0])
        distances[stage].append(of_block[1])

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    upper, lower = figure.subfigures(2)
    upper.suptitle(
        "Column sums of the plans T, in and back, times M, by Sinkhorn iterations L "
        "(dotted: the model's)",
        fontsize=9,
    )
    sum_axes = upper.subplots(1, len(stages), sharey=True)
    violation_axes, distance_axes = lower.subplots(1, 2)
    for stage, axes, color in zip(stages, sum_axes, STAGE_COLORS):
        of_blocks = [block.flatten(1) * block.shape[-1] for block in sums[stage]]
        draw_band(axes, torch.cat(of_blocks, 1), color)
        axes.set(title=f"stage {stage}", xlim=(0, 10), yscale="log", ylim=(0.1, 10))
        label = f"stage {stage}"
        violations = [marginal_violation(block).flatten(1) for block in sums[stage]]
        draw_band(violation_axes, torch.cat(violations, 1), color, label)
        draw_band(distance_axes, torch.cat(distances[stage], 1), color, label)
    violation_axes.set(title="Violation of the marginal: $|T^T 1 - 1/M|_1$")
    distance_axes.set(
        title=f"Output: $|o - o^*| / |o^*|$ with $o^*$ of L = {CONVERGED}"
    )
    for axes in (violation_axes, distance_axes):
        axes.set(yscale="log", ylim=(1e-8, 2))
        axes.legend(fontsize=7, title="median and range", title_fontsize=7)
    used = {transport.attention.num_iters for transport in transports.values()}
    for axes in (*sum_axes, violation_axes, distance_axes):
        axes.set_xlabel("L", fontsize=8)
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        for num_iters in used:
            axes.axvline(num_iters, color="black", linestyle=":", linewidth=1)
    save_figure(figure, path, DPI)


def draw_band(axes: Axes, values: Tensor, color: str, label: str | None = None) -> None:
    """Median and range of values ``(iterations, n)`` over ``n``."""
    band = values.aminmax(dim=1)
    axes.fill_between(ITERATIONS, *band, color=color, alpha=0.2, linewidth=0)
    median = values.quantile(0.5, dim=1)
    axes.plot(ITERATIONS, median, ".-", color=color, label=label, linewidth=1)


def rank_by_head(transports: Transports) -> dict[tuple[int, int], list[float]]:
    """Effective ranks of P Q^T, one a head of each block."""
    return {
        block: effective_rank(transport.singular_values()).tolist()
        for block, transport in transports.items()
    }


def bound_of_rank(transport: Transport) -> int:
    """The number of references, or of tokens if there are fewer."""
    return int(min(map(np.prod, (transport.spatial_shape, transport.reference_shape))))


def draw_rank(
    ranks: dict[str, dict[tuple[int, int], list[float]]],
    transports: Transports,
    path: Path,
) -> None:
    """Blocks from left to right, a point a head.

    Args:
        ranks: by the name of what they are of, and by block.
        transports: for the bounds.
        path: where to write.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    blocks = list(transports)
    for (name, of_blocks), marker, shift in zip(ranks.items(), "o+x", (-0.2, 0, 0.2)):
        points = [(x + shift, y) for x, b in enumerate(blocks) for y in of_blocks[b]]
        axes.plot(*zip(*points), marker, markerfacecolor="none", label=name)
    bounds = [bound_of_rank(transports[block]) for block in blocks]
    x = np.arange(len(blocks))
    axes.hlines(bounds, x - 0.4, x + 0.4, "black", label="bound, min(M, N)")
    axes.set_xticks(x, [f"{i}.{j}" for i, j in blocks], fontsize=7)
    axes.set_xlabel("stage.block")
    axes.set_ylabel("effective rank, a point a head")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path, DPI)


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
    cfg = read_config(args.config)
    require_parts(cfg, ("model", "test_dataloader"))
    load_checkpoints_safely()
    read_checkpoint(args.checkpoint)
    model, backbone = build_with_backbone(cfg, args.config)
    views = choose_views(backbone, args)
    load_fitting_weights(model, args.checkpoint, args.allow_missing)

    inputs, picture = preprocess(cfg, model, args.image)
    attentions = {
        (i, j): block.attn
        for i, stage in enumerate(backbone.stages)
        for j, block in enumerate(stage.blocks)
    }
    recorded = record_transports(backbone, list(attentions.values()), inputs)
    transports = dict(zip(attentions, recorded))
    by_content = {key: t.without_positions() for key, t in transports.items()}
    by_position = {key: t.without_content() for key, t in transports.items()}

    def path(name: str) -> Path:
        return args.out / f"{name}.{args.format}"

    args.out.mkdir(parents=True, exist_ok=True)
    for way, name, shown in (
        ("in", "references", "What references (circles) collect"),
        ("back", "return_references", "Who reads from return references (circles)"),
    ):
        draw_references(shown, views, transports, way, picture, path(name))
        draw_references(
            f"{shown}, without position weights",
            views,
            by_content,
            way,
            picture,
            path(f"{name}_without_positions"),
        )
    draw_attention(
        "What tokens (circles) attend to",
        views,
        transports,
        picture,
        args.points,
        path("attention"),
    )
    ranks = {
        "P Q^T": rank_by_head(transports),
        "without positions": rank_by_head(by_content),
        "positions alone": rank_by_head(by_position),
    }
    draw_rank(ranks, transports, path("rank"))
    print_table(ranks, transports)
    draw_sinkhorn(transports, path("sinkhorn"))
    print(f"Pictures drawn in {args.out}")


if __name__ == "__main__":
    run_tool(main)
