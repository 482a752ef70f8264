"""``python -m setformer_mm``: what is there, and an advice for each thing wrong.

The package beside torch alone is tested in test_package.py.
"""

import importlib.metadata

import pytest

doctor = pytest.importorskip("setformer_mm.__main__")


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    """What it prints on a quiet machine, in a folder that has the embedded data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "digits").mkdir(parents=True)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 64)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    everything = dict.fromkeys(("cuda", "cpu", "reference"))
    monkeypatch.setattr(doctor, "available_backends", lambda: everything)
    monkeypatch.setattr(doctor, "version", lambda distribution: "1.0")
    monkeypatch.setattr(doctor, "find_spec", Spec)

    def report() -> tuple[str, list[str]]:
        doctor.main()
        text, _, advice = capsys.readouterr().out.partition("Advice:")
        return text, advice.strip().splitlines()

    return report


class Spec:
    """Of a library with compiled operators."""

    def __init__(self, name: str) -> None:
        self.origin = f"{name}/__init__.py"


@pytest.fixture(autouse=True)
def compiled_mmcv(tmp_path, monkeypatch):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "_ext.so").touch()


def test_nothing_wrong(report):
    text, advice = report()
    assert advice == [] and "Nothing is wrong." in text
    assert "64 cores" in text and "OMP_NUM_THREADS" in text
    for root in ("data/coco", "data/imagenet", "data/ade/ADEChallengeData2016"):
        (line,) = [line for line in text.splitlines() if root in line.split()]
        assert line.endswith("not there")
    assert "data/digits/classification" not in text  # a part of data/digits


def test_no_libraries(report, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    text, (advice,) = report()
    assert text.count("not installed") == len(doctor.LIBRARIES)
    assert "setformer_mm.ops works" in advice and "mminstall.txt" in advice


@pytest.fixture
def only(monkeypatch):
    """Install these distributions: ``only(mmengine="0.10.7")``."""

    def only(**versions: str) -> None:
        def version(distribution: str) -> str:
            try:
                return versions[distribution.replace("-", "_")]
            except KeyError:
                raise importlib.metadata.PackageNotFoundError(distribution) from None

        monkeypatch.setattr(doctor, "version", version)

    return only


MAINTAINED = dict.fromkeys(
    (maintained.replace("-", "_") for maintained, *_ in doctor.LIBRARIES.values()),
    "1.0",
)
ORIGINAL = dict.fromkeys((name for _, name, _ in doctor.LIBRARIES.values()), "1.0")


def test_one_library_is_missing_and_one_of_nobody(report, monkeypatch, only):
    del (others := dict(MAINTAINED))["onedl_mmengine"]
    only(**others)
    monkeypatch.setattr(
        doctor, "find_spec", lambda n: None if n == "mmseg" else Spec(n)
    )
    _, (first, second) = report()
    assert "mmengine is neither of onedl-mmengine, which is maintained, nor" in first
    assert "mmseg is missing, and with it segmentation" in second


def test_the_libraries_of_openmmlab(report, monkeypatch, only):
    only(**ORIGINAL, numpy="1.26.4")
    monkeypatch.setattr(doctor.torch, "__version__", "2.5.1")
    text, advice = report()
    assert text.count("1.0, OpenMMLab's own") == len(doctor.LIBRARIES) and not advice
    only(**ORIGINAL, numpy="2.4.6")
    monkeypatch.setattr(doctor.torch, "__version__", "2.10.0+cpu")
    _, (first, second) = report()
    assert "does not read checkpoints of trainings with torch 2.6 or newer" in first
    assert "pip install 'numpy<2'" in second


def test_mmcv_without_operators(report, tmp_path):
    (tmp_path / "mmcv" / "_ext.so").unlink()
    assert "mmcv has no compiled operators" in report()[1][0]


@pytest.mark.parametrize(
    ("cores", "load", "sentence"),
    [(1, 0.0, "export OMP_NUM_THREADS=1"), (8, 20.0, "load 20.0 on 8")],
)
def test_threads(report, monkeypatch, cores, load, sentence):
    monkeypatch.setattr(doctor, "usable_cores", lambda: cores)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 4)
    _, (advice,) = report()
    assert sentence in advice


def test_kernels_and_data(report, monkeypatch, tmp_path):
    (tmp_path / "data" / "digits").rmdir()
    why = dict(cuda="no nvcc", cpu="it is not built", reference=None)
    monkeypatch.setattr(doctor, "available_backends", lambda: why)
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    _, (first, second) = report()
    assert "it is not built" in first and "prepare_mini_data.py" in second
