"""Packaging of setformer_mm; the tools' settings are in pyproject.toml."""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

NAME = "setformer_mm"
ROOT = Path(__file__).resolve().parent
MIM_CONTENT = ("configs", "tools", "model-index.yml")
# Weights go with their configs, learning curves do not.
NO_MIM_CONTENT = ("__pycache__", "*.png")

# One binary serves every torch and every Python since these, on the stable ABI of both.
MIN_TORCH = (2, 10)
MIN_PYTHON = (3, 10)
STABLE_ABI = [
    ("TORCH_TARGET_VERSION", hex(MIN_TORCH[0] << 56 | MIN_TORCH[1] << 48)),
    ("Py_LIMITED_API", hex(MIN_PYTHON[0] << 24 | MIN_PYTHON[1] << 16)),
]

# Does without the compiled operator, here as well as at run time.
DISABLE_VARIABLE = "SETFORMER_MM_DISABLE_EXT"
# As mmcv has it: kernels for CUDA are compiled where torch sees a GPU and there is an
# nvcc, and elsewhere on demand.
FORCE_CUDA_VARIABLE = "FORCE_CUDA"
ARCHITECTURES_VARIABLE = "TORCH_CUDA_ARCH_LIST"
DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0+PTX"
MIN_ARCHITECTURE = 8.0

CSRC = Path(NAME, "ops", "csrc")
# The same kernels are compiled once for each instruction set; which one runs is chosen
# when the library is loaded.
KERNEL_FLAGS = {"kernel_baseline.cpp": []}
if platform.machine() in ("x86_64", "AMD64"):
    KERNEL_FLAGS["kernel_avx2.cpp"] = ["-mavx2", "-mfma"]
    KERNEL_FLAGS["kernel_avx512.cpp"] = [
        *("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"),
        "-mprefer-vector-width=512",
    ]


def read_requirements(name: str) -> list[str]:
    """Requirements of ``requirements/<name>.txt`` without its comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line]


def extension() -> Extension:
    """The compiled operator; what it needs of torch is added when it is built."""
    sources = [CSRC / "set_attention.cpp", CSRC / "cpu" / "set_attention_cpu.cpp"]
    sources += [CSRC / "cpu" / name for name in KERNEL_FLAGS]
    return Extension(
        f"{NAME}.ops._C",
        [str(path) for path in sources],
        depends=[str(path) for path in sorted(CSRC.rglob("*.h"))],
        define_macros=STABLE_ABI,
        extra_compile_args=[
            *("-std=c++17", "-O3", "-g0", "-fvisibility=hidden"),
            "-fno-math-errno",  # a loop of square roots becomes one of vectors
        ],
        libraries=["torch_cpu"],
        language="c++",
        py_limited_api=True,
    )


def cuda_extension() -> Extension:
    """Its kernels for CUDA devices, compiled and linked by nvcc."""
    names = ("set_attention_cuda.cpp", "kernels_32.cu", "kernels_64.cu")
    sources = [CSRC / "set_attention_cuda.cpp", *(CSRC / "cuda" / n for n in names)]
    return Extension(
        f"{NAME}.ops._C_cuda",
        [str(path) for path in sources],
        # Without USE_CUDA, torch's header does not tell the current stream.
        define_macros=[*STABLE_ABI, ("USE_CUDA", "1")],
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-Xcompiler=-fPIC,-fvisibility=hidden",
        ],
        # Nvcc's CUDA runtime is kept inside, apart from torch's, which may be another.
        extra_link_args=["-shared", "-cudart=static", "-Xlinker=--exclude-libs=ALL"],
        libraries=["torch_cuda", "torch_cpu"],
        language="cuda",
        py_limited_api=True,
    )


def find_nvcc() -> str | None:
    """Find nvcc in CUDA_HOME, on the path or where CUDA is installed by default."""
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin"] if home else []
    places += [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def torch_says(expression: str) -> bool:
    """Whether that is true, asked in another process: importing torch takes seconds."""
    script = f"import torch; raise SystemExit(not ({expression}))"
    asked = subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    return asked.returncode == 0


def wants_cuda() -> bool:
    """Whether to compile kernels for CUDA; ends with a sentence if forced in vain."""
    if os.environ.get(FORCE_CUDA_VARIABLE) != "1":
        sees_gpu = "torch.version.cuda and torch.cuda.is_available()"
        return find_nvcc() is not None and torch_says(sees_gpu)
    if find_nvcc() is None:
        raise SystemExit(
            f"{NAME}: {FORCE_CUDA_VARIABLE}=1 needs the CUDA toolkit, and there is no "
            "nvcc on the PATH or in CUDA_HOME; install the toolkit or set CUDA_HOME"
        )
    if not torch_says("torch.version.cuda"):
        raise SystemExit(
            f"{NAME}: {FORCE_CUDA_VARIABLE}=1 needs a torch with CUDA, and the one at "
            "hand has none; install one that has and build with --no-build-isolation"
        )
    return True


def architecture_flags() -> list[str]:
    """Flags of nvcc for ``TORCH_CUDA_ARCH_LIST``, as ``8.0;9.0+PTX``.

    Architectures that lack what the kernels use are left out: the variable is that of
    all extensions, and others may go further back.
    """
    names = os.environ.get(ARCHITECTURES_VARIABLE) or DEFAULT_ARCHITECTURES
    flags = []
    for name in re.split(r"[;\s]+", names.strip("; ")):
        match = re.fullmatch(r"(\d+\.\d)([af]?)(\+PTX)?", name)
        if match is None:
            raise SystemExit(
                f"{NAME}: {ARCHITECTURES_VARIABLE} must be like '8.0;9.0+PTX', "
                f"got {names!r}"
            )
        version, suffix, ptx = match.groups()
        number = version.replace(".", "") + suffix
        if float(version) >= MIN_ARCHITECTURE:
            for code in ["sm", "compute"] if ptx else ["sm"]:
                flags.append(f"-gencode=arch=compute_{number},code={code}_{number}")
    if not flags:
        raise SystemExit(
            f"{NAME}: its CUDA kernels need an architecture of at least "
            f"{MIN_ARCHITECTURE} in {ARCHITECTURES_VARIABLE}, got {names!r}"
        )
    return flags


class BuildExtension(build_ext):
    """Compile against the torch at hand, all files at once, each with its flags."""

    def run(self) -> None:
        """Build what this machine can use; see :func:`wants_cuda`."""
        self._torch()
        if not wants_cuda():
            self.extensions = [e for e in self.extensions if e.language != "cuda"]
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Build, with nvcc if it is for CUDA."""
        torch = self._torch()
        ext.include_dirs.append(str(torch / "include"))
        ext.library_dirs.append(str(torch / "lib"))
        if ext.language == "cuda":
            self._build_with_nvcc(ext)
        else:
            self._build_at_once(ext)

    def _build_with_nvcc(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [find_nvcc(), "-o", str(target), *ext.sources, "--threads=0"]
        command += ext.extra_compile_args + architecture_flags() + ext.extra_link_args
        command += [f"-D{name}={value}" for name, value in ext.define_macros]
        command += [f"-I{path}" for path in ext.include_dirs + self.include_dirs]
        command += [f"-L{path}" for path in ext.library_dirs]
        command += [f"-l{name}" for name in ext.libraries]
        self.spawn(command)

    def _build_at_once(self, ext: Extension) -> None:
        compile_in_turn = self.compiler.compile

        def compile_at_once(
            sources: list[str], *, extra_postargs: list[str], **kwargs
        ) -> list[str]:
            def compile_one(source: str) -> list[str]:
                flags = extra_postargs + KERNEL_FLAGS.get(Path(source).name, [])
                return compile_in_turn([source], extra_postargs=flags, **kwargs)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return sum(pool.map(compile_one, sources), [])

        self.compiler.compile = compile_at_once
        super().build_extension(ext)

    @staticmethod
    def _torch() -> Path:
        """Where torch is installed, without importing it.

        Ends with one sentence if there is none to build against.
        """
        needed = ".".join(map(str, MIN_TORCH))
        try:
            found = version("torch")
        except PackageNotFoundError:
            found = "none"
        else:
            if tuple(map(int, found.split(".")[:2])) >= MIN_TORCH:
                return Path(find_spec("torch").origin).parent
        raise SystemExit(
            f"{NAME}: its compiled operator is built against torch {needed} or newer, "
            f"found {found}; install torch and run pip with --no-build-isolation, "
            "without which it builds apart from all that is installed, or set "
            f"{DISABLE_VARIABLE}=1 to do without (the reference in PyTorch runs then)"
        )


class BuildPyWithMim(build_py):
    """Put configs, tools and the model index in ``setformer_mm/.mim``, for mim.

    Wheels get copies, which never touch the source tree. An editable install gets
    links in the source tree, so that an edited config is the one that mim finds.
    """

    def run(self) -> None:
        """Build the package, then ``.mim``, always afresh."""
        super().run()
        package = ROOT / NAME if self.editable_mode else Path(self.build_lib, NAME)
        mim = package / ".mim"
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_CONTENT:
            source, target = ROOT / name, mim / name
            if self.editable_mode:
                target.symlink_to(os.path.relpath(source, mim))
            elif source.is_dir():
                ignored = shutil.ignore_patterns(*NO_MIM_CONTENT)
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)


setup(
    name=NAME,
    version=runpy.run_path(str(ROOT / NAME / "version.py"))["__version__"],
    description="The SeTformer vision backbone for the OpenMMLab libraries",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    keywords="computer vision, backbone, optimal transport, attention, OpenMMLab",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    python_requires=">=" + ".".join(map(str, MIN_PYTHON)),
    # mmengine and the host libraries are left to the user, who has them in versions of
    # their choice, and would be given opencv-python, which needs libGL, by pip. So is
    # torchvision, a release of which would replace the torch at hand by its own.
    install_requires=["scipy>=1.13", "torch>=2.4"],
    extras_require={
        "mim": read_requirements("mminstall"),
        "docs": read_requirements("docs"),
        "optional": read_requirements("optional"),
        "explore": read_requirements("explore"),
        "export": read_requirements("export"),
        "tests": read_requirements("tests"),
        "transformers": read_requirements("transformers"),
    },
    ext_modules=[]
    if os.environ.get(DISABLE_VARIABLE) == "1"
    else [extension(), cuda_extension()],
    options={"bdist_wheel": {"py_limited_api": "cp" + "".join(map(str, MIN_PYTHON))}},
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPyWithMim},
    zip_safe=False,
)
