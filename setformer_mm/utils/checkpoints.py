"""Checkpoints: reading them, and whether they fit."""

import os.path as osp
import re
import zipfile

import torch
from mmengine.runner import Runner
from torch import nn

from .errors import UserError
from .safe_unpickling import safe_globals


def read_checkpoint(path: str) -> dict:
    """Load a checkpoint file to the CPU with torch's ``weights_only`` unpickler.

    Raises:
        UserError: if there is no such file, it is not a checkpoint, or it is damaged.
    """
    if not osp.isfile(path):
        raise UserError(f"the checkpoint {path} does not exist")
    try:
        # What mmengine stores besides tensors. It is not allowed once and for all,
        # because mmengine withdraws the permission after each load of its own.
        with torch.serialization.safe_globals(safe_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any type: bytes that are no pickle mean anything
        # torch's own text advises to load the file unsafely; its useful part is a name.
        foreign = re.search(r"GLOBAL (\S+) (was not an allowed|whose)", str(error))
        reason = f"it holds a {foreign[1]}" if foreign else "or is damaged"
        raise UserError(f"{path} is not a checkpoint of weights, {reason}") from error
    _require_checksums(path)
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path} is not a checkpoint: expected a dict, got {type(checkpoint)}"
        )
    return checkpoint


def _require_checksums(path: str) -> None:
    """Check the sums that torch writes into a checkpoint and does not look at."""
    if not zipfile.is_zipfile(path):  # torch's format before 1.6 has none
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise UserError(f"{path} is damaged: the checksum of {damaged} is wrong")


def require_training_state(path: str) -> None:
    """Check that a checkpoint holds what resuming a training needs besides weights.

    Raises:
        UserError: if it does not, or is no checkpoint.
    """
    if "message_hub" not in read_checkpoint(path):
        raise UserError(
            f"{path} holds weights and no state of a training to resume; to start a "
            f"new one from these weights pass --cfg-options load_from={path}"
        )


def require_fitting_weights(runner: Runner, path: str) -> None:
    """Load ``path`` into the runner's model; see :func:`load_fitting_weights`."""
    # Both a distributed wrapper and one for test-time augmentation hold it so.
    model = getattr(runner.model, "module", runner.model)
    load_fitting_weights(getattr(model, "module", model), path)


def load_fitting_weights(model: nn.Module, path: str) -> None:
    """Load ``path`` into ``model``, which must get all of its parameters.

    mmengine only warns of parameters that a checkpoint lacks or that have another
    shape, and then evaluates what is left of the random initialisation.

    Raises:
        UserError: if a parameter is missing or has another shape.
    """
    state_dict = read_checkpoint(path)
    state_dict = state_dict.get("state_dict", state_dict)
    try:
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except RuntimeError as error:  # another shape, even if not strict
        problem = str(error).splitlines()[1].strip()
    else:
        parameters = dict(model.named_parameters())
        missing = [name for name in missing if name in parameters]
        if not missing:
            return
        problem = f"{len(missing)} parameters are missing, the first is {missing[0]}"
    raise UserError(
        f"the checkpoint {path} does not fit the model of this config: {problem}"
    )
