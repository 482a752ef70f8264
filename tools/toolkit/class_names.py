"""What the classes of a config's data are called, and their colours."""

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope


def read_class_names(cfg: Config, checkpoint: dict) -> dict:
    """Class names and palette: the config's, else its data set's, else the file's.

    The host libraries look into the checkpoint alone and fall back to COCO or
    Cityscapes, while published weights may hold nothing but weights.

    Args:
        cfg: with a ``test_dataloader``.
        checkpoint: as :func:`~setformer_mm.utils.checkpoints.read_checkpoint` has it.

    Returns:
        ``classes`` and ``palette``, as far as they are known.
    """
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        known = DATASETS.get(dataset.type)
    return {
        **(checkpoint.get("meta", {}).get("dataset_meta") or {}),
        **getattr(known, "METAINFO", {}),
        **dataset.get("metainfo", {}),
    }
