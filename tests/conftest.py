"""What every test gets: few threads, and a seed that a failure prints.

Besides, fixtures for checkpoints.
"""

import http.server
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

SEED_VARIABLE = "SETFORMER_MM_TEST_SEED"
# New in every session, so that tests hold for any; set the variable to repeat one.
SEED = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
os.environ[SEED_VARIABLE] = str(SEED)  # pytest-xdist's workers have the same

# The tensors of the tests are small, and processes often share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    torch.set_num_threads(1)
else:
    torch.set_num_threads(min(torch.get_num_threads(), 2))


def pytest_report_header() -> str:
    return f"{SEED_VARIABLE}={SEED}"


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator; pytest shows the line printed here when a test fails."""
    print(f"{SEED_VARIABLE}={SEED}")
    random.seed(SEED)
    torch.manual_seed(SEED)
    try:
        import numpy as np
    except ImportError:
        return SEED
    np.random.seed(SEED)
    return SEED


@pytest.fixture
def canary(tmp_path):
    """A file that no payload of :mod:`malicious` may make."""
    return tmp_path / "canary"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """URL of the test's folder; what is downloaded is kept in another one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def another_process() -> Callable[[Callable[[], None]], AbstractContextManager[int]]:
    """``with another_process(work) as pid``: it has done ``work`` and lives on."""
    return run_beside


@contextmanager
def run_beside(work: Callable[[], None]) -> Iterator[int]:
    done, tell = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            work()
            os.write(tell, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(done, 1) == b"1"
        yield pid
    finally:
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
