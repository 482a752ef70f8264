"""The machine with the GPU: whether there is one, and what figures belong to."""

import importlib.util
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def find_cuda_tools() -> None:
    """Put the CUDA toolkit at the end of the path, where it is often not."""
    homes = filter(None, (os.environ.get("CUDA_HOME"), "/usr/local/cuda"))
    places = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes)]
    os.environ["PATH"] = os.pathsep.join(places)


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
