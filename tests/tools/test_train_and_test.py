"""tools/train.py and tools/test.py: flags, mistakes, safe loading."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import read_result
from toolkit.folder_lock import LOCK_NAME, hold_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trained(tool, toy, tmp_path) -> Path:
    """The checkpoint of a trained toy job."""
    tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path / "run")
    return tmp_path / "run" / "epoch_4.pth"


def test_trains_tests_and_resumes(tool, toy, trained, tmp_path):
    config = toy / "toy_epochs.py"
    work_dir = tmp_path / "test"
    out = tmp_path / "predictions.pkl"
    tool("test", config, trained, "--work-dir", work_dir, "--out", out)
    result = read_result(work_dir / "test_result.json")
    assert 0 <= result.metrics["accuracy"] <= 1
    assert len(pickle.loads(out.read_bytes())) == 12

    options = ["--cfg-options", "train_cfg.max_epochs=5"]
    with pytest.raises(UserError, match="add param_scheduler.T_max=5 to --cfg-options"):
        tool("train", config, "--work-dir", tmp_path / "run", "--resume", *options)
    options += ["param_scheduler.T_max=5"]
    tool("train", config, "--work-dir", tmp_path / "run", "--resume", *options)
    assert (tmp_path / "run" / "epoch_5.pth").exists()
    other = tmp_path / "other"
    tool("train", config, "--work-dir", other, "--resume", trained, *options)
    assert read_checkpoint(str(other / "epoch_5.pth"))["meta"]["epoch"] == 5


def test_resuming_is_exact_whatever_hooks_a_config_has(tool, toy, tmp_path):
    config = ["train", toy / "toy_epochs.py", "--work-dir"]
    options = ["--cfg-options", "custom_hooks=None"]
    tool(*config, tmp_path / "whole", *options)
    stopped = tmp_path / "whole" / "epoch_3.pth"
    tool(*config, tmp_path / "resumed", "--resume", stopped, *options)
    whole, resumed = (
        read_checkpoint(str(tmp_path / name / "epoch_4.pth"))["state_dict"]
        for name in ("whole", "resumed")
    )
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    (log,) = (tmp_path / "whole").glob("*/*.log")
    assert "in addition: ResumeSettingsHook, DataCheckHook, Parame" in log.read_text()
    assert "ParameterTableHook, ExactResumeHook\n" in log.read_text()


def test_training_says_where_things_lie_and_shows_its_optimiser(
    tool, toy, tmp_path, capsys
):
    tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path / "run")
    out = capsys.readouterr()
    _, _, end = out.out.partition("Training done.\n")
    paths = dict(line.split(maxsplit=1) for line in end.splitlines())
    assert paths.keys() == {"checkpoint", "log", "result"}
    assert all(Path(path).is_file() for path in paths.values())
    log = Path(paths["log"]).read_text("utf-8")
    assert "Parameters of the optimiser:\nlearning rate  weight decay" in log
    assert "paramwise_options" not in log


def test_the_table_of_a_resumed_training_has_the_rate_of_its_config(
    tool, toy, trained, tmp_path
):
    flags = ["--work-dir", tmp_path / "run", "--resume", trained]
    flags += ["--cfg-options", "train_cfg.max_epochs=5", "param_scheduler=None"]
    tool("train", toy / "toy_epochs.py", *flags, "optim_wrapper.optimizer.lr=0.03")
    log = max((tmp_path / "run").glob("*/*.log"), key=lambda path: path.stat().st_mtime)
    # Runs of one second share a log.
    _, _, table = log.read_text("utf-8").rpartition("Parameters of the optimiser:\n")
    assert table.splitlines()[1].split()[0] == "0.03"


def test_a_resumed_checkpoint_is_read_twice(tool, toy, trained, monkeypatch):
    """By the tool, which checks it before anything is built, and by mmengine."""
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a) or load(*a, **k))
    options = ["train_cfg.max_epochs=5", "param_scheduler.T_max=5"]
    flags = ["--resume", trained, "--cfg-options", *options]
    tool("train", toy / "toy_epochs.py", "--work-dir", trained.parent, *flags)
    assert len(read) == 2


@pytest.mark.parametrize(
    "kind", [bool, "uint8", "int32", "int64", "float32", "float64"]
)
def test_numpy_scalars_in_the_log_state(trained, kind):
    """A best score may be of any of these types; both loaders must take it."""
    from mmengine.runner.checkpoint import load_from_local

    checkpoint = read_checkpoint(str(trained))
    assert checkpoint.keys() >= {"optimizer", "message_hub", "param_schedulers"}
    checkpoint["message_hub"]["runtime_info"]["best_score"] = np.dtype(kind).type(1)
    torch.save(checkpoint, trained)
    for read in (read_checkpoint, lambda path: load_from_local(path, "cpu")):
        score = read(str(trained))["message_hub"]["runtime_info"]["best_score"]
        assert score == 1 and score.dtype == kind


def test_metric_without_a_number_is_null(tool, toy, trained, tmp_path, monkeypatch):
    """As of a class that no picture has."""
    monkeypatch.setattr(
        "toy_job.ToyAccuracy.compute_metrics", lambda *args: dict(left=np.nan, right=1)
    )
    tool("test", toy / "toy_epochs.py", trained, "--work-dir", tmp_path / "test")
    text = (tmp_path / "test" / "test_result.json").read_text("utf-8")
    assert "NaN" not in text
    assert json.loads(text)["metrics"] == dict(left=None, right=1)


def test_checkpoint_of_another_model(tool, toy, trained, tmp_path, capsys):
    config, work_dir = toy / "toy_epochs.py", ["--work-dir", tmp_path / "test"]
    with pytest.raises(UserError, match="does not fit .* size mismatch"):
        tool("test", config, trained, *work_dir, "--cfg-options", "model.width=9")
    weights = tmp_path / "weights.pth"
    torch.save({"hidden.weight": torch.zeros(8, 4)}, weights)
    with pytest.raises(UserError, match="3 parameters are missing"):
        tool("test", config, weights, *work_dir)
    tool("test", config, weights, *work_dir, "--allow-missing")
    assert "3 parameters are missing, the first is hidden.bias; they stay random" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "none.pth"], "none.pth does not exist"),
        (["--auto-scale-lr"], "base_batch_size"),
        (["--launcher", "pytorch"], "torchrun"),
        (["--launcher", "slurm"], "needs GPUs"),
        (
            ["--cfg-options", "load_from=none.pth"],
            "none.pth does not exist; train its config first or",
        ),
        (["--amp"], "needs a GPU"),
    ],
)
def test_mistakes_in_flags(tool, toy, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=message):
        tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path, *flags)


def test_amp_means_bfloat16(tool, toy, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "mmengine.runner.Runner.from_cfg", lambda cfg: used.append(cfg) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path, "--amp")
    assert used[0].optim_wrapper.type == "AmpOptimWrapper"
    assert used[0].optim_wrapper.dtype == "bfloat16"


def test_resume_without_checkpoint_starts_as_the_config_says(
    tool, toy, trained, tmp_path, monkeypatch
):
    used = []
    monkeypatch.setattr(
        "mmengine.runner.Runner.from_cfg", lambda cfg: used.append(cfg) or 1 / 0
    )
    flags = ["--resume", "--cfg-options", f"load_from={trained}"]
    for folder, resumed in (("new", False), ("run", True)):
        with pytest.raises(ZeroDivisionError):
            tool(
                "train", toy / "toy_epochs.py", "--work-dir", tmp_path / folder, *flags
            )
        cfg = used.pop()
        assert (cfg.load_from, bool(cfg.get("resume"))) == (str(trained), resumed)


def test_resume_without_a_pointer_does_not_start_over(
    tool, toy, trained, tmp_path, capsys
):
    run = tmp_path / "run"
    (run / "last_checkpoint").write_text("")
    content = (run / "epoch_3.pth").read_bytes()
    command = ["train", toy / "toy_epochs.py", "--work-dir", run, "--resume"]
    tool(*command)
    assert (
        f"last_checkpoint is empty; going on from the newest whole one, {trained}"
        in (capsys.readouterr().err)
    )
    assert (run / "epoch_3.pth").read_bytes() == content
    for path in run.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the checkpoints in .* can be resumed"):
        tool(*command)


@pytest.mark.parametrize("lacking", ["optimizer", "param_schedulers"])
def test_a_config_that_asks_to_resume_is_checked_as_the_flag_is(
    tool, toy, trained, lacking
):
    checkpoint = read_checkpoint(str(trained))
    del checkpoint[lacking]
    torch.save(checkpoint, trained)
    command = ["train", toy / "toy_epochs.py", "--work-dir", trained.parent]
    for flags in (["--resume"], ["--cfg-options", "resume=True"]):
        with pytest.raises(UserError, match="epoch_4.pth holds no state of the"):
            tool(*command, *flags)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("message_hub", {}),
        ("message_hub", dict(log_scalars=[], runtime_info={}, resumed_keys={})),
        ("optimizer", {}),
        ("optimizer", dict(state={}, param_groups=3)),
        ("param_schedulers", [1, 2]),
    ],
)
def test_states_that_cannot_be_taken_over(tool, toy, trained, part, value):
    checkpoint = read_checkpoint(str(trained))
    checkpoint[part] = value
    torch.save(checkpoint, trained)
    with pytest.raises(UserError, match="epoch_4.pth cannot be resumed: ") as error:
        tool("train", toy / "toy_epochs.py", "--resume", trained)
    assert "\n" not in str(error.value)


def test_predictions_are_not_written_over_what_is_read(tool, toy, trained, tmp_path):
    weights = tmp_path / "weights.pkl"
    weights.write_bytes(trained.read_bytes())
    with pytest.raises(UserError, match="weights.pkl is read and would be written"):
        tool("test", toy / "toy_epochs.py", weights, "--out", weights)
    assert weights.read_bytes() == trained.read_bytes()


def test_interrupted_training_says_what_is_kept(tool, toy, tmp_path, monkeypatch):
    """As by Ctrl-C in the second epoch, or in the first."""
    config, run = toy / "toy_epochs.py", tmp_path / "run"
    from toy_job import ToyModel

    train_step = ToyModel.train_step
    for step, kept in ((2, "nothing has been saved"), (5, "epoch_1.pth is kept, and")):
        steps = iter([None] * (step - 1))

        def stop(*args, steps=steps, **kwargs):
            try:
                next(steps)
            except StopIteration:
                raise KeyboardInterrupt from None
            return train_step(*args, **kwargs)

        monkeypatch.setattr(ToyModel, "train_step", stop)
        with pytest.raises(UserError) as error:
            tool("train", config, "--work-dir", run)
        assert f"stopped at iteration {step - 1}; " in str(error.value)
        assert kept in str(error.value) and "\n" not in str(error.value)


def test_places_that_cannot_be_written(tool, toy, trained, tmp_path):
    config, file = toy / "toy_epochs.py", tmp_path / "file"
    file.touch()
    for name, arguments in (
        ("train", [config, "--work-dir", file]),
        ("test", [config, trained, "--work-dir", file]),
        ("test", [config, trained, "--show-dir", file]),
    ):
        with pytest.raises(UserError, match=f"names a folder, and {file} is a file"):
            tool(name, *arguments)
    folder = tmp_path / "folder.pkl"
    folder.mkdir()
    with pytest.raises(UserError, match="--out names a file, and .* is a folder"):
        tool("test", config, trained, "--out", folder)


def test_cancelled_exemptions_are_warned_of(tool, toy, tmp_path, capsys):
    options = [
        "optim_wrapper.optimizer.weight_decay=0.05",
        "optim_wrapper.paramwise_cfg.bias_decay_mult=0.0",
        "optim_wrapper.paramwise_cfg.custom_keys.hidden.lr_mult=0.1",
    ]
    config = toy / "toy_epochs.py"
    tool("train", config, "--work-dir", tmp_path, "--cfg-options", *options)
    warning = capsys.readouterr().err
    assert (
        "warning: optim_wrapper.paramwise_cfg.custom_keys['hidden'] has no" in warning
    )
    assert "hidden.bias" in warning


def test_two_trainings_in_one_folder(tool, toy, tmp_path, another_process):
    """The second is told of the first, and leaves nothing."""
    with another_process(lambda: hold_folder(tmp_path, "")) as pid:
        with pytest.raises(UserError, match=f"in use by process {pid} .* --work-dir"):
            tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    tool("train", toy / "toy_epochs.py", "--work-dir", tmp_path)
    assert (tmp_path / "epoch_4.pth").exists()


def test_tta_without_its_fields(tool, toy, trained):
    with pytest.raises(UserError, match="tta_model and tta_pipeline"):
        tool("test", toy / "toy_epochs.py", trained, "--tta")


def test_missing_config(tool):
    with pytest.raises(UserError, match="the config none.py does not exist"):
        tool("train", "none.py")


@pytest.mark.parametrize("task", ["mask_rcnn_setformer_b", "upernet_setformer_t"])
def test_missing_data_end_with_one_sentence(task):
    """In a process of its own, because the output as a whole is the point."""
    config = f"configs/{task}.py"
    root = Config.fromfile(ROOT / config).train_dataloader.dataset.data_root
    if (ROOT / root).exists():
        pytest.skip(f"{root} exists")
    process = subprocess.run(
        [sys.executable, "tools/train.py", config],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: the train data are not complete: {root}")
    assert process.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("config", ["toy_epochs.py", "toy_iters.py"])
def test_two_processes_on_cpus(toy, tmp_path, config):
    """gloo: both ranks see half of the data, and the weights stay equal."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(toy)]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PORT": "29531",
    }
    for command in (
        ["tools/dist_train.sh", toy / config, "2"],
        ["tools/dist_test.sh", toy / config, "CHECKPOINT", "2"],
    ):
        if "CHECKPOINT" in command:
            checkpoint = (tmp_path / "last_checkpoint").read_text()
            command[command.index("CHECKPOINT")] = checkpoint
        subprocess.run(
            [*command, "--work-dir", tmp_path], cwd=ROOT, env=environment, check=True
        )
    assert "accuracy" in read_result(tmp_path / "train_result.json").metrics
    assert "accuracy" in read_result(tmp_path / "test_result.json").metrics


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optim_wrapper.type=Nothing", "^optim_wrapper cannot be built .*Nothing"),
        ("param_scheduler.type=Nothing", "^param_scheduler cannot be built .*Nothing"),
        ("optim_wrapper=None", "toy_epochs.py lacks optim_wrapper; add"),
        ("model=None", "toy_epochs.py lacks model; add"),
        ("model.type=[1]", "toy_epochs.py is not of the form .* unhashable type"),
        ("val_dataloader.dataset=None", "toy_epochs.py is not of the form of a config"),
    ],
)
def test_what_a_training_lacks(tool, toy, tmp_path, option, message):
    """mmengine builds optimiser and schedule as late as it begins to train."""
    arguments = "--work-dir", tmp_path, "--cfg-options", option
    with pytest.raises(UserError, match=message) as error:
        tool("train", toy / "toy_epochs.py", *arguments)
    assert "\n" not in str(error.value)


def test_a_config_that_mmengine_cannot_write_as_text(tool, toy, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        f'_base_ = {str(toy / "toy_epochs.py")!r}\nnote = {{"somebody\'s": 1}}\n'
    )
    with pytest.raises(UserError, match="cannot be built .*Failed to format") as error:
        tool("train", config, "--work-dir", tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("bias", "message"),
    [(None, "1 parameters are missing.* to start"), (torch.ones(3), "head.bias")],
    ids=["missing", "of another shape"],
)
def test_a_training_goes_on_with_its_model(tool, toy, trained, bias, message):
    """mmengine warns, and goes on from random weights."""
    checkpoint = read_checkpoint(trained)
    del checkpoint["state_dict"]["head.bias"]
    if bias is not None:
        checkpoint["state_dict"]["head.bias"] = bias
    path, work_dir = trained.with_name("changed.pth"), trained.parent / "another"
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=f"does not fit the model .*{message}"):
        tool("train", toy / "toy_epochs.py", "--work-dir", work_dir, "--resume", path)
    assert not list(work_dir.glob("*.pth"))
