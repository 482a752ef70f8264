"""tools/ablate.py: the grid with made-up processes, and (slow) once for real."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import Result, read_result, write_result
from toolkit.ablation import grid
from toolkit.folder_lock import hold_folder

ROOT = Path(__file__).resolve().parents[2]
RESULT = Result(
    kind="train",
    config="a.py",
    config_sha256="",
    checkpoint=None,
    checkpoint_sha256=None,
    metrics=dict(accuracy=0.5),
    num_parameters=1,
    seed=0,
    tta=False,
    versions={},
    date="2025-01-01T00:00:00+00:00",
)


@pytest.fixture
def ablate(monkeypatch, load_tool):
    """The tool's module, with a clock that only sleeping advances."""
    module = load_tool("ablate")
    module.now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return module.now

        @staticmethod
        def sleep(seconds: float) -> None:
            module.now += seconds

    monkeypatch.setattr(grid, "time", Clock)
    return module


class Trainer:
    """Starts processes that take ``seconds`` and leave a result, or fail."""

    def __init__(self, ablate, seconds: float = 30.0, failing: tuple = ()) -> None:
        self.ablate, self.seconds, self.failing = ablate, seconds, failing
        self.started: list[str] = []
        self.running = 0
        self.most_running = 0
        self.change: dict = {}  # of the result, as if another run had left it

    def start(self, job) -> "Process":
        self.started.append(str(job))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        return Process(self, job)


class Process:
    def __init__(self, trainer: Trainer, job) -> None:
        self.trainer, self.job = trainer, job
        self.end = trainer.ablate.now + trainer.seconds
        self.returncode = None
        self.terminated = False

    def poll(self) -> int | None:
        if self.returncode is None and self.trainer.ablate.now >= self.end:
            self.trainer.running -= 1
            self.returncode = int(str(self.job) in self.trainer.failing)
            if self.returncode:
                self.job.log.write_text("Traceback\nerror: out of luck\n\n")
            else:
                identity = dict(
                    config=self.job.contender.config,
                    config_sha256=self.job.contender.sha256,
                    seed=self.job.seed,
                )
                result = dataclasses.replace(
                    RESULT, **{**identity, **self.trainer.change}
                )
                write_result(self.job.work_dir / "train_result.json", result)
        return self.returncode

    def terminate(self) -> None:
        self.terminated = True

    def wait(self) -> None:
        assert self.terminated


@pytest.fixture
def make_jobs(ablate, tmp_path):
    """``make_jobs("ab", seeds=2)``: configs a.py and b.py with two seeds."""

    def make(
        names: str = "ab",
        seeds: int = 2,
        sha256: str = "0" * 64,
        rates: tuple[float | None, ...] = (None,),
        folder: str = "out",
        collected=(),
    ) -> list:
        contenders = [
            ablate.Contender(
                f"configs/{name}.py",
                sha256,
                {"config": name},
                [],
                None,
                tuple(range(seeds)),
                learning_rate=rate,
            )
            for name in names
            for rate in rates
        ]
        return ablate.plan(contenders, tmp_path / folder, collected)

    return make


def run(ablate, jobs, trainer: Trainer, num_parallel: int = 1) -> list:
    return ablate.run_grid(jobs, trainer.start, num_parallel, lambda: None)


def test_all_contenders_with_a_seed_before_the_next_seed(ablate, make_jobs, capsys):
    trainer = Trainer(ablate, seconds=60)
    assert run(ablate, make_jobs(), trainer) == []
    expected = ["a, seed 0", "b, seed 0", "a, seed 1", "b, seed 1"]
    assert trainer.started == expected and trainer.most_running == 1
    assert capsys.readouterr().out.splitlines() == [
        "[1/4, about 3 min left] a, seed 0: 0.5",
        "[2/4, about 2 min left] b, seed 0: 0.5",
        "[3/4, about 60 s left] a, seed 1: 0.5",
        "[4/4, about 0 s left] b, seed 1: 0.5",
    ]


def test_parallel(ablate, make_jobs):
    num_parallel = random.randint(2, 4)
    trainer = Trainer(ablate, seconds=60)
    jobs = make_jobs("abc", seeds=4)
    assert run(ablate, jobs, trainer, num_parallel) == []
    assert trainer.most_running == num_parallel
    assert sorted(trainer.started) == sorted(map(str, jobs))
    assert ablate.now == pytest.approx(60 * 12 / num_parallel, abs=5)
    assert all(job.seconds == 60 for job in jobs)


def test_finished_jobs_are_skipped(ablate, make_jobs, capsys):
    run(ablate, make_jobs("a"), Trainer(ablate))
    trainer = Trainer(ablate)
    run(ablate, make_jobs("ab"), trainer)
    assert trainer.started == ["b, seed 0", "b, seed 1"]
    assert "[2/4] finished before" in capsys.readouterr().out


def test_runs_of_a_grid_elsewhere_are_skipped(ablate, make_jobs, tmp_path, capsys):
    file = tmp_path / "ablation.json"
    earlier = make_jobs("a", folder="elsewhere")
    run(ablate, earlier, Trainer(ablate))
    ablate.collect(earlier, file)

    runs = ablate.read_runs([file])
    changed = make_jobs("a", sha256="1" * 64, collected=runs)
    assert not any(job.run() for job in changed)
    jobs = make_jobs("a", seeds=3, collected=runs)
    trainer = Trainer(ablate)
    assert run(ablate, jobs, trainer) == []
    assert trainer.started == ["a, seed 2"]
    assert "[2/3] finished before" in capsys.readouterr().out
    assert ablate.collect(jobs, file)[:2] == runs
    assert len(ablate.read_runs([file])) == 3


def test_runs_of_other_configs_are_kept(ablate, make_jobs, tmp_path):
    """Of the file that a grid goes on from; none of the configs that it trains."""
    earlier = []
    for name in "abc":
        earlier += make_jobs(name, seeds=3, sha256=name * 64, folder="elsewhere")
    run(ablate, earlier, Trainer(ablate))
    runs = ablate.collect(earlier, tmp_path / "ablation.json")

    fewer = make_jobs("a", seeds=1, sha256="a" * 64, collected=runs)
    assert ablate.runs_of_others(fewer, runs) == runs[3:]
    (job,) = make_jobs("d", seeds=1, sha256="d" * 64)
    contender = dataclasses.replace(job.contender, rows={"config": "a"})
    in_the_row_of_a = dataclasses.replace(job, contender=contender)
    with pytest.raises(UserError, match="a.py and .*d.py both stand as 'a' in 'config"):
        ablate.runs_of_others([in_the_row_of_a], runs)
    torn = [*runs[3:], dataclasses.replace(runs[3], result=runs[6].result)]
    with pytest.raises(UserError, match="b.py and .*c.py both stand as 'b'"):
        ablate.runs_of_others(fewer, torn)
    jobs = make_jobs("a", seeds=4, sha256="a" * 64, collected=runs)
    jobs += make_jobs("b", seeds=2, sha256="1" * 64, collected=runs)
    others = ablate.runs_of_others(jobs, runs)
    assert others == [r for r in runs if Path(r.result.config).stem == "c"]

    trainer = Trainer(ablate)
    run(ablate, jobs, trainer)
    assert trainer.started == ["a, seed 3", "b, seed 0", "b, seed 1"]
    ablate.train_and_report(jobs, tmp_path / "out", 1, others)
    kept = ablate.read_runs([tmp_path / "out" / "ablation.json"])
    assert len(kept) == 3 + 4 + 2
    assert len({(r.result.config, r.result.seed) for r in kept}) == 9


def test_collected_runs_of_the_same_hash(ablate, make_jobs, tmp_path):
    """A config that was moved goes on; one in another row is another one."""
    earlier = make_jobs("a", seeds=2, folder="elsewhere")
    run(ablate, earlier, Trainer(ablate))
    runs = ablate.collect(earlier, tmp_path / "ablation.json")
    moved = [
        dataclasses.replace(r, result=dataclasses.replace(r.result, config="old/a.py"))
        for r in runs
    ]
    jobs = make_jobs("a", seeds=3, collected=moved)
    assert ablate.runs_of_others(jobs, moved) == []
    assert [job.run() for job in jobs] == [*runs, None]

    twin = make_jobs("b", seeds=1, collected=runs)
    assert ablate.runs_of_others(twin, runs) == runs
    assert twin[0].run().result.config == "configs/b.py"


def test_interrupted_jobs_go_on(ablate, make_jobs, monkeypatch, capsys):
    jobs = make_jobs("ab", seeds=1)
    trainer, processes = Trainer(ablate), []

    def start(job) -> Process:
        (job.work_dir / "epoch_1.pth").touch()
        processes.append(trainer.start(job))
        return processes[-1]

    def sleep(seconds: float) -> None:
        ablate.now += seconds
        if ablate.now >= 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grid.time, "sleep", sleep)
        ablate.run_grid(jobs, start, 1, lambda: None)
    assert [process.terminated for process in processes] == [False, True]
    assert jobs[0].run() is not None and jobs[1].run() is None
    assert jobs[1].seconds == pytest.approx(10, abs=1)

    again = Trainer(ablate)
    assert run(ablate, jobs, again) == []
    assert again.started == ["b, seed 0"]
    assert (jobs[1].work_dir / "epoch_1.pth").exists()
    assert jobs[1].seconds == pytest.approx(40, abs=1)
    assert "b, seed 0: goes on where it stopped" in capsys.readouterr().out


def test_a_second_signal_does_not_interrupt_the_cleaning_up(ablate):
    numbers = signal.SIGINT, signal.SIGTERM
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        with pytest.raises(KeyboardInterrupt):
            ablate.stop()
        for number in numbers:
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)


def test_changed_config_is_trained_anew(ablate, make_jobs, capsys):
    jobs = make_jobs("a", seeds=1)
    run(ablate, jobs, Trainer(ablate))
    checkpoint = jobs[0].work_dir / "epoch_1.pth"
    checkpoint.touch()
    changed = make_jobs("a", seeds=1, sha256="1" * 64)
    assert changed[0].run() is None  # the old result is not the new config's
    run(ablate, changed, Trainer(ablate))
    assert changed[0].run().result.config_sha256 == "1" * 64
    assert changed[0].seconds == 30 and not checkpoint.exists()
    kept = jobs[0].work_dir.with_name(f"{jobs[0].work_dir.name}.{'0' * 8}")
    assert (kept / "epoch_1.pth").exists()
    out = capsys.readouterr().out
    assert (
        f"its config has changed since; trained anew, the old run is in {kept}" in out
    )
    # And back: what was kept of the other config gives way to the newer one.
    run(ablate, make_jobs("a", seeds=1), Trainer(ablate))
    run(ablate, changed, Trainer(ablate))
    assert not (kept / "epoch_1.pth").exists()


def test_two_grids_do_not_share_a_folder(
    ablate, toy, tmp_path, monkeypatch, another_process
):
    monkeypatch.setattr(ablate, "start_training", None)  # it does not come to that
    command = ["ablate.py", toy / "toy_epochs.py", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with another_process(lambda: hold_folder(tmp_path, "")) as pid:
        with pytest.raises(UserError, match=f"is in use by process {pid} .* --out"):
            ablate.main()


def test_folder_of_an_outdated_run_that_is_somebody_elses(ablate, make_jobs):
    jobs = make_jobs("a", seeds=1)
    run(ablate, jobs, Trainer(ablate))
    kept = jobs[0].work_dir.with_name(f"seed_0.{'0' * 8}")
    kept.mkdir()
    (kept / "thesis.tex").touch()
    with pytest.raises(UserError, match=f"{kept} is not of this ablation; move it"):
        run(ablate, make_jobs("a", seeds=1, sha256="1" * 64), Trainer(ablate))
    assert (kept / "thesis.tex").exists() and jobs[0].run()


def test_failed_jobs(ablate, make_jobs, capsys):
    jobs = make_jobs("abc", seeds=1)
    failed = run(ablate, jobs, Trainer(ablate, failing=("b, seed 0",)))
    assert failed == [jobs[1]]
    output = capsys.readouterr().out
    assert f"failed; see {jobs[1].log}: error: out of luck" in output
    assert "[3/3, about 0 s left] c, seed 0: 0.5" in output
    again = Trainer(ablate)
    assert run(ablate, jobs, again) == []
    assert again.started == ["b, seed 0"]


@pytest.mark.parametrize("change", [dict(seed=5), dict(config_sha256="f" * 64)])
def test_result_of_another_run_does_not_count(ablate, make_jobs, change):
    """As when somebody edits the config between the start and the end of its job."""
    trainer = Trainer(ablate)
    trainer.change = change
    jobs = make_jobs("a", seeds=1)
    assert run(ablate, jobs, trainer) == jobs


def test_a_run_that_measured_nothing_does_not_stop_the_grid(ablate, make_jobs, capsys):
    """As of a detector that found nothing."""
    trainer = Trainer(ablate)
    trainer.change = dict(metrics={})
    jobs = make_jobs(seeds=1)
    assert run(ablate, jobs, trainer) == jobs
    assert "[2/2] b, seed 0: has no metric" in capsys.readouterr().out


class ScoringTrainer(Trainer):
    """Scores are those of the learning rates."""

    def __init__(self, ablate, scores: dict[float, float], failing: tuple = ()) -> None:
        super().__init__(ablate, failing=failing)
        self.scores = scores

    def start(self, job) -> "Process":
        score = self.scores[job.contender.learning_rate]
        self.change = dict(metrics={} if score is None else dict(accuracy=score))
        return super().start(job)


def test_learning_rates_first_and_the_best_one_with_all_seeds(
    ablate, make_jobs, tmp_path, monkeypatch, capsys
):
    jobs = make_jobs("a", seeds=3, sha256="0" * 64, rates=(1e-3, 5e-4, 2e-3))
    trainer = ScoringTrainer(ablate, {1e-3: 0.5, 5e-4: 0.7, 2e-3: 0.6})
    monkeypatch.setattr(ablate, "start_training", lambda job, _: trainer.start(job))
    ablate.train_and_report(jobs, tmp_path / "out", 1)
    assert trainer.started == [
        "a, lr 0.001, seed 0",
        "a, lr 0.0005, seed 0",
        "a, lr 0.002, seed 0",
        "a, lr 0.0005, seed 1",
        "a, lr 0.0005, seed 2",
    ]
    assert (tmp_path / "out" / "a" / "lr_0.0005" / "seed_2").is_dir()
    assert "5 runs; each logs to" in capsys.readouterr().out
    runs = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert sorted(run["learning_rate"] for run in runs) == [5e-4] * 3 + [1e-3, 2e-3]

    again = ScoringTrainer(ablate, {})
    monkeypatch.setattr(ablate, "start_training", lambda job, _: again.start(job))
    ablate.train_and_report(jobs, tmp_path / "out", 1)
    assert again.started == []


def test_a_rate_at_which_nothing_is_found_is_the_worst(
    ablate, make_jobs, tmp_path, monkeypatch
):
    jobs = make_jobs("a", seeds=2, rates=(1e-3, 5e-4))
    trainer = ScoringTrainer(ablate, {1e-3: None, 5e-4: 0.1})
    monkeypatch.setattr(ablate, "start_training", lambda job, _: trainer.start(job))
    ablate.train_and_report(jobs, tmp_path / "out", 1)
    assert trainer.started[-1] == "a, lr 0.0005, seed 1"


def test_no_choice_among_learning_rates_of_which_one_failed(
    ablate, make_jobs, tmp_path, monkeypatch
):
    jobs = make_jobs("a", seeds=2, rates=(1e-3, 5e-4))
    trainer = ScoringTrainer(ablate, {1e-3: 0.5, 5e-4: 0.7}, ("a, lr 0.001, seed 0",))
    monkeypatch.setattr(ablate, "start_training", lambda job, _: trainer.start(job))
    with pytest.raises(UserError, match="1 of 4 runs failed"):
        ablate.train_and_report(jobs, tmp_path / "out", 1)
    assert trainer.started == ["a, lr 0.001, seed 0", "a, lr 0.0005, seed 0"]


def test_learning_rate_and_seeds_of_a_config(ablate, toy, tmp_path, monkeypatch):
    """Each rate has its own hash, the one that the training will have."""

    def count(cfg) -> None:
        cfg.model.built = True  # as mmengine changes what it builds

    monkeypatch.setattr(ablate, "count_multiply_adds", count)
    config = tmp_path / "wishing.py"
    config.write_text(
        f"_base_ = {str(toy / 'toy_epochs.py')!r}\n"
        "ablation = dict(group='a', name='b', seeds=2, learning_rates=(0.1, 0.2))\n"
    )
    contenders = ablate.read_contenders(str(config), None)
    assert [contender.learning_rate for contender in contenders] == [0.1, 0.2]
    assert {contender.seeds for contender in contenders} == {(0, 1)}
    cfg = ablate.read_config(str(config))
    hashes = []
    for rate in (0.1, 0.2):
        cfg.optim_wrapper.optimizer.lr = rate
        hashes.append(ablate.config_sha256(cfg))
    assert [contender.sha256 for contender in contenders] == hashes
    (flagged, _) = ablate.read_contenders(str(config), [7])
    assert flagged.seeds == (7,)


def test_a_run_gets_the_curve_that_it_logged(ablate, make_jobs):
    (job,) = make_jobs("a", seeds=1)
    run(ablate, [job], Trainer(ablate))
    folder = job.work_dir / "20250101_000000" / "vis_data"
    folder.mkdir(parents=True)
    records = [
        dict(loss=3.0, time=0.5, step=10),
        dict(accuracy=0.1, step=1),
        dict(loss=2.0, time=0.25, step=20),
        dict(loss=2.0, time=9.0, step=30),
        dict(accuracy=0.5, step=2),
    ]
    (folder / "scalars.json").write_text("\n".join(map(json.dumps, records)))
    found = job.run()
    assert found.curve == [(1, 0.1), (2, 0.5)]
    assert (found.training_seconds, found.images_per_second) == (15.0, 2.0)


def test_folder_of_something_else(make_jobs, tmp_path):
    stranger = tmp_path / "out" / "b" / "seed_1" / "thesis.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("all of it")
    make_jobs("a")
    with pytest.raises(UserError, match="seed_1 has files that are not of an ablation"):
        make_jobs("ab")
    assert stranger.exists()


def test_process_of_a_job(ablate, make_jobs, monkeypatch):
    started = []
    monkeypatch.setattr(
        ablate,
        "start_child",  # which ends with the grid
        lambda command, **rest: started.append((command, rest)),
    )
    (job,) = make_jobs("a", seeds=1)
    job.work_dir.mkdir(parents=True)
    num_threads = random.randint(1, 8)
    for own, expected in ((None, str(num_threads)), ("3", "3")):
        if own:
            monkeypatch.setenv("OMP_NUM_THREADS", own)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        ablate.start_training(job, num_threads)
        command, rest = started.pop()
        assert list(map(str, command[1:])) == [
            str(ROOT / "tools" / "train.py"),
            "configs/a.py",
            "--work-dir",
            str(job.work_dir),
            "--resume",
            "--cfg-options",
            "randomness.seed=0",
        ]
        assert rest["env"]["OMP_NUM_THREADS"] == expected
        assert rest["stdout"].name == rest["stderr"].name == str(job.log)
    (job,) = make_jobs("a", seeds=1, rates=(5e-4,))
    job.work_dir.mkdir(parents=True)
    ablate.start_training(job, 1)
    assert started.pop()[0][-1] == "optim_wrapper.optimizer.lr=0.0005"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name configs to train, or files"),
        (["a.py", "--report-only", "b.json"], "name configs to train, or files"),
        (["a.py", "--jobs", "0"], "--jobs: must be a positive integer, got 0"),
        (["a.py", "--seeds", "1", "1"], r"--seeds must differ .* got \[1, 1\]"),
        (["a.py", "--seeds", "-1"], r"not be negative, got \[-1\]"),
        (["x/a.py", "y/a.py"], r"different file names, got \['a', 'a'\]"),
    ],
)
def test_mistakes_in_flags(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool("ablate", *arguments)
    assert re.search(message, capsys.readouterr().err)


def test_missing_config(tool, tmp_path):
    with pytest.raises(UserError, match="none.py does not exist"):
        tool("ablate", "none.py", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("val_cfg = val_evaluator = val_dataloader = None", "validations, .* has none"),
        ("default_hooks = dict(result=None)", "needs default_hooks=.*TrainResultHook"),
        ("default_hooks = None", "needs default_hooks=.*TrainResultHook"),
        ("train_dataloader = None", "lacks train_dataloader; add what is"),
    ],
)
def test_config_that_leaves_nothing_to_compare(
    tool, toy, tmp_path, change: str, message: str
):
    config = tmp_path / "silent.py"
    config.write_text(f"_base_ = {str(toy / 'toy_epochs.py')!r}\n{change}\n")
    with pytest.raises(UserError, match=message):
        tool("ablate", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_configs_in_one_row(tool, toy, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(
            f"_base_ = {str(toy / 'toy_epochs.py')!r}\n"
            "ablation = dict(group='a', name='b')\ncustom_hooks = None"
        )
    with pytest.raises(UserError, match="a.py and .*b.py both stand as 'b' in 'a'"):
        tool("ablate", *sorted(tmp_path.iterdir()), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_flags_to_report(ablate, toy, tmp_path, monkeypatch, capsys):
    """One job works, one fails; again, the first is skipped; then a report alone."""
    broken = tmp_path / "broken.py"
    broken.write_text(f"_base_ = {str(toy / 'toy_epochs.py')!r}\nwidth = 3\n")
    out = tmp_path / "out"

    def main(*arguments: object) -> list[str]:
        trainer = Trainer(ablate, failing=("broken, seed 3",))
        monkeypatch.setattr(ablate, "start_training", lambda job, _: trainer.start(job))
        monkeypatch.setattr(sys, "argv", ["ablate.py", *map(str, arguments)])
        try:
            ablate.main()
        finally:
            assert trainer.most_running <= 2
        return trainer.started

    flags = ["--seeds", "3", "--jobs", "2", "--out", out]
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        main(toy / "toy_epochs.py", broken, *flags)
    output = capsys.readouterr().out
    assert "broken, seed 3: failed; see" in output
    assert "| toy_epochs |" in output and "| broken " not in output
    (content,) = json.loads((out / "ablation.json").read_text())
    assert content["result"]["seed"] == 3
    assert content["rows"] == {"config": "toy_epochs"}

    assert main(toy / "toy_epochs.py", *flags) == []
    assert "[1/1] finished before" in capsys.readouterr().out

    again = tmp_path / "again"
    main("--report-only", out / "ablation.json", "--out", again)
    for name in ("ablation.md", "ablation.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    (again / "progress.png").touch()  # of runs that kept curves
    main("--report-only", out / "ablation.json", "--out", again)
    assert not (again / "progress.png").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"sha256": 5, "seconds": 1}', '{"sha256": "a"}']
)
def test_damaged_notes_of_jobs(make_jobs, content):
    (job, *_) = make_jobs()
    job.add_seconds(3)
    job.note.write_text(content)
    for ask in (job.is_outdated, job.keep_outdated, lambda: job.seconds):
        with pytest.raises(
            UserError, match=r"ablation_job.json is damaged; delete .*0"
        ):
            ask()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "hold no finished run"),
        ("3", "does not hold runs"),
        ("[[]]", "does not hold runs"),
        ("[{", "does not hold runs"),
    ],
)
def test_report_of_nothing(tool, tmp_path, content, message):
    path = tmp_path / "runs.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        tool("ablate", "--report-only", path, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_out_that_is_a_file(tool, toy, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UserError, match="--out names a folder"):
        tool("ablate", toy / "toy_epochs.py", "--out", path)


def test_stopped_grid_says_how_to_go_on(ablate, toy, tmp_path, monkeypatch):
    def start(job, num_threads):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "start_training", start)
    command = ["ablate.py", toy / "toy_epochs.py", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(UserError, match="the same command goes on from here"):
        ablate.main()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_process_goes_on(tool, toy, tmp_path, monkeypatch, capsys):
    """Two real processes; the first is killed when there is a checkpoint."""
    paths = [str(ROOT), str(toy), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    config = tmp_path / "long.py"
    config.write_text(
        f"_base_ = {str(toy / 'toy_epochs.py')!r}\ntrain_cfg = dict(max_epochs=100)\n"
    )
    work_dir = tmp_path / "out" / "long" / "seed_4"
    command = ["ablate", config, "--seeds", "4", "--out", tmp_path / "out"]

    def kill_children(seconds: float) -> None:
        sleep(seconds)
        if (work_dir / "last_checkpoint").exists():
            for child in psutil.Process().children():
                child.kill()

    sleep = time.sleep
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", kill_children)
        with pytest.raises(UserError, match="1 of 1 runs failed"):
            tool(*command)
    assert not (work_dir / "train_result.json").exists()
    tool(*command)
    assert "long, seed 4: goes on where it stopped" in capsys.readouterr().out
    assert "resumed epoch: " in (work_dir / "train.log").read_text()
    result = read_result(work_dir / "train_result.json")
    assert result.seed == 4 and result.checkpoint == "epoch_100.pth"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_grid_leaves_no_training(toy, tmp_path):
    """Killed outright, not asked to stop; and its folder is free again."""
    paths = [str(ROOT), str(toy), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    config = tmp_path / "long.py"
    config.write_text(
        f"_base_ = {str(toy / 'toy_epochs.py')!r}\n"
        "train_cfg = dict(max_epochs=100_000)\n"
        "train_dataloader = dict(num_workers=1, persistent_workers=True)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "tools" / "ablate.py", config, "--out", out]
    grid = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    processes = []
    try:
        while not (out / "long" / "seed_0" / "last_checkpoint").exists():
            assert grid.poll() is None
            time.sleep(0.1)
        processes = grid.children(recursive=True)
        assert len(processes) >= 2  # the training and its worker
        grid.kill(), grid.wait()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not alive
    finally:
        for process in [grid, *processes]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    hold_folder(out, ""), hold_folder(out / "long" / "seed_0", "")
