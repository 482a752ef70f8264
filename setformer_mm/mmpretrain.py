"""The classifiers in mmpretrain's list of models.

``import setformer_mm.mmpretrain`` registers them, for ``mmpretrain.list_models``,
``get_model``, ``inference_model`` and ``ImageClassificationInferencer``.
"""

import tempfile
from pathlib import Path

import yaml
from mmpretrain.apis.model import ModelHub

from . import configs

__all__: list[str] = []


def _register() -> None:
    """Register the part of ``model-index.yml`` that mmpretrain can build.

    The name of a detector or a segmentor begins with its head. Committed weights lie in
    a folder beside the config.
    """
    source = configs.root() / "model-index.yml"
    index = yaml.safe_load(source.read_text("utf-8"))
    models = [m for m in index["Models"] if m["Name"].startswith("setformer_")]
    for model in models:
        config = configs.root() / model["Config"]
        model["Config"] = str(config)
        weights = config.parent / "checkpoints" / f"{model['Name']}.pth"
        if weights.exists():
            model["Weights"] = str(weights)
    index["Models"] = models
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        path.write_text(yaml.safe_dump(index, sort_keys=False), "utf-8")
        ModelHub.register_model_index(path)


_register()
