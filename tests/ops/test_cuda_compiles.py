"""What nvcc makes of the CUDA kernels: registers, and what does not fit them."""

import os
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

from toolkit.benchmarks.kernel_resources import read_ptxas

from .cuda_on_cpu import CSRC

_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path=f"{_HOME}/bin")

pytestmark = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")


class Kernel(NamedTuple):
    name: str
    registers: int
    spilled: int  # bytes stored and loaded


def compile_kernels(source: str, architecture: str, folder) -> list[Kernel]:
    command = [NVCC, "-std=c++17", "-O3", "-Xptxas=-v", "-cubin"]
    command += [f"-arch=sm_{architecture}", "-o", str(folder / "kernels.cubin")]
    done = subprocess.run(
        [*command, str(CSRC / "cuda" / source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [
        Kernel(_readable(found["kernel"]), found["registers"], found["spilled_bytes"])
        for found in read_ptxas(done.stderr.splitlines())
    ]


def _readable(mangled: str) -> str:
    """As "Backward for 16 bits, 32 x 16"."""
    found = re.search(
        r"(prepare|reduce|Forward|Backward).*?ConfigILi(\d+)ELi(\d+)ELb([01])E", mangled
    )
    name, width, references, is_exact = found.groups()
    tokens = "float" if is_exact == "1" else "16 bits"
    return f"{name} for {tokens}, {width} x {references}"


def report(kernels: list[Kernel], architecture: str, capsys) -> None:
    with capsys.disabled():
        print(f"\nsm_{architecture}:")
        for kernel in sorted(kernels):
            print(
                f"  {kernel.name:34}{kernel.registers:4} registers"
                + (f", {kernel.spilled} bytes spilled" if kernel.spilled else "")
            )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "architecture", ["80", pytest.param("90", marks=pytest.mark.slow)]
)
def test_kernels_of_the_family_fit_the_registers(architecture, tmp_path, capsys):
    kernels = compile_kernels("kernels_32.cu", architecture, tmp_path)
    report(kernels, architecture, capsys)
    assert len(kernels) == 16
    passes = [k for k in kernels if k.name.startswith(("Forward", "Backward"))]
    assert not [k for k in passes if k.spilled and "32 x 16" in k.name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_kernels_of_all_sizes_compile(architecture, tmp_path, capsys):
    report(
        compile_kernels("kernels_64.cu", architecture, tmp_path), architecture, capsys
    )
