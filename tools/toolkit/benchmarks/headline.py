"""What README.md says of the benchmarks: one picture, one table, a few sentences."""

from statistics import median
from typing import TYPE_CHECKING

from setformer_mm.utils.markdown import markdown_table, three_digits

from ..timing import ratio
from .backbones import Setting
from .contenders import EAGER, FORWARD, SDPA
from .problems import STAGES, SWEEP, Problem, single_image
from .reporting import describe

if TYPE_CHECKING:  # only pictures need it
    from matplotlib.figure import Figure

TITLES = {
    "setformer_tiny (cpu)": "SeTformer-T",
    "setformer_tiny (cuda)": "SeTformer-T",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "convnext_tiny": "ConvNeXt-T",
    "resnet50": "ResNet-50",
    "davit_tiny": "DaViT-T",
    "focalnet_tiny_lrf": "FocalNet-T",
    "caformer_s18": "CAFormer-S18",
    "mambaout_tiny": "MambaOut-T",
    "hiera_tiny_224": "Hiera-T",
    "pvt_v2_b2": "PVTv2-B2",
}
# Beside SeTformer and the baseline; the picture has all.
IN_TABLE = ("convnext_tiny", "resnet50")


def section(op: dict, backbone: dict, other_backbone: dict) -> str:
    """Table and sentences as Markdown.

    Args:
        op: what ``tools/bench_op.py`` measured.
        backbone: what ``tools/bench_backbone.py`` measured.
        other_backbone: the same of another processor.
    """
    sentences = [
        f"Speeds are relative to {title(backbone['baseline'])}.",
        *growth(op),
        describe(backbone["environment"]),
        elsewhere(other_backbone),
    ]
    return f"{speeds_table(backbone)}\n\n{' '.join(sentences)}"


def title(name: str) -> str:
    """What a backbone is called where people read of it."""
    return TITLES.get(name, name)


def speeds_table(backbone: dict) -> str:
    """Speed of a few backbones relative to the baseline: ratios of medians."""
    baseline, parameters = backbone["baseline"], backbone["parameters"]
    ours = next(iter(parameters))
    names = [ours, baseline, *(name for name in IN_TABLE if name in parameters)]
    settings = [str(Setting(**record["setting"])) for record in backbone["records"]]
    rows = [
        [title(name), f"{parameters[name] / 1e6:.1f} M", *speeds(backbone, name)]
        for name in names
    ]
    return markdown_table(("", "parameters", *settings), rows)


def elsewhere(backbone: dict) -> str:
    """How much of the lead is left on another processor."""
    ours = next(iter(backbone["parameters"]))
    return (
        f"On another processor, {backbone['environment']['device']}, {title(ours)} has "
        f"{', '.join(speeds(backbone, ours))} in these columns."
    )


def speeds(backbone: dict, name: str) -> list[str]:
    """Relative to the baseline, one a setting: ratios of medians."""
    baseline = backbone["baseline"]
    of_settings = (record["times"] for record in backbone["records"])
    return [three_digits(ratio(t[baseline], t[name])[0]) for t in of_settings]


def growth(op: dict) -> list[str]:
    """How the operator's time grows, and where softmax attention is slower, or faster.

    A sentence for each of both, if it was measured.
    """
    ours = op["contenders"][0]
    times = {
        Problem(**record["problem"]): record["times"]
        for record in op["records"]
        if record["direction"] == FORWARD
    }
    sentences = []
    small, large = map(single_image, SWEEP[-2:])
    if small in times and large in times:
        longer = ratio(times[large][ours], times[small][ours])[0]
        sentences.append(
            f"The attention alone takes {three_digits(longer)} times as long for "
            f"{large.tokens / small.tokens:g} times the tokens."
        )
    compared = []
    for stage in dict.fromkeys((STAGES[0], STAGES[-1])):
        problem = Problem(op["batch"], *stage)
        if SDPA in times.get(problem, {}):
            longer = ratio(times[problem][SDPA], times[problem][ours])[0]
            compared.append(
                f"{three_digits(longer)} times as long with {problem.tokens:,} tokens"
            )
    if compared:
        sentences.append(
            f"Compared with it, in batches of {op['batch']}, the fused softmax "
            f"attention of torch takes {' and '.join(compared)}."
        )
    return sentences


def draw(op: dict, backbone: dict) -> "Figure":
    """Time against tokens, and images a second at a detector's resolution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_growth(left, op)
    _draw_speeds(right, backbone)
    figure.suptitle(f"Measured: {describe(op['environment'])}", fontsize="small")
    return figure


def _draw_growth(panel, op: dict) -> None:
    ours = op["contenders"][0]
    lines = {
        ours: ("SeT attention, compiled", dict(color="tab:red", linewidth=2.5)),
        EAGER: ("SeT attention, PyTorch", dict(color="tab:red", linestyle="--")),
        SDPA: ("softmax attention (torch)", dict(color="tab:gray", linewidth=2.5)),
    }
    for name, (label, style) in lines.items():
        points = {}
        for record in op["records"]:
            problem, times = Problem(**record["problem"]), record["times"]
            is_single = problem == single_image(problem.tokens)
            if record["direction"] == FORWARD and is_single and name in times:
                points[problem.tokens] = 1000 * median(times[name])
        if points:
            panel.loglog(
                *zip(*sorted(points.items())), marker=".", label=label, **style
            )
    panel.set_title("Attention: milliseconds against tokens", fontsize="medium")
    panel.set_xlabel("tokens of one image, two heads")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)


def _draw_speeds(panel, backbone: dict) -> None:
    record = next(
        record
        for record in backbone["records"][::-1]
        if not record["setting"]["training"]
    )
    setting = Setting(**record["setting"])
    ours = next(iter(backbone["parameters"]))
    speeds = {
        name: setting.batch / median(times) for name, times in record["times"].items()
    }
    names = sorted(speeds, key=speeds.get)
    colors = ["tab:red" if name == ours else "tab:gray" for name in names]
    lengths = [speeds[name] for name in names]
    bars = panel.barh([title(name) for name in names], lengths, color=colors)
    panel.bar_label(bars, [three_digits(length) for length in lengths], padding=3)
    panel.margins(x=0.12)
    panel.set_title(f"Backbones, {setting}: images a second", fontsize="medium")
