"""A runner of the toy job, in this process."""

import itertools
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

TOY = Path(__file__).resolve().parents[1] / "toy"
numbers = itertools.count()


@pytest.fixture
def toy_runner(tmp_path, monkeypatch):
    """Build a runner: ``toy_runner("epochs" | "iters", work_dir, {option: value})``."""
    monkeypatch.syspath_prepend(str(TOY))

    def build(kind: str, work_dir: str = "run", options: dict | None = None) -> Runner:
        cfg = Config.fromfile(TOY / f"toy_{kind}.py")
        cfg.work_dir = str(tmp_path / work_dir)
        cfg.log_level = "ERROR"
        # mmengine keeps state by name: one runner must not find another's.
        cfg.experiment_name = f"toy{next(numbers)}"
        cfg.merge_from_dict(options or {})
        return Runner.from_cfg(cfg)

    return build
