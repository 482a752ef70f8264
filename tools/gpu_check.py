"""One check of a machine with a GPU: build, tests, sanitizers, figures, one JSON file.

``tools/gpu_check.sh`` starts it. Each step is a process of its own with a time limit,
so that all of it ends in eight minutes, and works in a copy of the sources, so that the
checkout stays as it is. A wrong result ends it with status 1. What cannot run here, for
want of a tool, a package or time, is left out and listed.

This file imports torch and Python's library alone: the package is yet to be built.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_JSON = "bench_output/gpu_check.json"
# What the copy of the sources needs.
SOURCES = ("setformer_mm", "tools", "tests", "requirements")
SOURCE_FILES = ("setup.py", "pyproject.toml", "README.md")
# Seconds for everything, and at most for each step.
TOTAL = 470
LIMITS = dict(
    build=300,
    tests=120,
    operator=150,
    memcheck=45,
    racecheck=45,
    backbone=90,
    compiled=150,
)
# Seconds that the figures of the operator must find left by the steps before.
RESERVED = 120
# Steps that get less than this do not begin.
SHORTEST = 15
BACKBONES = (
    "setformer_tiny",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "focalnet_tiny_lrf",
)
BACKBONE_PACKAGES = ("mmengine", "mmpretrain", "timm")
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


def find_cuda_tools() -> None:
    """Put the CUDA toolkit at the end of the path, where it is often not."""
    homes = filter(None, (os.environ.get("CUDA_HOME"), "/usr/local/cuda"))
    places = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes)]
    os.environ["PATH"] = os.pathsep.join(places)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", default=DEFAULT_JSON)
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL,
        help=f"for everything (default: {TOTAL})",
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: go the way without a GPU and without building, to test the way",
    )
    parser.add_argument("--quick", action="store_true", help="a small case alone")
    return parser.parse_args()


def why_no_gpu() -> str | None:
    """What keeps this machine from the check, in one sentence."""
    if importlib.util.find_spec("torch") is None:
        return f"it needs torch 2.10 or newer, and {sys.executable} has none"
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"it needs an NVIDIA GPU, and torch {torch.__version__} sees none: "
        "torch.cuda.is_available() is False"
    )


def describe_machine(device: str) -> dict[str, object]:
    """What the figures belong to."""
    import torch

    machine = dict(
        date=time.strftime("%Y-%m-%d %H:%M:%S"),
        commit=output_of("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        changed=bool(output_of("git", "-C", str(ROOT), "status", "--porcelain")),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        system=platform.platform(),
        device="cpu",
    )
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        query = ("--query-gpu=driver_version", "--format=csv,noheader")
        machine |= dict(
            device=torch.cuda.get_device_name(0),
            capability="{}.{}".format(*torch.cuda.get_device_capability(0)),
            multiprocessors=properties.multi_processor_count,
            memory_bytes=properties.total_memory,
            driver=(output_of("nvidia-smi", *query) or "unknown").splitlines()[0],
            nvcc=(output_of("nvcc", "--version") or "unknown").splitlines()[-1],
        )
    return machine


def output_of(*command: str) -> str | None:
    """What a command prints, None where it does not run."""
    try:
        options = dict(capture_output=True, encoding="utf-8", errors="replace")
        done = subprocess.run(command, timeout=10, **options)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def copy_sources(folder: Path) -> None:
    """Copy what is built and run, without what was built before."""
    ignored = shutil.ignore_patterns("__pycache__", ".mim", "_C.*", "*.so")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in SOURCE_FILES:
        shutil.copy(ROOT / name, folder / name)


def build(check: Check, machine: dict) -> list[dict]:
    """Compile the extension for this GPU, and see that it loads.

    Returns:
        list[dict]: What each kernel takes of the GPU, see :func:`read_ptxas`.
    """
    env = dict(
        FORCE_CUDA="1",
        TORCH_CUDA_ARCH_LIST=machine["capability"],
        # nvcc appends them to its command line.
        NVCC_APPEND_FLAGS=f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -Xptxas -v",
    )
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    lines = check.run("build", command, env=env, reserve=RESERVED)
    if not check.passed("build"):
        return []
    loads = (
        "import sys; from setformer_mm.ops import available_backends as backends; "
        "sys.exit(backends()['cuda'])"
    )
    outcome, said = run_limited(
        [sys.executable, "-c", loads],
        60,
        check.folder,
        environment_variables(check.folder),
        echo=False,
    )
    if outcome != PASSED:
        step = check.steps["build"]
        step.outcome, step.output = FAILED, said[-30:]
        step.why = f"it built no usable CUDA kernels: {said[-1] if said else outcome}"
        return []
    kernels = read_ptxas(lines)
    if not kernels:
        for library in (check.folder / "setformer_mm" / "ops").glob("_C*.so"):
            dump = output_of("cuobjdump", "--dump-resource-usage", str(library))
            kernels += read_cuobjdump((dump or "").splitlines())
    if not kernels:
        check.steps["build"].why = "registers are unknown: neither ptxas nor cuobjdump"
    else:
        names = output_of("c++filt", *(kernel["kernel"] for kernel in kernels))
        for kernel, name in zip(kernels, (names or "").splitlines()):
            kernel["kernel"] = name
        spilling = sum(kernel["spilled_bytes"] > 0 for kernel in kernels)
        check.steps["build"].why = (
            f"{len(kernels)} kernels, at most "
            f"{max(kernel['registers'] for kernel in kernels)} registers, "
            f"{spilling} of them spill"
        )
    check.say(check.steps["build"].why)
    return kernels


def read_ptxas(lines: list[str]) -> list[dict]:
    """Registers, and bytes stored and loaded by spills, of each kernel.

    Files compile side by side, but each assembler prints its lines together.
    """
    kernels = []
    name, spilled = None, 0
    for line in lines:
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name, spilled = found[1], 0
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill", line):
            spilled = int(found[1]) + int(found[2])
        elif name and (found := re.search(r"Used (\d+) registers", line)):
            kernels.append(
                dict(kernel=name, registers=int(found[1]), spilled_bytes=spilled)
            )
            name = None
    return kernels


def read_cuobjdump(lines: list[str]) -> list[dict]:
    """The same from the library, where local memory stands for spills."""
    kernels, name = [], None
    for line in lines:
        if found := re.search(r"Function (\w+):", line):
            name = found[1]
        elif name and (found := re.search(r"REG:(\d+) .*?LOCAL:(\d+)", line)):
            kernels.append(
                dict(kernel=name, registers=int(found[1]), spilled_bytes=int(found[2]))
            )
            name = None
    return kernels


def test(check: Check) -> None:
    """Run the GPU's tests."""
    for package in ("pytest", "numpy"):
        if importlib.util.find_spec(package) is None:
            check.skip("tests", f"{sys.executable} has no {package}")
            return
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_timeout") is None:
        # Its mark is unknown then, which the project's options do not let pass.
        command += ["-o", "addopts=-m 'not slow'"]
    lines = check.run("tests", [*command, "tests/ops/test_cuda.py"], reserve=RESERVED)
    if check.passed("tests") and lines:
        check.steps["tests"].why = lines[-1]
        check.say(lines[-1])
        if " passed" not in lines[-1]:
            check.steps["tests"].outcome = FAILED


def sanitize(check: Check) -> None:
    """Watch a small case for errors of memory and for races."""
    for tool in ("memcheck", "racecheck"):
        if shutil.which("compute-sanitizer") is None:
            check.skip(tool, "compute-sanitizer is not on PATH")
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        script = [sys.executable, "tools/bench_gpu.py", "--once"]
        # With an allocation for each tensor, what leaves a tensor is seen to.
        env = dict(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        lines = check.run(tool, [*command, *script], env=env)
        if tool in check.steps and check.steps[tool].outcome == FAILED:
            if not any(re.search(r"SUMMARY: [1-9]", line) for line in lines):
                check.skip(tool, f"it found nothing and failed: {lines[-1:]}")


def measure(check: Check, name: str, *flags: str) -> dict:
    """Run bench_gpu.py as a step, and read what it wrote, even if it did not end."""
    target = check.folder / f"{name}.json"
    # It ends by itself before it is ended.
    seconds = 0.8 * max(check.limit(name), 0)
    script = [sys.executable, "tools/bench_gpu.py", "--json", str(target)]
    check.run(name, [*script, "--seconds", f"{seconds:.0f}", *flags], echo=True)
    return json.loads(target.read_text("utf-8")) if target.exists() else {}


def measure_backbones(check: Check) -> dict:
    """Measure SeTformer-T beside backbones of timm, where there are the packages."""
    missing = [
        name for name in BACKBONE_PACKAGES if importlib.util.find_spec(name) is None
    ]
    if missing:
        check.skip("backbone", f"not installed: {', '.join(missing)}")
        return {}
    target = check.folder / "backbone.json"
    script = [sys.executable, "tools/bench_backbone.py", "--device", "cuda"]
    flags = ["--bf16", "--batch", "64", "--rounds", "5", "--models", *BACKBONES]
    check.run("backbone", [*script, *flags, "--json", str(target)], echo=True)
    return json.loads(target.read_text("utf-8")) if target.exists() else {}


def render(result: dict) -> str:
    """The short table, after what was measured and what was left out."""
    machine = result["machine"]
    parts = [
        ", ".join(
            str(machine[key])
            for key in ("device", "torch", "cuda", "driver", "date", "commit")
            if machine.get(key)
        )
    ]
    ceilings = result["operator"].get("ceilings", {})
    for dtype, rates in ceilings.items():
        exponentials = rates["exponentials"]
        parts.append(
            f"ceilings, {dtype}: copy {rates['moved_bytes'] / 1e9:.0f} GB/s, "
            f"matrix product {2 * rates['multiply_adds'] / 1e12:.1f} TFLOP/s"
            + (f", {exponentials / 1e12:.2f} T exp/s" if exponentials else "")
        )
    for name, step in result["steps"].items():
        line = f"{name}: {step['outcome']}, {step['seconds']:.0f} s"
        parts.append(f"{line}: {step['why']}" if step["why"] else line)
    for what, why in result["operator"].get("skipped", {}).items():
        parts.append(f"skipped: {what}: {why}")
    if rows := backbone_rows(result["backbone"]):
        parts += ["", *aligned(rows)]
    if rows := operator_rows(result):
        parts += ["", *aligned(rows)]
        parts.append(
            "ms: the GPU alone, without waiting for the host; floor: the longest of "
            "bytes, exponentials and products at their ceilings; copy: share of the "
            "copy's rate; times as long as ours, as called: reference, best eager "
            "form, compiled reference, softmax attention (SDPA)"
        )
    return "\n".join(parts)


def operator_rows(result: dict) -> list[list[str]]:
    """Header and a row a case and direction."""
    compiled = {
        case_key(record["case"]): record
        for record in result["compiled"].get("records", [])
    }
    header = "case,dtype,passes,ms,floor,copy,reference,eager,compiled,SDPA,MiB"
    rows = []
    for record in result["operator"].get("records", []):
        ours, times = record["ours"], record["times"]
        both = record["direction"] != "forward"
        alone, bound = median(record["queued"]), record["floors"]
        rows.append(
            [
                record["case"]["name"],
                record["case"]["dtype"],
                "both" if both else "forward",
                f"{1e3 * alone:.3f}",
                f"{1e3 * max(bound.values()):.3f}",
                f"{bound['moved_bytes'] / alone:.0%}",
                times_ours(times, ours, "reference"),
                times_ours(times, ours, "eager"),
                times_ours(
                    compiled.get(case_key(record["case"]), {}).get("times", {})
                    if both
                    else {},
                    ours,
                    "compiled reference",
                ),
                times_ours(times, ours, "SDPA"),
                f"{record['peaks'][ours] / 2**20:.1f}" if record["peaks"] else "",
            ]
        )
    return [header.split(","), *rows] if rows else []


def backbone_rows(backbone: dict) -> list[list[str]]:
    """Header and a row a backbone: images a second."""
    records = backbone.get("records", [])
    if not records:
        return []
    header = ["images a second"]
    for record in records:
        setting = record["setting"]
        what = "training" if setting["training"] else "inference"
        header.append(f"{setting['height']}x{setting['width']} {what}")
    rows = []
    for name in backbone["parameters"]:
        cells = (
            f"{r['setting']['batch'] / median(r['times'][name]):.0f}"
            if name in r["times"]
            else ""
            for r in records
        )
        rows.append([name, *cells])
    return [header, *rows]


def case_key(case: dict) -> tuple[str, str]:
    """What tells cases apart."""
    return case["name"], case["dtype"]


def times_ours(times: dict[str, list[float]], ours: str, other: str) -> str:
    """How many times as long another one takes, where both were measured."""
    if ours not in times or other not in times:
        return ""
    return f"{median(times[other]) / median(times[ours]):.2f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows with their columns below each other: first left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def write(path: Path, result: dict) -> None:
    """Write the JSON file, which is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def run_steps(check: Check, args: argparse.Namespace, result: dict) -> None:
    """Take the steps in the order of what they tell, up to the first wrong result."""
    on_gpu = args.device == "cuda"
    quick = ("--quick",) if args.quick else ()
    copy_sources(check.folder)
    if on_gpu:
        result["kernels"] = build(check, result["machine"])
        if not check.passed("build"):
            return
        test(check)
        if check.steps["tests"].outcome == FAILED:
            return
    else:
        check.skip("build", "--device cpu")
        check.skip("tests", "--device cpu")
    device = ("--device", args.device)
    result["operator"] = measure(check, "operator", *device, *quick)
    if not result["operator"] or check.steps["operator"].outcome == FAILED:
        return
    if on_gpu and not args.quick:
        sanitize(check)
        result["backbone"] = measure_backbones(check)
        result["compiled"] = measure(check, "compiled", "--compiled")
    else:
        why = "--quick" if args.quick else "--device cpu"
        for name in ("memcheck", "racecheck", "backbone", "compiled"):
            check.skip(name, why)


def verdict(steps: dict[str, Step]) -> int:
    """Status of the whole: 1 unless all that tells right from wrong has passed.

    Without pytest the operator is still compared with the reference. A sanitizer that
    runs out of time has found nothing; tests that do may hang, though what comes after
    them is measured.
    """
    for name, allowed in dict(
        build=(PASSED, SKIPPED),
        tests=(PASSED, SKIPPED),
        operator=(PASSED,),
        memcheck=(PASSED, SKIPPED, TIMED_OUT),
        racecheck=(PASSED, SKIPPED, TIMED_OUT),
    ).items():
        if name not in steps or steps[name].outcome not in allowed:
            return 1
    return 0


def main() -> None:
    """Check this machine's GPU."""
    args = parse_args()
    if not 0 < args.seconds < math.inf:
        sys.exit(f"error: --seconds must be positive and finite, got {args.seconds}")
    if args.device == "cuda" and (why := why_no_gpu()) is not None:
        sys.exit(f"error: gpu_check: {why}")
    find_cuda_tools()
    result = dict(
        machine=describe_machine(args.device),
        kernels=[],
        operator={},
        compiled={},
        backbone={},
    )
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        check = Check(args.seconds, Path(folder))
        run_steps(check, args, result)
    result["steps"] = {name: asdict(step) for name, step in check.steps.items()}
    result["seconds"] = args.seconds - check.left
    write(Path(args.json), result)
    print(f"\nAll figures: {args.json}\n\n{render(result)}", flush=True)
    sys.exit(verdict(check.steps))


if __name__ == "__main__":
    main()
