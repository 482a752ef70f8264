"""One check of a machine with a GPU: build, tests, sanitizers, figures, one JSON file.

``tools/gpu_check.sh`` starts it. Each step is a process of its own with a time limit,
so that all of it ends in eight minutes, and works in a copy of the sources, so that the
checkout stays as it is. A wrong result ends it with status 1. What cannot run here, for
want of a tool, a package or time, is left out and listed.

This file and what it imports of the toolkit need torch and Python's library alone: the
package is yet to be built.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

DEFAULT_JSON = "bench_output/gpu_check.json"
# Seconds for everything.
TOTAL = 470


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


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from toolkit.benchmarks.gpu_machine import (
    ROOT,
    describe_machine,
    find_cuda_tools,
    output_of,
    why_no_gpu,
)
from toolkit.benchmarks.gpu_steps import (
    FAILED,
    PASSED,
    SKIPPED,
    TIMED_OUT,
    Check,
    Step,
    environment_variables,
    run_limited,
)
from toolkit.benchmarks.gpu_tables import render
from toolkit.benchmarks.kernel_resources import read_cuobjdump, read_ptxas

# What the copy of the sources needs.
SOURCES = ("setformer_mm", "tools", "tests", "requirements")
SOURCE_FILES = ("setup.py", "pyproject.toml", "README.md")
# Seconds that the figures of the operator must find left by the steps before.
RESERVED = 120
BACKBONES = (
    "setformer_tiny",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "focalnet_tiny_lrf",
)
BACKBONE_PACKAGES = ("mmengine", "mmpretrain", "timm")


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
