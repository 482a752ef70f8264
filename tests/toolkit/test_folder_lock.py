"""One process at a time, whatever the others do."""

import errno
import fcntl
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from mmengine.config import Config

from setformer_mm.utils.errors import UserError
from toolkit import folder_lock
from toolkit.folder_lock import LOCK_NAME, hold_folder
from toolkit.launch import hold_work_dir


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test holds is free again for the process after it."""
    monkeypatch.setattr(folder_lock, "_held", {})


def test_the_second_process_is_told_of_the_first(tmp_path, another_process):
    folder = tmp_path / "new"
    with another_process(lambda: hold_folder(folder, "go away")) as pid:
        for _ in range(2):  # a look at the lock does not take it away
            with pytest.raises(UserError) as error:
                hold_folder(folder, "name another with --flag")
        expected = (
            rf"{folder} is in use by process {pid} on {socket.gethostname()} since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(.*\); wait for its end, or "
            "name another with --flag"
        )
        assert re.fullmatch(expected, str(error.value))
    hold_folder(folder, "")  # the kernel took it back from the killed one
    assert f"process {os.getpid()} " in (folder / LOCK_NAME).read_text("utf-8")
    assert [path.name for path in folder.iterdir()] == [LOCK_NAME]


def test_once_more_in_the_same_process(tmp_path):
    hold_folder(tmp_path, "")
    hold_folder(tmp_path / ".", "")


def test_workers_of_a_killed_process_do_not_hold_on(tmp_path, another_process):
    """Data loaders' workers notice its end after seconds only."""
    told, tell = os.pipe()

    def hold_and_fork() -> None:
        hold_folder(tmp_path, "")
        if (worker := os.fork()) == 0:
            signal.pause()
        os.write(tell, worker.to_bytes(8, "big"))

    with another_process(hold_and_fork):
        worker = int.from_bytes(os.read(told, 8), "big")
    try:
        hold_folder(tmp_path, "")
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(told), os.close(tell)


def test_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be written to .*; go elsewhere"):
        hold_folder(tmp_path / "file", "go elsewhere")


def test_file_system_without_locks(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"):
        hold_folder(tmp_path, "")


def test_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    hold_folder(tmp_path / Path("new"), "")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("launcher", "variable"),
    [
        ("pytorch", "RANK"),
        ("slurm", "SLURM_PROCID"),
        ("mpi", "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_the_first_process_of_a_training_holds_its_folder(
    tmp_path, monkeypatch, launcher, variable
):
    for rank, names in (("1", []), ("0", [LOCK_NAME])):
        monkeypatch.setenv(variable, rank)
        hold_work_dir(Config(dict(work_dir=str(tmp_path), launcher=launcher)))
        assert [path.name for path in tmp_path.iterdir()] == names


def test_without_a_launcher_every_process_is_a_training(
    tmp_path, monkeypatch, another_process
):
    monkeypatch.setenv("SLURM_PROCID", "1")  # of a job that starts it by hand
    with another_process(lambda: hold_folder(tmp_path, "")) as pid:
        with pytest.raises(UserError, match=f"by process {pid} .* with --work-dir"):
            hold_work_dir(Config(dict(work_dir=str(tmp_path), launcher="none")))
