"""Run the jobs of a grid, some at a time, and tell how far they are."""

import subprocess
import time
from collections.abc import Callable, Sequence

from .jobs import Job

POLL_SECONDS = 0.5


def run_grid(
    jobs: Sequence[Job],
    start: Callable[[Job], subprocess.Popen],
    num_parallel: int,
    finished: Callable[[], None],
) -> list[Job]:
    """Run all jobs that are not finished, ``num_parallel`` at a time.

    Args:
        jobs: the grid.
        start: starts the process of a job.
        num_parallel: processes at a time.
        finished: called when a job has been finished.

    Returns:
        The jobs that failed.
    """
    done = [job for job in jobs if not job.is_outdated() and job.run()]
    waiting = [job for job in jobs if job not in done]
    if done:
        print(f"[{len(done)}/{len(jobs)}] finished before", flush=True)
    failed: list[Job] = []
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_parallel:
                job = waiting.pop(0)
                _prepare(job)
                running[job] = start(job), time.monotonic()
            ended = [job for job, (p, _) in running.items() if p.poll() is not None]
            for job in ended:
                process, since = running.pop(job)
                job.add_seconds(time.monotonic() - since)
                run = None if process.returncode else job.run()
                (done if run else failed).append(job)
                if run:
                    finished()
                elapsed = [time.monotonic() - since for _, since in running.values()]
                left = _seconds_left(done, len(waiting), elapsed) / num_parallel
                count = len(done) + len(failed)
                estimate = f", about {_duration(left)} left" if done else ""
                progress = f"[{count}/{len(jobs)}{estimate}]"
                outcome = f"{run.score:.4g}" if run else _failure(job, process)
                print(f"{progress} {job}: {outcome}", flush=True)
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:  # Ctrl-C
        for process, _ in running.values():
            process.terminate()
        for job, (process, since) in running.items():
            process.wait()
            job.add_seconds(time.monotonic() - since)
    return failed


def _prepare(job: Job) -> None:
    """Make the job's folder ready, and say so unless the job is new."""
    if job.is_outdated():
        kept = job.keep_outdated()
        print(
            f"{job}: its config has changed since; trained anew, the old run is in "
            f"{kept}",
            flush=True,
        )
    elif job.is_known():
        print(f"{job}: goes on where it stopped", flush=True)
    job.add_seconds(0)


def _seconds_left(done: list[Job], waiting: int, elapsed: list[float]) -> float:
    """Seconds of work left if each job takes as long as those that are done."""
    if not done:
        return 0.0
    mean = sum(job.seconds for job in done) / len(done)
    return waiting * mean + sum(max(mean - seconds, 0) for seconds in elapsed)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _failure(job: Job, process: subprocess.Popen) -> str:
    if job.found_nothing():
        return f"has no metric, as of a detector that finds nothing; see {job.log}"
    if not process.returncode:
        return f"left no result of this config; see {job.log}"
    exists = job.log.exists()
    lines = job.log.read_text("utf-8", "replace").split("\n") if exists else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed; see {job.log}: {last}"
