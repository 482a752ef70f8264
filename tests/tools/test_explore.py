"""tools/explore.py: what is checked before the page is there, and where it is."""

import re
import socket
import sys
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError

uvicorn = pytest.importorskip("uvicorn")
FOLDER = Path(__file__).resolve().parents[2] / "configs/digits"
FILES = FOLDER / "setformer_digits.py", FOLDER / "checkpoints/setformer_digits.pth"


def test_serves_the_given_models_on_this_machine_alone(tool, monkeypatch, capsys):
    served = []

    def run(server, sockets):
        served.append((server.config.app, *(s.getsockname() for s in sockets)))
        raise KeyboardInterrupt  # as it ends when the user has stopped it

    monkeypatch.setattr(uvicorn.Server, "run", run)
    tool("explore", "--model", *FILES)
    ((app, (host, port)),) = served
    assert host == "127.0.0.1"
    printed = capsys.readouterr().out
    assert re.search(rf"Open http://127\.0\.0\.1:{port} in a browser", printed)
    testclient = pytest.importorskip("starlette.testclient")
    client = testclient.TestClient(app, f"http://{host}:{port}")
    (model,) = client.get("/api/models").json()["models"]
    assert model["name"] == "setformer_digits"


def test_the_committed_models_are_there(load_tool):
    committed = load_tool("explore").COMMITTED
    assert len(committed) == 3
    assert all(Path(path).is_file() for pair in committed for path in pair)


def test_mistakes(tool, load_tool, monkeypatch):
    monkeypatch.setattr(uvicorn.Server, "run", None)
    with pytest.raises(UserError, match="different names, got setformer_digits 2"):
        tool("explore", "--model", *FILES, "--model", *FILES)
    with pytest.raises(UserError, match="none.pth does not exist"):
        tool("explore", "--model", FILES[0], "none.pth")
    with pytest.raises(UserError, match="--device nonsense cannot be used: "):
        tool("explore", "--device", "nonsense")
    with pytest.raises(SystemExit):
        tool("explore", "--port", "65536")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used"):
            load_tool("explore").listen(port)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match="needs uvicorn; `pip install -r"):
        tool("explore")
