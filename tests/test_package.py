"""The package from outside: imports, registration, and what its distributions hold."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import setformer_mm
from setformer_mm.ops.extension import DISABLE_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
HOST_LIBRARIES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain")

# Put before the code of a subprocess, makes the modules in BLOCKED look absent.
BLOCKER = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_unless_blocked(name, path=None, target=None):
    if name.partition(".")[0] in BLOCKED or name in BLOCKED:
        return None
    return find_spec(name, path, target)

PathFinder.find_spec = find_unless_blocked
"""


def run_python(code, *, blocked=(), cwd=ROOT, **variables):
    code = f"BLOCKED = {set(blocked)!r}\n{BLOCKER}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def last_line(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1]


def test_package_imports_without_the_host_libraries():
    process = run_python(
        "import setformer_mm; print(setformer_mm.__all__)", blocked=HOST_LIBRARIES
    )
    assert last_line(process) == "['__version__', 'configs']"


def test_package_registers_beside_mmengine_alone():
    """A project that uses one host library has neither the others nor scikit-learn."""
    process = run_python(
        "import setformer_mm; from mmengine.registry import MODELS; "
        "print(MODELS.get('SeTformer').__name__)",
        blocked=(*HOST_LIBRARIES[1:], "sklearn", "threadpoolctl"),
    )
    assert last_line(process) == "SeTformer"


def test_ops_need_torch_alone():
    third_party = ("torchvision", "numpy", "scipy", "sklearn", "cv2", "matplotlib")
    process = run_python(
        "import torch; from setformer_mm.ops import set_attention; "
        "a = torch.randn(2, 8, 32); x = torch.randn(1, 9, 2, 32); "
        "print(tuple(set_attention(x, a, a[:, :4]).shape))",
        blocked=(*HOST_LIBRARIES, *third_party),
    )
    assert last_line(process) == "(1, 9, 2, 8)"


def test_the_encoder_of_sequences_needs_no_host_library():
    process = run_python(
        "import torch; from setformer_mm.models import SeTEncoder; "
        "encoder = SeTEncoder(1, 16, 2, pooling='mean'); "
        "print(tuple(encoder(torch.randn(2, 9, 16), torch.tensor([9, 4])).shape))",
        blocked=HOST_LIBRARIES,
    )
    assert last_line(process) == "(2, 16)"


def test_doctor_needs_torch_alone():
    process = run_python(
        "import runpy; runpy.run_module('setformer_mm', run_name='__main__')",
        blocked=(*HOST_LIBRARIES, "torchvision", "numpy", "scipy"),
    )
    assert "none of the OpenMMLab libraries is installed" in process.stdout
    assert process.returncode == 0, process.stderr


def test_importing_leaves_out_what_takes_half_a_second_and_few_need():
    slow = (
        "torch._dynamo",
        "torchvision",
        "scipy.optimize",
        "sklearn",
        "mmcv",
        "matplotlib.pyplot",
    )
    process = run_python(
        f"import setformer_mm, sys; print([n for n in {slow} if n in sys.modules])"
    )
    assert last_line(process) == "[]"


def test_errors_of_the_registration_are_not_swallowed():
    blocked = "setformer_mm.models.setformer"
    process = run_python("import setformer_mm", blocked=[blocked])
    assert process.returncode != 0
    assert f"No module named '{blocked}'" in process.stderr


@pytest.mark.parametrize("missing", ["cv2", "addict"])
def test_an_mmengine_that_lacks_something_leaves_the_operator(missing):
    process = run_python(
        "import torch; from setformer_mm.ops import set_attention; "
        "a = torch.randn(2, 8, 32); x = torch.randn(1, 9, 2, 32); "
        "print(tuple(set_attention(x, a, a[:, :4]).shape))",
        blocked=[missing],
    )
    assert last_line(process) == "(1, 9, 2, 8)"
    sentence = f"cannot be imported (No module named '{missing}'): SeTformer is not"
    assert process.stderr.count(sentence) == 1


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
@pytest.mark.parametrize("name", ["SeTformer", "setformer_mm.SeTformer"])
def test_backbone_resolves_from_every_scope(scope, name):
    registry = pytest.importorskip(f"{scope}.registry").MODELS
    assert registry.get(name) is setformer_mm.SeTformer


def test_exports_exist():
    for name in setformer_mm.__all__:
        assert hasattr(setformer_mm, name)


def test_version_is_the_same_everywhere():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == setformer_mm.__version__
    assert f"## {setformer_mm.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_config_basenames_are_unique():
    """Mim finds a config by its basename."""
    names = Counter(path.name for path in (ROOT / "configs").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_model_index_lists_the_published_configs():
    modelindex = pytest.importorskip("modelindex.load_model_index")
    index = modelindex.load(str(ROOT / "model-index.yml"))
    index.build_models_with_collections()
    assert index.check(silent=True) == []
    folder = ROOT / "configs"
    configs = {*folder.glob("*.py"), *folder.glob("digits/*_digits.py")}
    assert {ROOT / model.config for model in index.models} == configs
    for model in index.models:
        assert model.name == Path(model.config).stem


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what packaging reads, so that no build touches the working tree."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setformer_mm", "configs", "tools", "requirements"):
        ignored = shutil.ignore_patterns("__pycache__", ".mim", "_C*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


# Kernels for CUDA take minutes to compile, which a GPU that is seen would ask for.
NO_CUDA = {"CUDA_VISIBLE_DEVICES": "", "FORCE_CUDA": ""}


def build(source, kind, target, disable_extension=True, **variables):
    """Call the PEP 517 hook `build_<kind>` as pip does; return the file it writes.

    Compiling takes most of the time, and most tests are about something else.
    """
    disabled = "1" if disable_extension else ""
    variables = {DISABLE_VARIABLE: disabled, **NO_CUDA, **variables}
    code = f"from setuptools import build_meta; hook = build_meta.build_{kind}; "
    code += f"print(hook({str(target)!r}))"
    return target / last_line(run_python(code, cwd=source, **variables))


def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def mim_content(root):
    """The files that mim must find, relative to `.mim`: all but learning curves."""
    found = {Path("model-index.yml")}
    for name in ("configs", "tools"):
        found |= {p.relative_to(root) for p in (root / name).rglob("*") if p.is_file()}
    assert Path("tools/toolkit/launch.py") in found
    assert Path("configs/digits/checkpoints/setformer_digits.pth") in found
    return {path for path in found if path.suffix != ".png"}


def mim_members(wheel):
    prefix = "setformer_mm/.mim/"
    names = members(wheel)
    return {Path(n.removeprefix(prefix)) for n in names if n.startswith(prefix)}


@pytest.mark.timeout(600)
def test_wheel_of_the_sdist_holds_one_binary_for_all_versions(source, tmp_path):
    sdist = build(source, "sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    wheel = build(unpacked, "wheel", tmp_path, disable_extension=False)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    name = f"setformer_mm-{setformer_mm.__version__}-cp310-abi3-{platform}.whl"
    assert wheel.name == name
    binaries = [n for n in members(wheel) if n.startswith("setformer_mm/ops/_C")]
    assert binaries == ["setformer_mm/ops/_C.abi3.so"]
    assert not [n for n in members(wheel) if "csrc" in n]
    assert mim_members(wheel) == mim_content(source)
    # Installed, it is complete: this imports it from the wheel's content alone.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "from setformer_mm.ops import extension, available_backends; "
    code += "print(available_backends()['cpu'], extension.__file__)"
    variables = {"PYTHONPATH": str(tmp_path / "installed"), DISABLE_VARIABLE: ""}
    process = run_python(code, cwd=tmp_path, blocked=HOST_LIBRARIES, **variables)
    assert last_line(process).startswith(f"None {tmp_path}")


# Put before a build: what the metadata say of torch.
TORCH_VERSION = """
import importlib.metadata
version = importlib.metadata.version
def changed(name):
    if name != "torch":
        return version(name)
    if FOUND == "none":
        raise importlib.metadata.PackageNotFoundError(name)
    return FOUND
importlib.metadata.version = changed
"""


@pytest.mark.parametrize("found", ["none", "2.9.1+cu126"])
def test_building_without_a_new_enough_torch_ends_with_a_sentence(
    found, source, tmp_path
):
    hook = "from setuptools import build_meta; "
    code = f"FOUND = {found!r}\n{TORCH_VERSION}\n{hook}\n"
    code += f"build_meta.build_wheel({str(tmp_path)!r})"
    process = run_python(code, cwd=source, **{DISABLE_VARIABLE: ""}, **NO_CUDA)
    assert process.returncode != 0
    sentence = process.stderr.splitlines()[-1]
    assert f"built against torch 2.10 or newer, found {found}" in sentence
    assert "run pip with --no-build-isolation" in sentence
    assert (
        "apart from all that is installed" in sentence and DISABLE_VARIABLE in sentence
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def setup_script(monkeypatch):
    """The module setup.py, with nothing set up."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.chdir(ROOT)
    for variable in ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """Stands for the compiler: writes its arguments to the file it is to write."""
    script = tmp_path / "cuda" / "bin" / "nvcc"
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\necho "$@" > "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    return script


def build_cuda_extension(setup_script, target):
    """Run the build of the CUDA library alone; return it, or None if it is left out."""
    import setuptools

    extensions = [setup_script.cuda_extension()]
    distribution = setuptools.Distribution(
        {"name": "setformer_mm", "ext_modules": extensions}
    )
    command = setup_script.BuildExtension(distribution)
    command.build_lib, command.build_temp = str(target), str(target)
    command.ensure_finalized()
    command.run()
    found = list(target.rglob("*.so"))
    return found[0] if found else None


def test_cuda_kernels_are_built_by_the_nvcc_of_cuda_home(
    setup_script, nvcc, tmp_path, monkeypatch
):
    monkeypatch.setattr(setup_script, "torch_says", lambda _: True)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    library = build_cuda_extension(setup_script, tmp_path / "built")
    assert library.relative_to(tmp_path / "built") == Path(
        "setformer_mm/ops/_C_cuda.abi3.so"
    )
    arguments = library.read_text().split()
    for source in ("set_attention_cuda.cpp", "cuda/kernels_32.cu"):
        assert f"setformer_mm/ops/csrc/{source}" in arguments
    assert "-gencode=arch=compute_90,code=sm_90" in arguments
    assert "-cudart=static" in arguments


def test_cuda_kernels_are_left_out_where_torch_sees_no_gpu(
    setup_script, nvcc, tmp_path, monkeypatch
):
    monkeypatch.setattr(setup_script, "torch_says", lambda _: False)
    assert build_cuda_extension(setup_script, tmp_path / "built") is None


def test_torch_is_not_asked_where_there_is_no_nvcc(setup_script, monkeypatch):
    monkeypatch.setattr(setup_script, "find_nvcc", lambda: None)
    monkeypatch.setattr(setup_script, "torch_says", pytest.fail)
    assert not setup_script.wants_cuda()


def test_torch_answers_in_another_process(setup_script):
    assert setup_script.torch_says("torch.__version__")
    assert not setup_script.torch_says("torch.version.cuda == 'none at all'")
    assert not setup_script.torch_says("torch.there_is_no_such_thing")


@pytest.mark.parametrize(
    "found, has_cuda, sentence",
    [
        (None, True, "no nvcc on the PATH or in CUDA_HOME"),
        ("nvcc", False, "needs a torch with CUDA"),
    ],
)
def test_forcing_cuda_in_vain_ends_with_a_sentence(
    found, has_cuda, sentence, setup_script, monkeypatch
):
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(setup_script, "find_nvcc", lambda: found)
    monkeypatch.setattr(setup_script, "torch_says", lambda _: has_cuda)
    with pytest.raises(SystemExit, match=f"FORCE_CUDA=1 .*{sentence}"):
        setup_script.wants_cuda()


def test_forcing_cuda_needs_no_gpu(setup_script, nvcc, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(setup_script, "torch_says", lambda asked: "avail" not in asked)
    assert setup_script.wants_cuda()


@pytest.mark.parametrize(
    "given, codes",
    [
        ("", "sm_80 sm_86 sm_89 sm_90 compute_90"),
        ("8.0;9.0", "sm_80 sm_90"),
        ("8.0 9.0+PTX", "sm_80 sm_90 compute_90"),
        ("7.5;8.6+PTX;", "sm_86 compute_86"),
        ("9.0a 12.0", "sm_90a sm_120"),
    ],
)
def test_architectures_are_those_of_the_variable(
    given, codes, setup_script, monkeypatch
):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    flags = setup_script.architecture_flags()
    assert [flag.rpartition("code=")[2] for flag in flags] == codes.split()
    for flag in flags:
        number = flag.rpartition("_")[2]
        assert flag.startswith(f"-gencode=arch=compute_{number},")


@pytest.mark.parametrize(
    "given, sentence",
    [("Hopper", "must be like '8.0;9.0.PTX', got 'Hopper'"), ("7.0", "at least 8.0")],
)
def test_unusable_architectures_end_with_a_sentence(
    given, sentence, setup_script, monkeypatch
):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(SystemExit, match=sentence):
        setup_script.architecture_flags()


# Loads what has been built, under a torch that need not see a GPU.
LOAD_CUDA_KERNELS = """
import torch, setformer_mm.ops._C, setformer_mm.ops._C_cuda as library
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
names = "forward", "backward"
print(library.__file__, *(
    has_kernel(f"setformer_mm::set_attention_{name}", "CUDA") for name in names
))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cuda_kernels_compile_and_register(source, tmp_path, setup_script):
    if not (setup_script.find_nvcc() and setup_script.torch_says("torch.version.cuda")):
        pytest.skip("needs nvcc and a torch with CUDA")
    forced = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0"}
    wheel = build(source, "wheel", tmp_path, disable_extension=False, **forced)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    variables = {"PYTHONPATH": str(tmp_path / "installed"), DISABLE_VARIABLE: ""}
    process = run_python(LOAD_CUDA_KERNELS, cwd=tmp_path, **variables)
    library = tmp_path / "installed" / "setformer_mm" / "ops" / "_C_cuda.abi3.so"
    assert last_line(process) == f"{library} True True"


def test_build_and_package_agree_on_what_disables_the_extension():
    assert f'DISABLE_VARIABLE = "{DISABLE_VARIABLE}"' in (ROOT / "setup.py").read_text()


def test_wheel_holds_the_package_and_mim_content(source, tmp_path):
    wheel = build(source, "wheel", tmp_path)
    assert wheel.name == f"setformer_mm-{setformer_mm.__version__}-py3-none-any.whl"
    assert mim_members(wheel) == mim_content(source)
    with zipfile.ZipFile(wheel) as archive:
        modules = {Path(n) for n in archive.namelist() if n.endswith(".py")}
        metadata = archive.read(
            f"setformer_mm-{setformer_mm.__version__}.dist-info/METADATA"
        ).decode()
        archive.extractall(tmp_path / "installed")
    assert {p for p in modules if ".mim" not in p.parts} == {
        p.relative_to(source) for p in (source / "setformer_mm").rglob("*.py")
    }
    required = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    # A torch of long ago stays; torchvision would bring another one.
    assert required == ["scipy>=1.13", "torch>=2.4"]
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert not (source / "setformer_mm" / ".mim").exists()
    process = run_python(
        "from setformer_mm import configs; print(configs.path('upernet_setformer_t'))",
        blocked=HOST_LIBRARIES,
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "installed"),
    )
    mim = tmp_path / "installed" / "setformer_mm" / ".mim"
    assert Path(last_line(process)) == mim / "configs" / "upernet_setformer_t.py"


def test_editable_install_links_mim_content(source, tmp_path):
    wheel = build(source, "editable", tmp_path)
    assert mim_members(wheel) == set()
    mim = source / "setformer_mm" / ".mim"
    assert {p.name for p in mim.iterdir()} == {"configs", "tools", "model-index.yml"}
    for link in mim.iterdir():
        assert not os.path.isabs(os.readlink(link))
        assert link.resolve() == source / link.name
    build(source, "editable", tmp_path)  # links that are already there are no obstacle
    shutil.rmtree(mim)
