"""What the tools have in common: who holds the work directory, what is printed."""

import io
import sys

import pytest
from mmengine.config import Config

from setformer_mm.utils.folder_lock import LOCK_NAME, hold_folder
from setformer_mm.utils.launch import hold_work_dir, run_tool
from setformer_mm.utils.preflight import UserError


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


def test_signs_that_the_terminal_lacks(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    run_tool(lambda: print("−0.5 µm"))
    sys.stdout.flush()
    assert buffer.getvalue() == rb"\u22120.5 \xb5m" + b"\n"
