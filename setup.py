"""Packaging of setformer_mm; the tools' settings are in pyproject.toml."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME = "setformer_mm"
ROOT = Path(__file__).resolve().parent
MIM_CONTENT = ("configs", "tools", "model-index.yml")


def read_requirements(name: str) -> list[str]:
    """Requirements of ``requirements/<name>.txt`` without its comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line]


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
    python_requires=">=3.10",
    # mmengine and the host libraries are left to the user, who has them in versions of
    # their choice, and would be given opencv-python, which needs libGL, by pip.
    install_requires=["scipy>=1.13", "torch>=2.4", "torchvision"],
    extras_require={
        "mim": read_requirements("mminstall"),
        "optional": read_requirements("optional"),
        "tests": read_requirements("tests"),
    },
    cmdclass={"build_py": BuildPyWithMim},
    zip_safe=False,
)
