"""What the classes of a config's data are called, and their colours."""

import os.path as osp

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from setformer_mm.utils.data_sources import unwrapped


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
    dataset = unwrapped(cfg.test_dataloader.dataset)
    # A registry of mmengine looks into a host library's for what it builds alone.
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        known = registry.get(dataset.type)
    names = {
        **((checkpoint.get("meta") or {}).get("dataset_meta") or {}),
        **getattr(known, "METAINFO", {}),
        # mmpretrain's data sets have a field of their own besides.
        **(dict(classes=dataset.classes) if dataset.get("classes") else {}),
        **(dataset.get("metainfo") or {}),
    }
    if isinstance(path := names.get("classes"), str):
        names["classes"] = list_from_file(path) if osp.isfile(path) else [path]
    return names
