"""``python -m setformer_mm``: what is installed, what is found, and what is wrong.

Needs torch alone.
"""

import ast
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from .configs import root
from .ops.__main__ import main as print_backends
from .ops.backends import available_backends

# By import name: the maintained distribution, OpenMMLab's own, and what is missing
# without them.
LIBRARIES = dict(
    mmengine=("onedl-mmengine", "mmengine", "configs, hooks and training"),
    mmcv=("onedl-mmcv", "mmcv", "everything of the other three"),
    mmpretrain=("onedl-mmpretrain", "mmpretrain", "classification"),
    mmdet=("onedl-mmdetection", "mmdet", "detection"),
    mmseg=("onedl-mmsegmentation", "mmsegmentation", "segmentation"),
)
# From which on OpenMMLab's mmengine does not read what it saves of a training.
STRICT_TORCH = (2, 6)
DIGITS = "data/digits"


def main() -> None:
    """Print all of it, and one advice a line."""
    print_backends()
    print_libraries()
    print_threads()
    print_data()
    advice = [*advice_on_backends(), *advice_on_libraries()]
    advice += [*advice_on_threads(), *advice_on_data()]
    print("\nAdvice:" if advice else "\nNothing is wrong.")
    for sentence in advice:
        print(f"  - {sentence}.")


def installed() -> dict[str, str | None]:
    """Versions of :data:`LIBRARIES` without importing them; None for a missing one."""
    found = {}
    for name, (maintained, original, _) in LIBRARIES.items():
        found[name] = None
        if find_spec(name) is None:
            continue
        if version := _version(maintained):
            found[name] = version
        elif version := _version(original):
            found[name] = f"{version}, OpenMMLab's own"
        else:
            found[name] = "of an unknown distribution"
    return found


def print_libraries() -> None:
    """Print versions of the libraries."""
    print("Libraries:")
    for name, found in installed().items():
        print(f"  {name:12}{found or 'not installed'}")


def print_threads() -> None:
    """Print how many threads there are, and what for."""
    variable = os.environ.get("OMP_NUM_THREADS", "not set")
    print(
        f"Threads: {torch.get_num_threads()} of torch on {usable_cores()} cores, "
        f"OMP_NUM_THREADS {variable}"
    )


def print_data() -> None:
    """Print which data sets are here."""
    print(f"Data, as the configs name them, below {Path.cwd()}:")
    for folder in data_roots():
        print(f"  {folder:32}{'found' if Path(folder).is_dir() else 'not there'}")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def data_roots() -> list[str]:
    """Folders of data sets that the base configs name as ``data_root``.

    They are read without mmengine, which may not be there.
    """
    files = (root() / "configs/_base_/datasets").glob("*.py")
    roots = {found.rstrip("/") for path in files for found in _data_roots(path)}
    # A folder of the embedded data stands for those below it.
    return sorted(r for r in roots if not any(r.startswith(f"{o}/") for o in roots))


def _data_roots(config: Path) -> Iterator[str]:
    for node in ast.parse(config.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            if any(getattr(target, "id", "") == "data_root" for target in node.targets):
                yield node.value.value


def advice_on_backends() -> Iterator[str]:
    """Tell why a kernel does not run."""
    why_not = available_backends()
    if why_not["cpu"]:
        yield f"the operator runs on the CPU as its reference: {why_not['cpu']}"
    if why_not["cuda"] and torch.cuda.is_available():
        yield f"the operator runs on the GPU as its reference: {why_not['cuda']}"


def advice_on_libraries() -> Iterator[str]:
    """Tell what cannot be used for want of a library."""
    found = installed()
    if not any(found.values()):
        yield (
            "none of the OpenMMLab libraries is installed: setformer_mm.ops works, and "
            "for models, configs and training install requirements/mminstall.txt (or "
            "run `make install`)"
        )
        return
    for name, (maintained, original, lost) in LIBRARIES.items():
        if found[name] is None:
            yield f"{name} is missing, and with it {lost}: pip install {maintained}"
        elif not _version(maintained) and not _version(original):
            yield (
                f"{name} is neither of {maintained}, which is maintained, nor of "
                f"{original}: pip install {maintained} instead"
            )
    if _is_original("mmengine") and _torch_version() >= STRICT_TORCH:
        yield (
            "OpenMMLab's mmengine does not read checkpoints of trainings with torch "
            "2.6 or newer, except in the tools of this package: pip install "
            "onedl-mmengine instead, or an older torch"
        )
    if _is_original("mmcv") and not (_version("numpy") or "1.").startswith("1."):
        yield (
            "OpenMMLab's mmcv fails in changes of hue (ColorJitter) with numpy 2: pip "
            "install 'numpy<2'"
        )
    spec = find_spec("mmcv")
    if spec and not list(Path(spec.origin).parent.glob("_ext*")):
        yield (
            "mmcv has no compiled operators, which detection needs: install onedl-mmcv "
            "with --no-build-isolation"
        )


def advice_on_threads() -> Iterator[str]:
    """Tell when threads stand in each other's way."""
    cores, threads = usable_cores(), torch.get_num_threads()
    if threads > cores:
        yield (
            f"torch takes {threads} threads on {cores} cores, and they wait for one "
            f"another: export OMP_NUM_THREADS={cores}"
        )
    if not hasattr(os, "getloadavg"):
        return
    busy = os.getloadavg()[0]
    if busy > cores and threads > 1:
        yield (
            f"other programs keep the cores busy (load {busy:.1f} on {cores}), and "
            "threads then wait for one another: export OMP_NUM_THREADS=1, or fewer "
            "than there are"
        )


def advice_on_data() -> Iterator[str]:
    """Tell how the embedded data are had."""
    if DIGITS in data_roots() and not Path(DIGITS).is_dir():
        yield (
            f"{DIGITS}, the embedded data of the demo, is not here: run `python "
            "tools/prepare_mini_data.py`, and tools from the repository's folder"
        )


def _is_original(name: str) -> bool:
    maintained, original, _ = LIBRARIES[name]
    return not _version(maintained) and _version(original) is not None


def _torch_version() -> tuple[int, ...]:
    return tuple(map(int, torch.__version__.split(".")[:2]))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
