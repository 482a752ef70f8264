"""No child outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from toolkit import child_processes
from toolkit.child_processes import run_child, start_child

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# The module alone, without the package, whose import takes seconds; and SIGINT as it is
# by default, because a shell's jobs in the background ignore it.
PARENT = f"""
import runpy, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
if {{system!r}}: sys.platform = {{system!r}}
module = runpy.run_path({child_processes.__file__!r})
print(module["start_child"]({SLEEP!r}).pid, flush=True)
{{then}}
"""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel knows how")
@pytest.mark.parametrize(
    ("system", "then", "number"),
    [
        ("", "time.sleep(60)", signal.SIGKILL),
        ("", "time.sleep(60)", signal.SIGTERM),
        ("", "time.sleep(60)", signal.SIGINT),
        ("", "1 / 0", None),
        # Another system, where its end must be noticed by the parent itself.
        ("darwin", "time.sleep(60)", signal.SIGTERM),
        ("darwin", "time.sleep(60)", signal.SIGINT),
        ("darwin", "1 / 0", None),
    ],
)
def test_child_ends_with_its_parent(system, then, number):
    code = PARENT.format(system=system, then=then)
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    child = int(parent.stdout.readline())
    try:
        if number:
            assert is_alive(child)
            parent.send_signal(number)
        parent.wait(10)
        deadline = time.monotonic() + 10
        while is_alive(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(child)
    finally:
        parent.kill(), parent.wait(), parent.stdout.close()
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def test_status_and_options(tmp_path):
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    with open(tmp_path / "log", "wb") as log:
        code = "import os; print(os.getcwd())"
        assert run_child([sys.executable, "-c", code], stdout=log, cwd=tmp_path) == 0
    assert Path((tmp_path / "log").read_text("utf-8").strip()) == tmp_path.resolve()


def test_an_interrupted_wait_ends_the_child(monkeypatch):
    started = []

    def start(*args, **kwargs):
        child = start_child(*args, **kwargs)
        wait, waits = child.wait, iter([True])

        def interrupted():
            if next(waits, False):
                raise KeyboardInterrupt
            return wait()

        child.wait = interrupted
        started.append(child)
        return child

    monkeypatch.setattr(child_processes, "start_child", start)
    with pytest.raises(KeyboardInterrupt):
        run_child(SLEEP)
    assert started[0].returncode == -signal.SIGTERM
