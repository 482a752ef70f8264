"""The tools as functions of this process, where a start takes no seconds."""

import importlib.util
import sys
from pathlib import Path

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.visualization import Visualizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(monkeypatch) -> Path:
    """Folder of the toy job, whose module configs can import."""
    folder = ROOT / "tests" / "toy"
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def load_tool(monkeypatch):
    """Load a tool as a module, which dataclasses look up by its name."""

    def load(name: str):
        path = ROOT / "tools" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tool(monkeypatch, load_tool):
    """Run a tool's ``main``: ``tool("train", config, "--amp")``."""
    # The tools set these for their own process.
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    for name in ("_safe_torch_load", "load_url"):
        theirs = getattr(mmengine_checkpoint, name)
        monkeypatch.setattr(mmengine_checkpoint, name, theirs)

    def run(name: str, *arguments: object):
        # mmengine keeps state by the second of a run's start: two runs may share it.
        for manager in (DefaultScope, MessageHub, MMLogger, Visualizer):
            manager._instance_dict.clear()
        module = load_tool(name)
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        return module.main()

    return run
