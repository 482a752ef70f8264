"""Results of training and testing as files, each with what it takes to repeat it."""

import dataclasses
import hashlib
import inspect
import json
import os
import os.path as osp
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from .errors import UserError
from .files import write_atomically
from .json_text import json_text, plain

# What training, testing and testing with augmentation write into the work directory.
FILE_NAMES = dict(
    train="train_result.json", test="test_result.json", tta="tta_result.json"
)

# Fields of a config that make its result: what a runner is made of. Others are titles,
# and variables of which these fields hold copies.
FIELDS = {*inspect.signature(Runner.__init__).parameters, "custom_imports"}
FIELDS |= {"tta_model", "tta_pipeline"}
# Of these do not change a result, or are changed by a resumed run:
FIELDS -= {"launcher", "load_from", "log_level", "resume", "work_dir"}
# Nor does a hook that only ends runs, which then have none.
HOOKS_WITHOUT_INFLUENCE = {"NonFiniteLossHook"}
LIBRARIES = (
    "setformer_mm",
    "torch",
    "mmengine",
    "mmcv",
    "mmpretrain",
    "mmdet",
    "mmseg",
)


@dataclass(frozen=True)
class Result:
    """What a run measured, and of what.

    Attributes:
        kind: "train" (the validation at the end of a training) or "test".
        config: path of the config file, with ``/``; relative to the current directory
            if it lies below that; None if there was no file.
        config_sha256: see :func:`config_sha256`.
        checkpoint: file name of the measured weights; None if a training saved none.
        checkpoint_sha256: of that file.
        metrics: as the host library names them, in its units; None where it has no
            number, as for a class that is absent.
        num_parameters: of the whole model.
        seed: of the run.
        tta: whether test-time augmentation was on.
        versions: of Python and of those libraries of :data:`LIBRARIES` that the run had
            loaded.
        date: of the end of the run, UTC, ISO 8601.
        best: the best validations of a training that looked for them (``save_best``).
    """

    kind: str
    config: str | None
    config_sha256: str
    checkpoint: str | None
    checkpoint_sha256: str | None
    metrics: dict[str, float | list | None]
    num_parameters: int
    seed: int
    tta: bool
    versions: dict[str, str]
    date: str
    best: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a file may hold instead.

        Raises:
            TypeError: naming a field of another type.
        """
        for name, kinds in _FIELD_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise TypeError(f"{name} cannot be {value!r}")


_TEXT, _PERHAPS_TEXT = str, (str, type(None))
_FIELD_TYPES = dict(
    kind=_TEXT,
    config=_PERHAPS_TEXT,
    config_sha256=_TEXT,
    checkpoint=_PERHAPS_TEXT,
    checkpoint_sha256=_PERHAPS_TEXT,
    metrics=dict,
    num_parameters=int,
    seed=int,
    versions=dict,
    date=_TEXT,
    best=dict,
)


def describe_run(
    cfg: Config,
    kind: str,
    metrics: dict,
    model: nn.Module,
    checkpoint: str | None,
    seed: int,
    tta: bool = False,
    best: dict | None = None,
) -> Result:
    """Gather a :class:`Result` at the end of a run.

    Args:
        cfg: the config as the user gave it, flags included.
        kind: "train" or "test".
        metrics: of the host library; NumPy's and torch's types become Python's.
        model: whose parameters are counted.
        checkpoint: path of its weights.
        seed: of the run.
        tta: whether test-time augmentation was on.
        best: as ``metrics``.
    """
    is_file = checkpoint is not None and osp.isfile(checkpoint)
    return Result(
        kind=kind,
        config=cfg.filename and _displayed_path(cfg.filename),
        config_sha256=config_sha256(cfg),
        checkpoint=checkpoint and osp.basename(checkpoint),
        checkpoint_sha256=file_sha256(checkpoint) if is_file else None,
        metrics=plain(metrics),
        num_parameters=sum(p.numel() for p in model.parameters()),
        seed=seed,
        tta=tta,
        versions=_loaded_versions(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        best=plain(best or {}),
    )


def config_sha256(cfg: Config) -> str:
    """Hash what a config says after inheritance and flags.

    Its :data:`FIELDS` without the seed, so that runs which differ in chance alone have
    one hash. The contents of files that it names are not part of it.
    """
    content = _with_text_keys(cfg.to_dict())
    content = {name: value for name, value in content.items() if name in FIELDS}
    if isinstance(hooks := content.get("default_hooks"), dict):
        content["default_hooks"] = {
            name: hook
            for name, hook in hooks.items()
            if not hook or hook.get("type") not in HOOKS_WITHOUT_INFLUENCE
        }
    if isinstance(visualizer := content.get("visualizer"), dict):
        visualizer.pop("name", None)  # tools of the host libraries ask for one
    # A config without this field gets it when a seed is given by a flag.
    if isinstance(randomness := content.setdefault("randomness", {}), dict):
        randomness.pop("seed", None)
    # A function is its name: its text has an address, another one in each process.
    # This is not read as JSON: an infinity is not to have the hash of a None.
    text = json.dumps(
        content,
        sort_keys=True,
        default=lambda value: getattr(value, "__qualname__", str(value)),
    )
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | os.PathLike) -> str:
    """Hash a file without holding all of it in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_result(path: str | os.PathLike, result: Result) -> None:
    """Write a result as JSON, atomically."""
    write_atomically(path, json_text(dataclasses.asdict(result), indent=2))


def read_result(path: str | os.PathLike) -> Result:
    """Read what :func:`write_result` wrote.

    Raises:
        UserError: if there is no such file, or it does not hold a result.
    """
    try:
        return Result(**json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"the result {path} does not exist") from error
    except (ValueError, TypeError) as error:  # no JSON; other fields
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold a result: {reason}") from error


def read_results(folder: str | os.PathLike) -> list[Result]:
    """Read all results in ``folder`` and the folders below it.

    Returns:
        In the order of their paths; none if the folder does not exist.

    Raises:
        UserError: naming the first file that does not hold a result.
    """
    return [read_result(path) for path in sorted(_result_files(Path(folder)))]


def _result_files(folder: Path) -> Iterator[Path]:
    for name in FILE_NAMES.values():
        yield from folder.rglob(name)


def _displayed_path(path: str) -> str:
    path = Path(path).resolve()
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def _loaded_versions() -> dict[str, str]:
    versions = dict(python=platform.python_version())
    for name in LIBRARIES:
        if name in sys.modules:
            versions[name] = str(sys.modules[name].__version__)
    return versions


def _with_text_keys(content):
    """A copy in which all keys are text, at any depth: JSON can sort only such."""
    if isinstance(content, dict):
        return {str(key): _with_text_keys(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_text_keys(value) for value in content]
    return content
