"""``model-index.yml``, as mim and modelindex read it."""

from pathlib import Path

import yaml

from setformer_mm.utils.results import Result

from .documented_data import DATA_SETS, DIGITS, Data
from .model_figures import SETFORMERS


def model_index(data: Data) -> str:
    """``model-index.yml``, as mim and modelindex read it."""
    models = []
    for name, label in DATA_SETS.items():
        for key in SETFORMERS:
            computed = data.computed[name][key]
            metadata = {
                "Training Data": label,
                "Parameters": computed.parameters,
                "FLOPs": computed.multiply_adds,
            }
            models.append(index_entry(computed.config, metadata))
    for name in DIGITS:
        result = data.measured[name]
        metadata = {
            "Training Data": "digits in photographs (embedded)",
            "Parameters": result.num_parameters,
        }
        models.append(index_entry(result.config, metadata, digits_results(result)))
    content = dict(Collections=[COLLECTION], Models=models)
    return INDEX_HEADER + yaml.safe_dump(content, sort_keys=False)


def index_entry(config: str, metadata: dict, results: list | None = None) -> dict:
    entry = {
        "Name": Path(config).stem,
        "In Collection": COLLECTION["Name"],
        "Config": config,
        "Metadata": metadata,
    }
    return entry | (dict(Results=results) if results else {})


def digits_results(result: Result) -> list[dict]:
    """What a committed checkpoint reached, in the metafiles' terms."""
    entries = []
    for logged, (task, metric, scale) in INDEX_METRICS.items():
        if (value := result.metrics.get(logged)) is not None:
            entries.append(
                {
                    "Task": task,
                    "Dataset": "digits in photographs (embedded)",
                    "Metrics": {metric: round(scale * value, 2)},
                }
            )
    return entries


INDEX_HEADER = """\
# Written by tools/update_docs.py. Parameters and FLOPs (multiply-adds of an image) are
# computed by tools/tables.py: at 224 x 224, with Mask R-CNN at 1280 x 800, with UperNet
# at 512 x 2048. Results are measured; weights are listed once they have an address.
"""
COLLECTION = {
    "Name": "SeTformer",
    "Metadata": {
        "Architecture": [
            "Convolutional stem",
            "SeT attention (entropic optimal transport onto learned references)",
        ]
    },
    "Paper": {
        "Title": "SeTformer Is What You Need for Vision and Language",
        "URL": "https://arxiv.org/abs/2401.03540",
    },
    "README": "README.md",
}
# Task, metric, and what makes a percentage of it, by what the host libraries log.
INDEX_METRICS = {
    "accuracy/top1": ("Image Classification", "Top 1 Accuracy", 1),
    "coco/bbox_mAP": ("Object Detection", "box AP", 100),
    "coco/segm_mAP": ("Instance Segmentation", "mask AP", 100),
    "mIoU": ("Semantic Segmentation", "mIoU", 1),
}
