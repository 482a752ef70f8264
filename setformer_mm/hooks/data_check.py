"""Look at the data before a training or a test, and say what is not there."""

from collections.abc import Iterator

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import Dataset

from ..utils.data_contents import head_faults, look_into, table
from ..utils.data_sources import class_errors, class_warnings
from ..utils.errors import UserError


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Log what the data sets of a run hold, and stop what cannot go well.

    One table says how many pictures and boxes there are of each class. Stopped are
    missing, empty and unreadable pictures and label maps, labels out of range, class
    names that the annotations do not have, class folders that are not there, and heads
    that are too small for the data. Warnings are of classes that nothing is annotated
    of, annotations of classes that the config does not have, class names in another
    order than the data's, and heads that are too large.

    On the main process, once, before weights are loaded. It reads no data set again;
    :mod:`setformer_mm.utils.data_contents` says how much it opens.

    Args:
        strict (bool): Whether errors stop the run; False makes warnings of them.

    Raises:
        UserError: With all errors, if ``strict``.
    """

    priority = "VERY_HIGH"

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def before_run(self, runner: Runner) -> None:
        """Look at all data sets that the run has built."""
        found: list = [([], [], "")]
        if is_main_process():
            found = [self._look(runner)]
        broadcast_object_list(found)  # or the others would wait for one that stopped
        errors, warnings, text = found[0]
        if text:
            runner.logger.info(f"The data:\n{text}")
        for sentence in warnings + ([] if self.strict else errors):
            runner.logger.warning(sentence)
        if errors and self.strict:
            raise UserError("; ".join(errors))

    def _look(self, runner: Runner) -> tuple[list[str], list[str], str]:
        datasets = dict(_built_datasets(runner))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        errors, warnings, contents = [*class_errors(datasets)], [], []
        if not errors:
            warnings += class_warnings(datasets)
        for key, dataset in datasets.items():
            if (found := look_into(dataset, key)) is None:
                continue
            contents.append(found)
            too_small, too_large = head_faults(model, found)
            errors += found.errors + too_small
            # Of a class that is missing, one sentence is enough.
            warnings += too_large + found.warnings()
        trained = [found for found in contents if found.key.startswith("train_")]
        if trained and all(found.lacks_boxes for found in trained):
            errors.append(
                f"nothing is annotated in {', '.join(found.key for found in trained)}: "
                "a detector would learn that there is nothing"
            )
        return errors, _unique(warnings), table(contents) if contents else ""


def _built_datasets(runner: Runner) -> Iterator[tuple[str, Dataset]]:
    """Yield ``(config key, dataset)`` of the loops that have been built."""
    seen: set[int] = set()
    for split in ("train", "val", "test"):
        loop = getattr(runner, f"_{split}_loop")
        if isinstance(loop, BaseLoop) and hasattr(loop, "dataloader"):
            key = f"{split}_dataloader.dataset"
            for name, dataset in _leaves(loop.dataloader.dataset, key):
                if id(dataset) not in seen:
                    seen.add(id(dataset))
                    yield name, dataset


def _leaves(dataset: Dataset, key: str) -> Iterator[tuple[str, Dataset]]:
    """Unwrap ConcatDataset, RepeatDataset, ..."""
    if hasattr(dataset, "datasets"):
        for index, part in enumerate(dataset.datasets):
            yield from _leaves(part, f"{key}.datasets.{index}")
    elif hasattr(dataset, "dataset"):
        yield from _leaves(dataset.dataset, f"{key}.dataset")
    else:
        yield key, dataset


def _unique(sentences: list[str]) -> list[str]:
    return list(dict.fromkeys(sentences))
