"""Steps of a check within the time there is: each a process with a limit of its own.

This file needs Python's library alone.
"""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

# Seconds that each step of tools/gpu_check.py may take at most.
LIMITS = dict(
    build=300,
    tests=120,
    operator=150,
    memcheck=45,
    racecheck=45,
    backbone=90,
    compiled=150,
)
# Steps that get less than this do not begin.
SHORTEST = 15
PASSED, FAILED, SKIPPED, TIMED_OUT = "passed", "failed", "skipped", "timed out"


@dataclass
class Step:
    """How a step went.

    Attributes:
        outcome: One of the four above.
        seconds: Of wall time.
        why: Why it failed or was skipped, or what it found in a line.
        output: Its last lines, where it did not pass.
    """

    outcome: str
    seconds: float = 0.0
    why: str = ""
    output: list[str] = field(default_factory=list)


class Check:
    """Runs steps within the time there is, and remembers how they went.

    Args:
        total: Seconds for all steps.
        folder: Where they work.
    """

    def __init__(self, total: float, folder: Path) -> None:
        self.begin = time.monotonic()
        self.total = total
        self.folder = folder
        self.steps: dict[str, Step] = {}

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.total - (time.monotonic() - self.begin)

    def limit(self, name: str, reserve: float = 0) -> float:
        """Seconds that a step may take, with ``reserve`` kept for those after it."""
        return min(LIMITS[name], self.left - reserve)

    def say(self, what: str) -> None:
        """Print a line of progress."""
        spent = time.monotonic() - self.begin
        print(f"[{spent:3.0f} s, {self.left:3.0f} s left] {what}", flush=True)

    def skip(self, name: str, why: str) -> None:
        """Leave a step out."""
        self.steps[name] = Step(SKIPPED, why=why)
        self.say(f"{name}: skipped: {why}")

    def run(
        self,
        name: str,
        command: list[str],
        *,
        echo: bool = False,
        reserve: float = 0,
        env: dict[str, str] | None = None,
    ) -> list[str]:
        """Run a command as a step.

        Args:
            name: Name of the step.
            command: What to run, in the folder of this check.
            echo: Show its output as it comes.
            reserve: Seconds to keep for later steps.
            env: Variables beside those of :func:`environment_variables`.

        Returns:
            list[str]: Lines of its output, both streams.
        """
        limit = self.limit(name, reserve)
        if limit < SHORTEST:
            self.skip(name, "no time was left")
            return []
        self.say(f"{name}: at most {limit:.0f} s")
        begin = time.monotonic()
        variables = environment_variables(self.folder) | (env or {})
        outcome, lines = run_limited(command, limit, self.folder, variables, echo)
        step = Step(outcome, time.monotonic() - begin)
        if outcome != PASSED:
            step.output = lines[-30:]
            step.why = lines[-1] if lines else "it said nothing"
            if not echo:
                print("\n".join(f"    {line}" for line in step.output))
        self.steps[name] = step
        self.say(f"{name}: {outcome} after {step.seconds:.0f} s")
        return lines

    def passed(self, name: str) -> bool:
        """Whether a step ran and succeeded."""
        return name in self.steps and self.steps[name].outcome == PASSED


def run_limited(
    command: list[str], limit: float, folder: Path, env: dict[str, str], echo: bool
) -> tuple[str, list[str]]:
    """Run a command; end it, and what it started, after ``limit`` seconds."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout:
            lines.append(line.rstrip())
            if echo:
                print(f"    {lines[-1]}", flush=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        status = process.wait(limit)
        outcome = FAILED if status else PASSED
    except subprocess.TimeoutExpired:
        outcome = TIMED_OUT
    finally:
        # Its session is a group of its own, which may outlive it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    reader.join(5)
    return outcome, lines


def environment_variables(folder: Path) -> dict[str, str]:
    """The variables of every step: its Python finds the copy, and nothing disabled."""
    variables = dict(os.environ, PYTHONPATH=str(folder), PYTHONUNBUFFERED="1")
    variables.pop("SETFORMER_MM_DISABLE_EXT", None)
    return variables
