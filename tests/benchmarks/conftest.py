"""The benchmarks as modules of this process."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))


@pytest.fixture
def run(monkeypatch):
    """Run a benchmark's ``main``: ``run(bench_op, "--quick")``."""

    def run(module, *arguments: object) -> None:
        path = FOLDER / f"{module.__name__}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        module.main()

    return run


@pytest.fixture
def refused(run, monkeypatch, capsys):
    """Run a benchmark whose gate must stay closed; return what it says."""

    def refused(module, *arguments: object) -> str:
        def measured(*args, **kwargs):
            raise AssertionError("something was measured")

        monkeypatch.setattr(module, "interleave", measured)
        monkeypatch.setattr(module, "peak_memory", measured)
        with pytest.raises(SystemExit) as end:
            run(module, *arguments)
        assert capsys.readouterr().out == ""
        # A string ends a process with status 1, on stderr.
        assert isinstance(end.value.code, str)
        return end.value.code

    return refused
