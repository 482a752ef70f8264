"""The compiled extension is there and on stable ground; where it is not, the reference
runs, and the reason is given.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from setformer_mm.ops import available_backends, extension
from setformer_mm.ops.extension import DISABLE_VARIABLE

from .compiled import needs_extension

# Both, and what they use of Python.
LIBRARIES = {
    "_C": {"PyModule_AddStringConstant", "PyModule_Create2"},
    "_C_cuda": {"PyModule_Create2"},
}

# What a user does first; prints the reason against the CPU kernels, then a result.
USE = """
import torch
from setformer_mm.ops import available_backends, set_attention
print(available_backends()["cpu"])
a = torch.randn(2, 8, 32)
print(tuple(set_attention(torch.randn(1, 9, 2, 32), a, a[:, :4]).shape))
try:
    set_attention(torch.randn(1, 9, 2, 32), a, a[:, :4], backend="cpu")
except ValueError as error:
    print(error)
"""

OLD_TORCH = """
import torch
torch.__version__ = "2.9.1+cu126"
"""

NOT_BUILT = """
import torch
torch.__version__ = "2.10.0"
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: (
    None if name == "setformer_mm.ops.LIBRARY" else find_spec(name, *args)
)
"""

# A binary of another platform, or one cut short by an interrupted installation.
BROKEN = """
import sys
import torch
torch.__version__ = "2.10.0"
from importlib.util import spec_from_file_location
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "setformer_mm.ops.LIBRARY":
            return spec_from_file_location(name, "broken.abi3.so")
sys.meta_path.insert(0, Finder)
open("broken.abi3.so", "w").write("not a library")
"""

WITH_CUDA = """
import torch
torch.version.cuda = "13.0"
"""

NO_CUDA = """
import torch
torch.version.cuda = None
"""

NO_GPU = (
    WITH_CUDA
    + """
torch.cuda.is_available = lambda: False
import sys
sys.modules["setformer_mm.ops._C_cuda"] = sys  # as if the library were there
"""
)


def run_python(*args, cwd, **variables):
    """Run Python away from the sources, which may lie beside an installed package."""
    environment = {**os.environ, **variables}
    process = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@needs_extension
def test_extension_is_loaded():
    assert extension.WHY_MISSING is None
    assert available_backends()["cpu"] is None
    assert extension.INSTRUCTION_SET in ("avx512", "avx2", "baseline")


@pytest.mark.parametrize(
    "preparation, disabled, reason, remedy",
    [
        pytest.param("", "1", "disabled", f"unset {DISABLE_VARIABLE}", id="disabled"),
        pytest.param(OLD_TORCH, "", "2.10", "upgrade torch", id="torch is too old"),
        pytest.param(
            NOT_BUILT.replace("LIBRARY", "_C"),
            "",
            "not built",
            "pip install",
            id="not built",
        ),
        pytest.param(
            BROKEN.replace("LIBRARY", "_C"), "", "broken.abi3.so", "anew", id="broken"
        ),
    ],
)
def test_without_the_extension_the_reference_runs_and_the_reason_is_given(
    preparation, disabled, reason, remedy, tmp_path
):
    variables = {DISABLE_VARIABLE: disabled}
    printed = run_python("-c", preparation + USE, cwd=tmp_path, **variables)
    why, shape, error = printed.splitlines()
    assert reason in why and remedy in why
    assert shape == "(1, 9, 2, 8)"
    assert error == f"backend 'cpu' cannot be used: {why}"


def test_cuda_kernels_are_missed_for_the_reason_of_the_operators(tmp_path):
    code = "from setformer_mm.ops import available_backends as f; print(f()['cuda'])"
    printed = run_python("-c", code, cwd=tmp_path, **{DISABLE_VARIABLE: "1"})
    assert "disabled" in printed


@needs_extension
@pytest.mark.parametrize(
    "preparation, reason, remedy",
    [
        pytest.param(NO_CUDA, "torch has no CUDA", "install one", id="torch"),
        pytest.param(
            WITH_CUDA + NOT_BUILT.replace("LIBRARY", "_C_cuda"),
            "kernels are not built",
            "FORCE_CUDA=1",
            id="not built",
        ),
        pytest.param(
            WITH_CUDA + BROKEN.replace("LIBRARY", "_C_cuda"),
            "broken.abi3.so",
            "anew",
            id="broken",
        ),
        pytest.param(NO_GPU, "sees no GPU", "torch.cuda.is_available()", id="no GPU"),
    ],
)
def test_without_cuda_kernels_the_others_run_and_the_reason_is_given(
    preparation, reason, remedy, tmp_path
):
    use = USE.replace('"cpu"', '"cuda"')
    printed = run_python(
        "-c", preparation + use, cwd=tmp_path, **{DISABLE_VARIABLE: ""}
    )
    why, shape, error = printed.splitlines()
    assert reason in why and remedy in why
    assert shape == "(1, 9, 2, 8)"
    assert error == f"backend 'cuda' cannot be used: {why}"
    code = "from setformer_mm.ops import available_backends as f; print(f()['cpu'])"
    printed = run_python(
        "-c", preparation + code, cwd=tmp_path, **{DISABLE_VARIABLE: ""}
    )
    assert printed == "None\n"


def test_other_values_of_the_variable_disable_nothing(tmp_path):
    code = "from setformer_mm.ops import extension; print(extension.WHY_MISSING)"
    printed = run_python("-c", code, cwd=tmp_path, **{DISABLE_VARIABLE: "0"})
    assert "disabled" not in printed


def test_report_names_every_backend_and_every_reason(tmp_path):
    printed = run_python("-m", "setformer_mm.ops", cwd=tmp_path)
    assert f"torch {torch.__version__}," in printed
    assert re.search(r"\d+ threads", printed)
    for name, why_not in available_backends().items():
        state = "available" if why_not is None else f"not: {why_not}"
        assert re.search(rf"{name} +{re.escape(state)}", printed)
    assert extension.INSTRUCTION_SET is None or extension.INSTRUCTION_SET in printed


@needs_extension
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("name", LIBRARIES)
def test_binary_is_built_on_the_stable_abi_alone(name):
    """Of torch it uses functions of its C interface, of Python the limited API."""
    if name == "_C_cuda" and extension.WHY_CUDA_MISSING is not None:
        pytest.skip(extension.WHY_CUDA_MISSING)
    library = importlib.import_module(f"setformer_mm.ops.{name}")

    assert library.__file__.endswith(".abi3.so")
    nm = ["nm", "--dynamic", "--undefined-only", "--format=posix", library.__file__]
    lines = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[0].split("@")[0] for line in lines.splitlines()]
    torch_symbols = [s for s in symbols if s.startswith(("torch_", "aoti_torch_"))]
    assert len(torch_symbols) > 10
    assert [s for s in symbols if re.search("c10|2at|5torch|8pybind11", s)] == []
    # The CUDA runtime is inside, where it meets no other version.
    assert [s for s in symbols if s.startswith("cuda")] == []
    assert [s for s in symbols if s.startswith("_Py")] == []
    assert {s for s in symbols if s.startswith("Py")} == LIBRARIES[name]


@needs_extension
@pytest.mark.parametrize("name", ["AVX2", "avx512vnni"])
def test_unknown_instruction_set_is_refused(name, tmp_path):
    code = "import setformer_mm.ops"
    with pytest.raises(AssertionError, match="must be one of avx512, avx2, baseline"):
        run_python("-c", code, cwd=tmp_path, SETFORMER_MM_CPU_KERNELS=name)


def test_no_instruction_set_is_none_named(tmp_path):
    code = (
        "from setformer_mm.ops.extension import INSTRUCTION_SET; print(INSTRUCTION_SET)"
    )
    empty = run_python("-c", code, cwd=tmp_path, SETFORMER_MM_CPU_KERNELS="")
    assert empty == run_python("-c", code, cwd=tmp_path)
