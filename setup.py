"""Packaging of setformer_mm; the tools' settings are in pyproject.toml."""

import os
import platform
import runpy
import shutil
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

# One binary serves every torch and every Python since these, on the stable ABI of both.
MIN_TORCH = (2, 10)
MIN_PYTHON = (3, 10)

# Does without the compiled operator, here as well as at run time.
DISABLE_VARIABLE = "SETFORMER_MM_DISABLE_EXT"

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
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line]


def extension() -> Extension:
    """The compiled operator; what it needs of torch is added when it is built."""
    sources = [CSRC / "set_attention.cpp", CSRC / "cpu" / "set_attention_cpu.cpp"]
    sources += [CSRC / "cpu" / name for name in KERNEL_FLAGS]
    torch_target = MIN_TORCH[0] << 56 | MIN_TORCH[1] << 48
    python_target = MIN_PYTHON[0] << 24 | MIN_PYTHON[1] << 16
    return Extension(
        f"{NAME}.ops._C",
        [str(path) for path in sources],
        depends=[str(path) for path in sorted(CSRC.rglob("*.h"))],
        define_macros=[
            ("TORCH_TARGET_VERSION", hex(torch_target)),
            ("Py_LIMITED_API", hex(python_target)),
        ],
        extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"],
        libraries=["torch_cpu"],
        language="c++",
        py_limited_api=True,
    )


class BuildExtension(build_ext):
    """Compile against the torch at hand, all files at once, each with its flags."""

    def build_extension(self, ext: Extension) -> None:
        """Build, or end with one sentence if there is no torch to build against."""
        torch = self._torch()
        ext.include_dirs.append(str(torch / "include"))
        ext.library_dirs.append(str(torch / "lib"))
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
        """Where torch is installed, without importing it."""
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
            f"found {found}; install torch and build with --no-build-isolation, or set "
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
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)


setup(
    name=NAME,
    version=runpy.run_path(str(ROOT / NAME / "version.py"))["__version__"],
    description="The SeTformer vision backbone for the OpenMMLab libraries",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    keywords="computer vision, backbone, optimal transport, attention, OpenMMLab",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    python_requires=">=" + ".".join(map(str, MIN_PYTHON)),
    # mmengine and the host libraries are left to the user, who has them in versions of
    # their choice, and would be given opencv-python, which needs libGL, by pip.
    install_requires=["scipy>=1.13", "torch>=2.4", "torchvision"],
    extras_require={
        "mim": read_requirements("mminstall"),
        "optional": read_requirements("optional"),
        "tests": read_requirements("tests"),
    },
    ext_modules=[] if os.environ.get(DISABLE_VARIABLE) == "1" else [extension()],
    options={"bdist_wheel": {"py_limited_api": "cp" + "".join(map(str, MIN_PYTHON))}},
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPyWithMim},
    zip_safe=False,
)
