"""mim's commands on the installed package: `make test-upstream` has OpenMMLab's own."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("mim")
from modelindex import load_model_index as modelindex

from setformer_mm import configs
from setformer_mm.utils.results import read_result

CHECKPOINT = f"{configs.folder()}/digits/checkpoints/setformer_digits.pth"


@pytest.fixture
def mim(workplace):
    """Run ``mim COMMAND setformer_mm ...`` where data are; return what it prints."""

    def mim(command: str, *arguments: object) -> str:
        line = [sys.executable, "-m", "mim", command, "setformer_mm"]
        process = subprocess.run(
            [*line, *map(str, arguments)],
            cwd=workplace,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return mim


def test_search_lists_the_published_configs(mim):
    listed = mim("search", "--valid-config")
    index = modelindex.load(f"{configs.root()}/model-index.yml")
    index.build_models_with_collections()
    assert index.models and all(repr(each.name) in listed for each in index.models)
    assert "16692904" in mim("search", "--config", "setformer_m_in1k")


def test_a_config_is_found_by_its_name(mim, tmp_path):
    flags = ["--checkpoint", CHECKPOINT, "--work-dir", tmp_path]
    assert "Testing finished successfully" in mim("test", "setformer_digits.py", *flags)
    assert read_result(tmp_path / "test_result.json").metrics["accuracy/top1"] > 50


def test_trains(mim, tmp_path):
    shorter = ["train_cfg.max_epochs=1", "param_scheduler.1.T_max=1"]
    flags = ["--work-dir", tmp_path, "--cfg-options", *shorter]
    assert "finished successfully" in mim("train", "setformer_digits.py", *flags)
    assert (tmp_path / "epoch_1.pth").exists()


def test_tools_run_by_their_names(mim, tmp_path):
    mim("run", "publish_checkpoint", CHECKPOINT, tmp_path / "mine.pth")
    assert (tmp_path / "mine.pth").exists()
