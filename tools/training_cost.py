"""What training the three result tables costs: ``python tools/training_cost.py``.

Prints the tables of docs/training_cost.md, computed from the configs: multiply-adds and
parameters of their models, images of their schedules, and assumptions that the flags
change. With ``--measured``, what ``tools/gpu_check.sh`` measured takes the place of the
assumed utilisation. ``--document FILE`` writes them between their marks in the file.
"""

import argparse
import logging
import warnings
from dataclasses import replace
from pathlib import Path

VARIANTS = list("mtsb")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=["A100", "H100", "H200"], default="H100")
    parser.add_argument(
        "--utilisation",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="shares of the GPU's peak (default: those of each table)",
    )
    parser.add_argument("--cores", type=int, default=16, help="CPU cores a GPU")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU hour")
    parser.add_argument(
        "--measured",
        metavar="JSON",
        help="what tools/gpu_check.sh wrote on such a GPU, with its backbones",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--document", type=Path, help="where to write the tables, too")
    args = parser.parse_args()
    for share in args.utilisation or ():
        if not 0 < share <= 1:
            parser.error(f"--utilisation takes shares above 0 up to 1, got {share}")
    if args.cores < 1 or args.price < 0:
        parser.error(
            "--cores must be positive and --price not negative, got "
            f"{args.cores} and {args.price}"
        )
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import replace_section, write_atomically
from setformer_mm.utils.markdown import markdown_table
from toolkit.launch import run_tool
from toolkit.model_figures import TASKS
from toolkit.outputs import require_writable_file
from toolkit.training_plans import (
    GPUS_A_NODE,
    JOBS,
    KINDS,
    Model,
    Plan,
    Rates,
    Schedule,
    load,
    measure_model,
    measured_utilisation,
    plan,
    read_schedule,
)

BEGIN = "<!-- begin training-cost: written by tools/training_cost.py -->"
END = "<!-- end training-cost -->"
GPUS = (1, 8, 64)


def span(low: float, high: float) -> str:
    """A range, or one number where its ends do not differ: ``12 to 340``, ``12``."""
    low, high = sorted((low, high))
    texts = [f"{x:,.0f}" if x >= 9.95 else f"{x:.2g}" for x in (low, high)]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def render(
    args: argparse.Namespace,
    models: dict[tuple[str, str], Model],
    schedules: dict[tuple[str, str], Schedule],
    rates: dict[str, tuple[Rates, Rates]],
) -> str:
    """The models, a table a job with a row a variant and number of GPUs, and sums."""
    parts = [models_table(models)]
    totals = {gpus: [0.0, 0.0] for gpus in GPUS}
    for name, job in JOBS.items():
        rows = []
        for gpus in GPUS:
            for variant in args.variants:
                both, alone = (
                    [
                        plan(
                            models[name, variant],
                            schedules[name, variant],
                            assumed,
                            KINDS[args.gpu],
                            count,
                            args.cores,
                        )
                        for assumed in rates[name]
                    ]
                    for count in (gpus, 1)
                )
                for i, chosen in enumerate(both):
                    totals[gpus][i] += chosen.gpu_hours
                label = f"{variant.upper()}, {gpus}"
                rows.append([label, *cells(both, alone, rates[name], args.price)])
        shares = [100 * assumed.utilisation for assumed in rates[name]]
        parts.append(f"**{job.title}**, {span(*shares)} % of the {args.gpu}'s peak:")
        parts.append(markdown_table(HEADER, rows))
    sums = [
        [str(gpus), span(*hours), span(*(args.price * h for h in hours))]
        for gpus, hours in totals.items()
    ]
    parts.append("**All of it:**")
    header = ["GPUs", "GPU hours", f"cost, {args.price:g} a GPU hour"]
    parts.append(markdown_table(header, sums))
    return "\n\n".join(parts)


HEADER = [
    *("variant, GPUs", "batch", "lr", "compute (ms)", "exchange (ms)"),
    *("images/s a node", "cores a GPU", "hours", "GPU hours", "cost", "efficiency"),
]


def cells(
    plans: list[Plan], alone: list[Plan], rates: tuple[Rates, Rates], price: float
) -> list[str]:
    """A row of a job's table, from the cautious and the hopeful plan.

    ``alone`` are those of one GPU, which efficiency is relative to.
    """
    first = plans[0]
    on_node = min(first.gpus, GPUS_A_NODE)
    return [
        f"{first.batch}",
        f"{first.lr:.2g}",
        span(*(1e3 * p.compute for p in plans)),
        f"{1e3 * first.exchange:.1f}",
        span(*(on_node * p.images_a_second for p in plans)),
        span(*(p.images_a_second / r.images_a_core for p, r in zip(plans, rates))),
        span(*(p.hours for p in plans)),
        span(*(p.gpu_hours for p in plans)),
        span(*(price * p.gpu_hours for p in plans)),
        span(*(100 * a.gpu_hours / p.gpu_hours for a, p in zip(alone, plans))) + " %",
    ]


def models_table(models: dict[tuple[str, str], Model]) -> str:
    """What the costs are computed from."""
    variants = list(dict.fromkeys(variant for _, variant in models))
    rows = []
    for name in JOBS:
        row = [TASKS[name].config.format("*")]
        for variant in variants:
            parameters = f"{models[name, variant].parameters / 1e6:.1f} M"
            row.append(
                f"{parameters}, {models[name, variant].multiply_adds / 1e9:.1f} G"
            )
        rows.append(row)
    header = ["parameters, multiply-adds an image", *map(str.upper, variants)]
    return markdown_table(header, rows)


def main() -> None:
    args = parse_args()
    if args.document:
        require_writable_file(args.document, "--document")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    rates = {name: job.rates for name, job in JOBS.items()}
    shares = {}
    if args.measured:
        measured = measured_utilisation(args.measured, args.gpu)
        shares = {name: (share, share) for name, share in measured.items()}
    elif args.utilisation:
        shares = dict.fromkeys(JOBS, args.utilisation)
    for name, both in shares.items():
        rates[name] = tuple(
            replace(assumed, utilisation=share)
            for assumed, share in zip(rates[name], both)
        )
    models, schedules = {}, {}
    for name, job in JOBS.items():
        for variant in args.variants:
            cfg = load(name, variant)
            models[name, variant] = measure_model(cfg)
            schedules[name, variant] = read_schedule(cfg, job.images)
    tables = render(args, models, schedules, rates)
    print(tables)
    if args.document:
        try:
            text = args.document.read_text(encoding="utf-8")
            document = replace_section(text, BEGIN, END, tables)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{args.document}: {error}") from error
        write_atomically(args.document, document)


if __name__ == "__main__":
    run_tool(main)
