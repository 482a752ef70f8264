"""The tools as functions of this process, where a start takes no seconds."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "tests" / "toy"


def load_tool(name: str) -> ModuleType:
    """Load a tool anew, as a module that dataclasses look up by its name."""
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_main(name: str, *arguments: object):
    """Run a tool's ``main``: ``run_main("train", config, "--amp")``.

    It leaves traces in the process: ``sys.argv``, variables of the environment, and
    what replaces mmengine's readers of checkpoints.
    """
    # mmengine keeps state by the second of a run's start: two runs may share it.
    for manager in (DefaultScope, MessageHub, MMLogger, Visualizer):
        manager._instance_dict.clear()
    module = load_tool(name)
    sys.argv = [module.__file__, *map(str, arguments)]
    return module.main()
