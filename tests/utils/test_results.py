"""Results as files: what is hashed, written, read and refused."""

import hashlib
import json
import math
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import (
    config_sha256,
    describe_run,
    file_sha256,
    read_result,
    read_results,
    write_result,
)


@pytest.fixture
def cfg(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "job.py"
    path.write_text(
        "width = 8\nmodel = dict(width=width)\n"
        "randomness = dict(seed=0, diff_rank_seed=False)\n"
    )
    return Config.fromfile(path)


@pytest.fixture
def result(cfg, tmp_path):
    checkpoint = tmp_path / "epoch_1.pth"
    checkpoint.write_bytes(np.random.bytes(3_000_000))  # more than is read at once
    metrics = dict(
        accuracy=np.float32(0.5), classes=torch.ones(2), loss=np.float64(0.25)
    )
    model = nn.Linear(3, 4)
    return describe_run(cfg, "test", metrics, model, str(checkpoint), seed=7)


def test_describes_a_run(result, tmp_path):
    content = (tmp_path / "epoch_1.pth").read_bytes()
    assert result.config == "configs/job.py"
    assert result.checkpoint == "epoch_1.pth"
    assert result.checkpoint_sha256 == hashlib.sha256(content).hexdigest()
    assert result.metrics == dict(accuracy=0.5, classes=[1.0, 1.0], loss=0.25)
    assert result.num_parameters == 16
    assert (result.kind, result.seed, result.tta) == ("test", 7, False)
    assert result.versions["torch"] == torch.__version__
    assert result.versions.keys() >= {"python", "setformer_mm", "mmengine"}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(result.date)
    assert 0 <= age.total_seconds() < 60


def test_metrics_and_config_of_any_kind():
    """Nothing fails at the end of a long training."""
    metrics = {"a": object(), 3: {"b": np.bool_(True), "c": (torch.tensor(1.5),)}}
    described = describe_run(Config(), "train", metrics, nn.Identity(), "none.pth", 0)
    assert described.metrics["a"].startswith("<object")
    assert described.metrics["3"] == dict(b=True, c=[1.5])
    assert described.config is None and described.checkpoint == "none.pth"


def test_absent_class_is_null(tmp_path):
    """Its mean is NaN in the host libraries, which is no JSON."""

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    metrics = dict(mIoU=30.0, left_precision=math.nan, right=np.float32("inf"))
    described = describe_run(Config(), "test", metrics, nn.Identity(), None, seed=0)
    write_result(tmp_path / "a.json", described)
    text = (tmp_path / "a.json").read_text("utf-8")
    expected = dict(mIoU=30.0, left_precision=None, right=None)
    assert json.loads(text, parse_constant=refuse)["metrics"] == expected
    assert read_result(tmp_path / "a.json") == described


def test_config_outside_of_the_current_folder(cfg, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    described = describe_run(cfg, "train", {}, nn.Identity(), None, seed=0)
    assert described.config == (tmp_path / "configs" / "job.py").as_posix()
    assert described.checkpoint is None and described.checkpoint_sha256 is None


@pytest.mark.parametrize(
    ("option", "matters"),
    [
        ({"model.width": 9}, True),
        ({"randomness.diff_rank_seed": True}, True),
        (dict(val_cfg=None), True),
        ({"randomness.seed": 1}, False),
        (dict(work_dir="elsewhere", load_from="a.pth", resume=True), False),
        (dict(launcher="pytorch", ablation=dict(name="a")), False),
        (dict(width=9), False),  # a variable
    ],
)
def test_hash_of_a_config(cfg, option, matters):
    before = config_sha256(cfg)
    cfg.merge_from_dict(option)
    assert (config_sha256(cfg) != before) == matters
    # Neither the order of the fields nor where the file lies is part of it.
    reordered = Config(dict(reversed(cfg.to_dict().items())))
    assert config_sha256(reordered) == config_sha256(cfg)


@pytest.mark.parametrize(
    "make_field",
    [
        lambda: {1: "a", "b": 2, (3, 4): None},
        lambda: [dict(function=lambda: 0)],
        lambda: dict(type=nn.Linear),
    ],
)
def test_hash_of_what_json_does_not_know(make_field):
    """Equal configs have one hash, wherever their objects lie in memory."""
    first, second = (Config(dict(model=make_field())) for _ in range(2))
    assert config_sha256(first) == config_sha256(second)


def test_hash_of_a_config_that_a_flag_gave_a_seed():
    seeded = Config(dict(model=dict(width=8), randomness=dict(seed=1)))
    assert config_sha256(seeded) == config_sha256(Config(dict(model=dict(width=8))))


def test_hash_does_not_see_a_hook_that_only_ends_runs():
    hooks = dict(result=dict(type="TrainResultHook"), logger=None)
    more = hooks | dict(stop=dict(type="NonFiniteLossHook", patience=3))
    before, after = (Config(dict(default_hooks=h)) for h in (hooks, more))
    assert config_sha256(before) == config_sha256(after)


def test_hash_leaves_the_config_alone(cfg):
    cfg.work_dir = "somewhere"
    before = cfg.to_dict()
    config_sha256(cfg)
    assert cfg.to_dict() == before and cfg.randomness.seed == 0


def test_reads_what_it_wrote(result, tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    write_result(path, result)
    assert read_result(path) == result
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_reads_a_folder_of_all_kinds(result, cfg, tmp_path):
    trained = describe_run(
        cfg, "train", {}, nn.Identity(), None, seed=1, best=dict(mIoU=np.float32(2))
    )
    runs = tmp_path / "work_dirs"
    augmented = replace(result, tta=True)
    write_result(runs / "b" / "test_result.json", result)
    write_result(runs / "b" / "tta_result.json", augmented)
    write_result(runs / "a" / "seed_1" / "train_result.json", trained)
    (runs / "a" / "other.json").write_text("{}")
    assert read_results(runs) == [trained, result, augmented]
    assert trained.best == dict(mIoU=2.0)
    assert read_results(tmp_path / "none") == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", '{"kind": "test"}', '{"a": 1}', "\xff"]
)
def test_broken_file(result, tmp_path, content):
    path = tmp_path / "a" / "test_result.json"
    write_result(path, result)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="test_result.json does not hold a result: "):
        read_results(tmp_path)


def test_field_of_another_version(result, tmp_path):
    path = tmp_path / "test_result.json"
    write_result(path, result)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(UserError, match="colour"):
        read_result(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.json does not exist"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config_sha256", 5),
        ("checkpoint_sha256", ["a"]),
        ("metrics", None),
        ("seed", "0"),
        ("date", 2025),
    ],
)
def test_fields_of_another_type(tmp_path, field, value):
    path = tmp_path / "train_result.json"
    described = describe_run(Config(), "train", {}, nn.Identity(), None, 0)
    write_result(path, described)
    content = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"does not hold a result: {field} cannot be"):
        read_result(path)
