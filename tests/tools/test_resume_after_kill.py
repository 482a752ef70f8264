"""A job killed by SIGKILL three times ends with the weights of one left alone.

Also a script: ``python tests/tools/test_resume_after_kill.py`` shows what happens.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "toy"
MINI = ROOT / "configs" / "digits" / "setformer_digits_demo.py"

# Runs a tool that kills itself at a moment: no product code knows about it.
KILLER = """
import os, runpy, signal, sys
from mmengine.model import BaseModel

moment, count, *sys.argv = sys.argv[1:]
seen = 0

def die_when(this_moment):
    global seen
    seen += moment == this_moment
    if moment == this_moment and seen == int(count):
        os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name, before):
    original = getattr(owner, name)
    def wrapper(*args, **kwargs):
        before(*args)
        return original(*args, **kwargs)
    setattr(owner, name, wrapper)

def fsync(descriptor):  # half of the checkpoint is on the disk
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if ".pth." in name and name.endswith(".partial"):
        if moment == "writing" and seen + 1 == int(count):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        die_when("writing")

def replace(source, target):  # all of it is, under another name
    if str(target).endswith(".pth"):
        die_when("renaming")

wrap(BaseModel, "train_step", lambda *args: die_when("training"))
wrap(os, "fsync", fsync)
wrap(os, "replace", replace)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train(work_dir: Path, config: Path, *options: str, kill: tuple = ("never", 0)):
    """Run tools/train.py; ``kill`` is (moment, how often it must have come)."""
    command = [sys.executable, "-c", KILLER, *map(str, kill), "tools/train.py"]
    command += [str(config), "--work-dir", str(work_dir), "--resume", *options]
    paths = [str(ROOT), str(TOY), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    expected = 0 if kill[0] == "never" else -signal.SIGKILL
    assert process.returncode == expected, process.stderr[-3000:]
    return sorted(path.name for path in work_dir.glob("*.pth*"))


def final_state(work_dir: Path) -> dict:
    """Weights and optimiser of the checkpoint that last_checkpoint names."""
    path = (work_dir / "last_checkpoint").read_text()
    checkpoint = torch.load(path, weights_only=False)  # written by this very test
    return dict(weights=checkpoint["state_dict"], optimizer=checkpoint["optimizer"])


def assert_survives_kills(tmp_path: Path, config: Path, *options: str) -> None:
    train(tmp_path / "left_alone", config, *options)
    killed = tmp_path / "killed"
    for moment in [("training", 5), ("writing", 1), ("renaming", 2)]:
        files = train(killed, config, *options, kill=moment)
        print(f"killed while {moment[0]}: {files}")
        if moment[0] != "training":
            assert any(name.endswith(".partial") for name in files)
    print(f"resumed to the end: {train(killed, config, *options)}")

    expected, actual = final_state(tmp_path / "left_alone"), final_state(killed)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert not list(killed.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["toy_epochs.py", "toy_iters.py"])
def test_toy_job(tmp_path, config):
    assert_survives_kills(tmp_path, TOY / config)


@pytest.mark.slow
def test_mini_classification_job(tmp_path):
    subprocess.run([sys.executable, "tools/prepare_mini_data.py"], cwd=ROOT, check=True)
    assert_survives_kills(
        tmp_path,
        MINI,
        "--cfg-options",
        "train_cfg.max_epochs=3",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "train_dataloader.batch_size=8",
        "train_dataloader.dataset.indices=24",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        "val_dataloader.dataset.indices=16",
    )


if __name__ == "__main__":
    pytest.main([__file__, "-s", "-v", *sys.argv[1:]])
