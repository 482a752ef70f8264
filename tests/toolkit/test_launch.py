"""Mistakes end a tool with one line, and before any work."""

import argparse
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit.flags import ConfigOptions
from toolkit.launch import (
    build_runner,
    form_explained,
    load_config,
    one_line,
    read_config,
    run_tool,
)

ROOT = Path(__file__).resolve().parents[2]
T_CONFIG = str(ROOT / "configs" / "setformer_t_in1k")


def test_a_config_without_its_suffix_or_misspelt():
    with pytest.raises(UserError, match=r"setformer_t_in1k does not .*in1k.py'\?\)"):
        read_config(T_CONFIG)
    with pytest.raises(UserError, match="did you mean .*setformer_t_in1k.py"):
        read_config(T_CONFIG.replace("setformer", "setfromer") + ".py")
    with pytest.raises(UserError, match="^the config nowhere/a.py does not exist$"):
        read_config("nowhere/a.py")


def test_a_folder_as_config(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_config(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "a = dict(", "SyntaxError"),
        ("a.py", "a = b", "NameError: name 'b' is not defined"),
        ("a.txt", "a = 1", "Only py/yml/yaml/json type"),
        ("a.py", "_base_ = './none.py'", "none.py does not exist"),
        ("a.json", "{", "cannot be read"),
    ],
)
def test_a_config_that_is_none(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_config(str(path))
    assert message in str(error.value) and "\n" not in str(error.value)


def arguments(tmp_path, **fields) -> argparse.Namespace:
    path = tmp_path / "config.py"
    path.write_text("train_cfg = dict(max_epochs=3)\noptim_wraper = dict()\n")
    defaults = dict(config=str(path), work_dir=str(tmp_path / "run"), cfg_options=None)
    return argparse.Namespace(
        **{**defaults, "launcher": "none", "local_rank": 0, **fields}
    )


def test_load_config_checks_fields_and_work_dir(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    load_config(arguments(tmp_path))
    assert "optim_wraper has no effect; did you mean optim_wrapper?" in (
        capsys.readouterr().err
    )
    with pytest.raises(UserError, match="max_epochs must be an integer"):
        load_config(arguments(tmp_path, cfg_options={"train_cfg.max_epochs": 1.5}))
    with pytest.raises(UserError, match="--cfg-options do not fit"):
        load_config(arguments(tmp_path, cfg_options={"train_cfg.max_epochs.x": 1}))
    file = tmp_path / "config.py"
    for work_dir in (file, file / "run"):
        with pytest.raises(
            UserError, match="names a folder, and .*config.py is a file"
        ):
            load_config(arguments(tmp_path, work_dir=str(work_dir)))


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (UserError("wrong."), "error: wrong.", 1),
        (KeyboardInterrupt(), "error: stopped by Ctrl-C", 130),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.pth"),
            "error: cannot read or write: No space left on device (a.pth)",
            1,
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            "error: cannot read or write: Read-only file system",
            1,
        ),
    ],
)
def test_one_line_ends_a_tool(capsys, monkeypatch, error, line, status):
    def main():
        raise error

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as exit:
        run_tool(main)
    assert exit.value.code == status
    assert capsys.readouterr().err == f"{line}\n"
    monkeypatch.setenv("SETFORMER_MM_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        run_tool(main)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "Input")])
def test_other_errors_keep_their_trace(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run_tool(main)


def test_one_line():
    assert one_line(ValueError("a rule.\nmore")) == "a rule"
    assert one_line(ValueError("the reasons:\n- one.\n- two")) == "the reasons: - one"
    assert one_line(KeyError("X is not in the registry")) == (
        "KeyError: X is not in the registry"
    )
    assert one_line(AssertionError()) == "AssertionError"


def build(model: dict, tmp_path) -> None:
    cfg = Config(dict(model=model, work_dir=str(tmp_path), log_level="ERROR"))
    cfg.experiment_name = tmp_path.name
    build_runner(cfg, ("train",))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(type="SeTformer", arch="tine"), r"got 'tine' \(did you mean 'tiny'\?\)"),
        (
            dict(type="SeTformer", attention=dict(epsilom=1)),
            r"got 'epsilom' \(did you mean 'epsilon'\?\)",
        ),
        (dict(type="SeTformer", arc="tiny"), "unexpected keyword argument 'arc'"),
        (dict(type="SeTfromer"), "SeTfromer is not in the mmengine::model registry"),
    ],
)
def test_a_model_that_cannot_be_built(tmp_path, model, message):
    with pytest.raises(UserError, match=message) as error:
        build(model, tmp_path)
    assert "\n" not in str(error.value)


def test_rules_of_our_own_speak_for_themselves():
    cfg = SimpleNamespace(filename="a.py")
    with pytest.raises(UserError, match="the config a.py cannot be used: arch must"):
        with form_explained(cfg):
            raise ValueError("arch must be one of mini, tiny")
    with pytest.raises(UserError, match="a.py is not of the form .* KeyError: type"):
        with form_explained(cfg):
            raise KeyError("type")


@pytest.mark.parametrize("option", ["a=dict(b=1,c=2)", "a=[1,(2", "a"])
def test_options_that_cannot_be_read(option, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions)
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", option])
    message = " ".join(capsys.readouterr().err.split())
    assert "--cfg-options takes KEY=VALUE" in message and message.endswith(option)
