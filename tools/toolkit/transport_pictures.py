"""Pictures of what SeT attention transports: maps of tokens, iterations and ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from setformer_mm.utils.files import save_figure
from setformer_mm.utils.transport import Transport, effective_rank, marginal_violation

DPI = 120

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
    # Where the tokens end that are no padding.
    bottom, right = (
        side * tokens / of_grid
        for side, tokens, of_grid in zip(picture.shape, shape, transport.grid_shape)
    )
    for panel, values, cell, label in zip(axes[1:], maps, cells, labels):
        heat = (values / values.max()).unflatten(0, shape).numpy()
        panel.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=255)
        panel.autoscale(False)
        # One square a token, the less transparent the hotter.
        panel.imshow(
            heat,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.8 * np.sqrt(heat),
            interpolation="nearest",
            extent=(-0.5, right - 0.5, bottom - 0.5, -0.5),
        )
        panel.set_title(label, fontsize=7, pad=2)
        row, column = divmod(cell, grid[1])
        x = (column + 0.5) / grid[1] * right - 0.5
        y = (row + 0.5) / grid[0] * bottom - 0.5
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
