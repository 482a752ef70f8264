"""The figures in the three tables of results: what the paper of SeTformer states, what
the authors of its peers publish, what is computed and what runs have measured.

They lie in ``docs/data``; :mod:`toolkit.model_tables` shows them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from setformer_mm.utils.results import Result

SETFORMERS = tuple(f"setformer_{variant}" for variant in "mtsb")  # keys of models
FIGURES = dict(params=("parameters", "M"), flops=("multiply-adds", "G"))


@dataclass(frozen=True)
class Metric:
    """A measure of accuracy.

    Attributes:
        title: What tables call it.
        logged: What the host library calls it.
        scale: Makes a percentage of a logged value.
        tta: Whether it takes test-time augmentation.
    """

    title: str
    logged: str
    scale: float = 1.0
    tta: bool = False


@dataclass(frozen=True)
class Task:
    """One of the tables.

    Attributes:
        title: Data set, method and size of the images for multiply-adds.
        config: Name of our configs, with the variant left open.
        height: Of those images.
        width: Likewise.
        metrics: By their names in the published figures.
    """

    title: str
    config: str
    height: int
    width: int
    metrics: dict[str, Metric]


TASKS = dict(
    imagenet=Task(
        "ImageNet-1K, 224 x 224",
        "setformer_{}_in1k",
        *(224, 224),
        dict(top1=Metric("top-1", "accuracy/top1")),
    ),
    coco=Task(
        "COCO, Mask R-CNN, 3x schedule; multiply-adds at 1280 x 800",
        "mask_rcnn_setformer_{}",
        *(800, 1280),
        dict(
            box_ap=Metric("box AP", "coco/bbox_mAP", scale=100),
            mask_ap=Metric("mask AP", "coco/segm_mAP", scale=100),
        ),
    ),
    ade20k=Task(
        "ADE20K, UperNet, 160k iterations; multiply-adds at 512 x 2048",
        "upernet_setformer_{}",
        *(512, 2048),
        dict(
            miou=Metric("mIoU", "mIoU"),
            miou_ms=Metric("ms + flip", "mIoU", tta=True),
        ),
    ),
)


@dataclass(frozen=True)
class Computed:
    """What is computed of a model.

    Attributes:
        config: Our config file that it is built from.
        parameters: Of the whole model.
        multiply_adds: Of one image, see
            :func:`setformer_mm.utils.complexity.count_model`.
        backbone: What takes the place of SeTformer in that config, for a peer.
    """

    config: str
    parameters: int
    multiply_adds: int
    backbone: dict | None = None

    def amount(self, figure: str) -> int:
        """One of :data:`FIGURES`."""
        return self.parameters if figure == "params" else self.multiply_adds


@dataclass(frozen=True)
class Model:
    """A model with what is published of it, or stated if it is SeTformer.

    Attributes:
        name: What tables call it.
        source: Key of the source of its figures.
        figures: By task: params in millions, flops in 10^9, metrics in percent; under
            ``source`` the key of another source, under ``stated_as`` the difference to
            a peer that is stated in place of a metric.
    """

    name: str
    source: str
    figures: dict[str, dict]

    @property
    def is_setformer(self) -> bool:
        """Whether its figures are stated, not published with a model."""
        return self.source == "setformer"


@dataclass(frozen=True)
class Claim:
    """What the paper states of SeTformer's size, cost or speed.

    Attributes:
        model: Key of the SeTformer.
        than: Key of the peer; none with an amount.
        figure: One of :data:`FIGURES`.
        fewer: By how many percent it is stated to be smaller; 0 without a number.
        about: Whether it is stated to be similar instead.
        amount: What it is stated to be instead, a whole number in the figure's unit.
        says: The statement, where it is about something else.
        needs: What it would take to check that.
    """

    model: str
    than: str = ""
    figure: str = ""
    fewer: int = 0
    about: bool = False
    amount: int | None = None
    says: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Published:
    """``docs/data/published.yaml``.

    Attributes:
        notes: By task, sentences with the keys of the models that they are about.
    """

    sources: dict[str, dict]
    models: dict[str, Model]
    claims: dict[str, list[Claim]]
    notes: dict[str, dict[str, list[str]]]


def read_published(path: str | os.PathLike) -> Published:
    """Read what others say.

    Raises:
        UserError: if there is no such file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; run this in a checkout of the repository"
        ) from error
    models = {
        key: Model(
            name=entry["name"],
            source=entry["source"],
            figures={task: entry[task] for task in TASKS if task in entry},
        )
        for key, entry in content["models"].items()
    }
    claims = {
        task: [Claim(**claim) for claim in claims]
        for task, claims in content["claims"].items()
    }
    notes = {
        task: {note["says"]: note["about"] for note in notes}
        for task, notes in content["notes"].items()
    }
    return Published(content["sources"], models, claims, notes)


def write_computed(
    path: str | os.PathLike,
    computed: Mapping[str, Mapping[str, Computed]],
    versions: Mapping[str, str],
    date: str,
) -> None:
    """Write what is computed, by task and model, atomically."""
    tasks = {
        task: {key: _without_none(asdict(model)) for key, model in models.items()}
        for task, models in computed.items()
    }
    content = dict(date=date, versions=dict(versions), **tasks)
    write_atomically(path, json_text(content, indent=1))


def read_computed(path: str | os.PathLike) -> dict[str, dict[str, Computed]]:
    """Read what :func:`write_computed` wrote.

    Raises:
        UserError: if there is no such file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; tools/tables.py writes it") from error
    return {
        task: {key: Computed(**model) for key, model in content[task].items()}
        for task in TASKS
        if task in content
    }


def measured_metrics(
    task: Task, variant: str, results: Sequence[Result]
) -> dict[str, float]:
    """What runs of a config have reached, the newest first.

    Args:
        task: the table.
        variant: letter of the SeTformer.
        results: of all runs; a run belongs to the config if the file names agree.

    Returns:
        Metrics in percent, those that were measured.
    """
    config = f"{task.config.format(variant)}.py"
    metrics = {}
    for result in sorted(results, key=lambda result: result.date):
        if Path(result.config or "").name != config:
            continue
        for key, metric in task.metrics.items():
            value = result.metrics.get(metric.logged)
            if result.tta == metric.tta and value is not None:
                metrics[key] = metric.scale * value
    return metrics


def _without_none(content: dict) -> dict:
    return {key: value for key, value in content.items() if value is not None}
