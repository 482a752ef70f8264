"""Configs by name, and bases in a config that lies elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine")
from mmengine.config import Config

from setformer_mm import configs
from setformer_mm.configs.__main__ import main
from setformer_mm.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
DERIVED = """
_base_ = "{{$SETFORMER_MM_CONFIGS:}}/mask_rcnn_setformer_t.py"
model = dict(backbone=dict(drop_path_rate=0.4))
"""


def test_names_and_paths():
    listed = configs.names()
    for name in ("setformer_t_in1k", "mask_rcnn_setformer_t", "upernet_setformer_b"):
        assert name in listed
        assert Path(configs.path(name)) == configs.folder() / f"{name}.py"
        assert configs.path(f"{name}.py") == configs.path(name)
    assert "default_runtime" not in listed
    digits = Config.fromfile(configs.path("setformer_digits"))
    assert digits.model.backbone.type == "SeTformer"


def test_unknown_name():
    message = (
        r"no config 'mask_rcnn_setfomer_t' .*\(did you mean 'mask_rcnn_setformer_t'"
    )
    with pytest.raises(UserError, match=message):
        configs.path("mask_rcnn_setfomer_t")


def test_package_without_configs(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "_PACKAGE", tmp_path / "setformer_mm")
    monkeypatch.delenv(configs.FOLDER_VARIABLE)
    configs.name_folder_for_bases()  # the package works without
    assert configs.FOLDER_VARIABLE not in os.environ
    with pytest.raises(UserError, match="should lie in .*; install the package anew"):
        configs.names()


@pytest.mark.parametrize(
    "arguments, shown",
    [
        ([], "\n".join(configs.names())),
        (["upernet_setformer_s"], configs.path("upernet_setformer_s")),
        (["--folder"], str(configs.folder())),
    ],
)
def test_command(arguments, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["configs", *arguments])
    main()
    assert capsys.readouterr().out.strip() == shown
    monkeypatch.setattr(sys, "argv", ["configs", "mask_rcnn"])
    with pytest.raises(SystemExit, match="there is no config 'mask_rcnn'"):
        main()


def test_base_from_another_folder(tmp_path):
    """In a process of its own, which has imported nothing but the package."""
    path = tmp_path / "mine.py"
    path.write_text(DERIVED, "utf-8")
    code = f"""
import setformer_mm
from mmengine.config import Config
cfg = Config.fromfile({str(path)!r})
print(cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate, cfg.model.type)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert shown.stdout.split("\n")[-2] == "tiny 0.4 MaskRCNN"


def test_bases_of_mmseg(tmp_path):
    pytest.importorskip("mmseg")
    path = tmp_path / "mine.py"
    path.write_text('_base_ = "mmseg::_base_/models/upernet_r50.py"\n', "utf-8")
    assert Config.fromfile(path).model.decode_head.type == "UPerHead"
