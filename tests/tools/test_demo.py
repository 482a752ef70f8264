"""tools/demo.py: its folder, and what it shows."""

import pytest

from setformer_mm.utils.errors import UserError
from toolkit.folder_lock import LOCK_NAME, hold_folder


@pytest.fixture
def demo(load_tool, tmp_path, monkeypatch):
    module = load_tool("demo")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_an_earlier_demo_gives_way(demo, tmp_path):
    for name in demo.OUTPUTS:
        path = tmp_path / name
        path.touch() if path.suffix else path.mkdir()
    (tmp_path / demo.TRAINED / "epoch_1.pth").touch()
    demo.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_nothing_else_does(demo, tmp_path):
    (tmp_path / demo.TRAINED).mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="thesis.tex, which is not of a demo; move it"):
        demo.clear(tmp_path)
    assert (tmp_path / demo.TRAINED).exists() and (tmp_path / "thesis.tex").exists()


def test_one_demo_at_a_time(demo, tmp_path, another_process):
    with another_process(lambda: hold_folder(tmp_path, "")) as pid:
        with pytest.raises(UserError, match=f"in use by process {pid} "):
            demo.clear(tmp_path)


def test_tools_end_with_the_demo(demo, monkeypatch):
    run = []
    monkeypatch.setattr(demo, "run_child", lambda *args, **rest: run.append(args) or 3)
    with pytest.raises(SystemExit) as error:
        demo.run("train.py", "config.py")
    assert error.value.code == 3 and run[0][0][1:] == ["tools/train.py", "config.py"]


def test_metrics_that_have_no_number(demo, capsys):
    results = dict(trained=dict(a=1.0, b=None), committed=dict(a=0.25, b=2.0))
    demo.print_table(dict(a="first", b="second"), results)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [["first", "1.000", "0.250"], ["second", "none", "2.000"]]
