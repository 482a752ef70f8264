"""What lies in ``docs/data``, which the documents are made of."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import Result, read_result

from .ablation.runs import AblationRun, read_runs
from .ablation.speeds import Speeds, read_speeds
from .model_figures import Computed, Published, read_computed, read_published

OVERVIEW = ("converged", "relations")  # the grids of README's table of mixers
# By task, as metafiles spell them.
DATA_SETS = dict(imagenet="ImageNet-1k", coco="COCO", ade20k="ADE20K")


@dataclass(frozen=True)
class Demo:
    """A short run on the embedded data.

    Attributes:
        command: That makes it.
        time: Of the whole command.
        runs: Of its config, a seed each.
    """

    command: str
    time: str
    runs: list[AblationRun]


@dataclass(frozen=True)
class Data:
    """What lies in ``docs/data/``.

    Attributes:
        measured: By name of the config.
        demos: Likewise, by that of the long run.
        ablations: By name of the grid.
        speeds: Of the configs in grids.
    """

    published: Published
    computed: dict[str, dict[str, Computed]]
    measured: dict[str, Result]
    demos: dict[str, Demo]
    ablations: dict[str, list[AblationRun]]
    speeds: Speeds

    @property
    def all_ablations(self) -> list[AblationRun]:
        """The runs of all grids."""
        return [run for runs in self.ablations.values() for run in runs]


def read_data(folder: Path) -> Data:
    """Read all results.

    Raises:
        UserError: naming the first file that is missing or wrong.
    """
    ablations = {
        path.stem: read_runs([path]) for path in sorted(folder.glob("ablation/*.json"))
    }
    for grid in OVERVIEW:
        if grid not in ablations:
            raise UserError(
                f"{folder / 'ablation' / grid}.json does not exist; restore it by git"
            )
    results = [read_result(path) for path in sorted(folder.glob("measured/*.json"))]
    return Data(
        published=read_published(folder / "published.yaml"),
        computed=read_computed(folder / "computed.json"),
        measured={Path(result.config).stem: result for result in results},
        demos=_read_demos(folder),
        ablations=ablations,
        speeds=read_speeds(sorted(folder.glob("benchmarks/configs/*.json"))),
    )


def _read_demos(folder: Path) -> dict[str, Demo]:
    try:
        demos = yaml.safe_load((folder / "demos.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist; restore it by git") from None
    runs: dict[str, list[AblationRun]] = {name: [] for name in demos}
    for run in read_runs([folder / "demos.json"]):
        runs[Path(run.result.config).stem.removesuffix("_demo")].append(run)
    return {name: Demo(**demo, runs=runs[name]) for name, demo in demos.items()}


# The jobs on the embedded data: what they do, the metrics that count, their decimals.
DIGITS = dict(
    mask_rcnn_setformer_digits=(
        "Mask R-CNN",
        {"coco/bbox_mAP": "box mAP", "coco/segm_mAP": "mask mAP"},
        3,
    ),
    upernet_setformer_digits=("UperNet", {"mIoU": "mIoU (%)"}, 1),
    setformer_digits=("classifier", {"accuracy/top1": "top-1 (%)"}, 1),
)
