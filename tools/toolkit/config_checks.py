"""What a config says that cannot be meant, found before anything is built."""

import difflib
import os
from collections.abc import Iterator, Sequence

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import FIELDS

# Integers and the least value of each. Where a loader has none, its field is skipped.
INTEGERS = {
    "train_cfg.max_epochs": 1,
    "train_cfg.max_iters": 1,
    "train_cfg.val_interval": 1,
    "train_cfg.val_begin": 0,
    **{f"{split}_dataloader.batch_size": 1 for split in ("train", "val", "test")},
    **{f"{split}_dataloader.num_workers": 0 for split in ("train", "val", "test")},
    "optim_wrapper.accumulative_counts": 1,
    "default_hooks.checkpoint.interval": -1,
    "default_hooks.checkpoint.max_keep_ckpts": -1,
    "default_hooks.logger.interval": 1,
    "randomness.seed": 0,
    "auto_scale_lr.base_batch_size": 1,
}
# Top-level fields besides those that make a result: how runs start, titles, and
# variables that configs of the host libraries commonly have.
OTHER_FIELDS = {"ablation", "activation_checkpointing", "efficient_conv_bn_eval"}
OTHER_FIELDS |= {"find_unused_parameters", "launcher", "load_from", "log_level"}
OTHER_FIELDS |= {"model_wrapper_cfg", "resume", "runner_type", "sync_bn", "work_dir"}
VARIABLES = {f"{split}_pipeline" for split in ("train", "val", "test")}
VARIABLES |= {"test_dataset", "train_dataset", "val_dataset"}
# A misspelling shares more than this with the right word.
LIKENESS = 0.85

# Norms over the images of a batch; the second kind over those of all processes.
BATCH_NORMS, SYNCHRONISED = {"BN", "BN1d", "BN2d", "MMBN"}, {"SyncBN", "MMSyncBN"}
SETFORMERS = {"SeTformer", "setformer_mm.SeTformer"}
# Heads that normalise a picture pooled to one pixel, beside those with `pool_scales`.
POOLING_HEADS = {"ASPPHead", "DepthwiseSeparableASPPHead"}


def misspelt_fields(cfg: Config) -> list[str]:
    """Find top-level fields that no tool reads and that look like one that is read.

    A config may have any variable of its own: only a near miss is a mistake.

    Returns:
        One sentence a field.
    """
    known = FIELDS | OTHER_FIELDS
    return [
        f"the config's field {name} has no effect; did you mean {near[0]}?"
        for name in sorted(cfg.keys() - known - VARIABLES)
        if (near := difflib.get_close_matches(name, known, 1, LIKENESS))
    ]


def padding_mistaken(cfg: Config) -> list[str]:
    """Find what keeps a SeTformer from telling padding, zeros below and to the right.

    Returns:
        One sentence for each reason; none for a backbone that does not look for it.
    """
    backbones = [
        d for _, d in _dicts(cfg.get("model"), "") if d.get("type") in SETFORMERS
    ]
    if all(backbone.get("padding") == "ignore" for backbone in backbones):
        return []
    in_model = _get(cfg, "model.data_preprocessor")
    preprocessor = in_model or cfg.get("data_preprocessor") or {}
    kinds_of = {
        split: [
            str(part.get("type")).rpartition(".")[2]  # without a scope
            for _, part in _dicts(_get(cfg, f"{split}_dataloader.dataset"), split)
        ]
        for split in ("train", "val", "test")
    }
    found = []
    for name in ("pad_value", "pad_val"):
        if preprocessor.get(name):
            found.append(
                f"data_preprocessor.{name}={preprocessor[name]} pads with what the "
                "backbone takes for picture; 0 is found and left out"
            )
    is_normalised = any(preprocessor.get("mean") or ())
    if not is_normalised and not any("Normalize" in k for k in kinds_of.values()):
        found.append(
            "data_preprocessor has no mean but 0, so that what is black below or on "
            "the right of a picture counts as padding; set it, or padding='ignore' in "
            "the backbone"
        )
    for split, kinds in kinds_of.items():
        if "Pad" in kinds and "Normalize" not in kinds[: kinds.index("Pad")]:
            found.append(
                f"Pad in the pipeline of {split}_dataloader pads before pictures are "
                "normalised, which the backbone takes for picture; leave it to "
                "data_preprocessor"
            )
    return found


def require_parts(cfg: Config, names: Sequence[str]) -> None:
    """Check that a config has these parts at its top level, each of them a dict.

    Raises:
        UserError: naming those that are missing, or one that is something else.
    """
    missing = [name for name in names if cfg.get(name) is None]
    if missing:
        raise UserError(
            f"the config {cfg.filename} lacks {', '.join(missing)}; add what is "
            "missing, or inherit it from a config in configs/_base_"
        )
    for name in names:
        if not isinstance(cfg[name], dict):
            raise UserError(
                f"{name} of the config {cfg.filename} must be a dict, got {cfg[name]!r}"
            )


def require_integers(cfg: Config) -> None:
    """Check :data:`INTEGERS`, of which a float or -1 otherwise fails much later.

    Raises:
        UserError: naming the first field that is out of its rule.
    """
    for key, least in INTEGERS.items():
        value = _get(cfg, key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{key} must be an integer of at least {least}, got {value!r}"
            )


def require_hooks(cfg: Config) -> None:
    """Check that ``custom_hooks`` are hooks.

    Raises:
        UserError: if not.
    """
    hooks = cfg.get("custom_hooks") or []
    if not isinstance(hooks, list | tuple) or not all(
        isinstance(hook, Hook) or (isinstance(hook, dict) and "type" in hook)
        for hook in hooks
    ):
        raise UserError(
            "custom_hooks must be a list of hooks, [dict(type=...), ...], "
            f"got {hooks!r}"
        )


def require_enough_for_batch_norm(cfg: Config) -> None:
    """Check that no batch norm sees a single value a channel in training.

    Heads that pool a picture to one pixel and normalise it need two pictures.

    Raises:
        UserError: if there is only one.
    """
    batch_size = _get(cfg, "train_dataloader.batch_size")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for key, head in _dicts(cfg.get("model"), "model"):
        norm = (head.get("norm_cfg") or {}).get("type")
        pools = (
            1 in (head.get("pool_scales") or ()) or head.get("type") in POOLING_HEADS
        )
        if not pools or norm not in BATCH_NORMS | SYNCHRONISED:
            continue
        if batch_size == 1 and (norm in BATCH_NORMS or processes == 1):
            raise UserError(
                f"{key} ({head.get('type')}) pools pictures to one pixel and "
                f"normalises it over the batch (norm_cfg.type={norm}), which needs two "
                "pictures: pass train_dataloader.batch_size=2 or more, or norm_cfg="
                "dict(type='GN', num_groups=32)"
            )


def require_usable_class_weights(cfg: Config) -> None:
    """Check that a loss of mmseg with ``class_weight`` can meet an ignored pixel.

    Raises:
        UserError: if it cannot, as in OpenMMLab's own release: on a GPU the process
            would end without a reason.
    """
    if cfg.get("default_scope") != "mmseg":
        return
    for key, loss in _dicts(cfg.get("model"), "model"):
        if loss.get("type") != "CrossEntropyLoss" or loss.get("use_sigmoid"):
            continue
        if loss.get("class_weight") is not None and class_weights_break():
            raise UserError(
                f"{key} has a class_weight, with which the loss of this mmseg fails at "
                "the first pixel to ignore, as in padding; install "
                f"onedl-mmsegmentation, or pass {key}.class_weight=None"
            )


def require_fitting_class_counts(cfg: Config, splits: Sequence[str]) -> None:
    """Check how many classes the parts of a classifier of mmpretrain believe in.

    Args:
        cfg: a whole config.
        splits: some of "train", "val" and "test".

    Raises:
        UserError: if labels become one-hot vectors of another length than that of the
            head's logits, which fails in the first iteration, or accuracy is wanted of
            more classes than there are, which fails after a first epoch.
    """
    # Test-time augmentation wraps the model.
    model = _get(cfg, "model.module") or cfg.get("model") or {}
    number = _get(model, "head.num_classes")
    if cfg.get("default_scope") != "mmpretrain" or not isinstance(number, int):
        return
    in_model = model.get("data_preprocessor")
    key = "model.data_preprocessor" if in_model else "data_preprocessor"
    preprocessor = in_model or cfg.get(key) or {}
    # mmpretrain's classifier has its augmentations of batches in `train_cfg`.
    augments = preprocessor.get("batch_augments", model.get("train_cfg"))
    makes_vectors = preprocessor.get("to_onehot") or augments
    found = preprocessor.get("num_classes")  # samples may say it, too
    if "train" in splits and makes_vectors and found not in (None, number):
        raise UserError(
            f"{key}.num_classes must be {number}, as model.head.num_classes is, "
            f"because labels become one-hot vectors in training, got {found}"
        )
    for split in splits:
        for name, metric in _dicts(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            kind = getattr(metric.get("type"), "__name__", str(metric.get("type")))
            if kind.rpartition(".")[2] != "Accuracy":
                continue
            topk = metric.get("topk", 1)
            if max([topk] if isinstance(topk, int) else topk or [1]) > number:
                raise UserError(
                    f"{name}.topk must be at most {number}, the number of classes of "
                    f"model.head, got {topk}"
                )


def class_weights_break() -> bool:
    """Whether mmseg indexes class weights with the labels of ignored pixels."""
    from mmseg.models.losses.cross_entropy_loss import cross_entropy

    ignored = torch.full((1, 1, 1), 255)
    try:
        cross_entropy(
            torch.zeros(1, 2, 1, 1),
            ignored,
            class_weight=torch.ones(2),
            ignore_index=255,
        )
    except IndexError:
        return True
    return False


def _get(cfg: Config | dict, key: str):
    """The value of a dotted key, None if it is not there."""
    value = cfg
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict | Config) else None
    return value


def _dicts(node, key: str) -> Iterator[tuple[str, dict]]:
    """Yield each dict inside a config with its key."""
    if isinstance(node, dict):
        yield key, node
    children = node.items() if isinstance(node, dict) else ()
    if isinstance(node, list | tuple):
        children = enumerate(node)
    for name, child in children:
        yield from _dicts(child, f"{key}.{name}")
