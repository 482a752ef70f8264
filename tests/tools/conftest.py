"""The tools as functions of this process, which they leave as it was."""

import sys
from pathlib import Path

import in_process
import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from setformer_mm.models import SeTAttention
from setformer_mm.utils import checkpoints

ROOT = Path(__file__).resolve().parents[2]
# The embedded data, as little of it as a training and a test take.
LITTLE = "--train-scenes 8 --val-scenes 4 --train-crops 20 --val-crops 10".split()
LITTLE += "--train-relations 4 --val-relations 4".split()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with the paths that the configs name: their own, and little data."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "configs").symlink_to(ROOT / "configs")
    tool = in_process.load_tool("prepare_mini_data")
    tool.main(["--out", str(folder / "data" / "digits"), *LITTLE])
    return folder


@pytest.fixture
def toy(monkeypatch) -> Path:
    """Folder of the toy job, whose module configs can import."""
    monkeypatch.syspath_prepend(str(in_process.TOY))
    return in_process.TOY


@pytest.fixture
def wrong_engine(monkeypatch):
    """torch.export's graphs compute one percent too much."""
    from setformer_mm.export import FORMATS

    kind = FORMATS["torch-export"]

    def load(path):
        run = kind.load(path)
        return lambda images: tuple(1.01 * out for out in run(images))

    monkeypatch.setitem(FORMATS, "torch-export", kind._replace(load=load))


@pytest.fixture
def wrong_attention(monkeypatch):
    """SeT attention of float32 and lower gives twice what it should."""
    right = SeTAttention.forward

    def wrong(self, x, *args):
        out = right(self, x, *args)
        return out if x.dtype == torch.float64 else 2 * out

    monkeypatch.setattr(SeTAttention, "forward", wrong)


@pytest.fixture
def load_tool():
    """Load a tool as a module."""
    return in_process.load_tool


@pytest.fixture
def tool(monkeypatch):
    """Run a tool's ``main``: ``tool("train", config, "--amp")``."""
    # The tools set these for their own process.
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in checkpoints._READERS:
        theirs = getattr(mmengine_checkpoint, name)
        monkeypatch.setattr(mmengine_checkpoint, name, theirs)
    return in_process.run_main


@pytest.fixture
def run_module(monkeypatch):
    """Run an imported tool's ``main``: ``run_module(bench_op, "--quick")``."""

    def run_module(module, *arguments: object) -> None:
        arguments = [module.__file__, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", arguments)
        module.main()

    return run_module


@pytest.fixture
def refused(run_module, monkeypatch, capsys):
    """Run a benchmark whose gate must stay closed; return what it says."""

    def refused(module, *arguments: object) -> str:
        def measured(*args, **kwargs):
            raise AssertionError("something was measured")

        monkeypatch.setattr(module, "interleave", measured)
        monkeypatch.setattr(module, "peak_memory", measured)
        with pytest.raises(SystemExit) as end:
            run_module(module, *arguments)
        assert capsys.readouterr().out == ""
        # A string ends a process with status 1, on stderr.
        assert isinstance(end.value.code, str)
        return end.value.code

    return refused
