"""tools/training_cost.py: plans checked by hand, and the document with its output.

Models, rates and measured times are made up, but for those of the document.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from setformer_mm.utils.errors import UserError
from toolkit import training_plans

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cost():
    """The tool as a module, which dataclasses look up by its name."""
    name = "tool_training_cost"
    path = ROOT / "tools" / "training_cost.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture
def planned():
    def planned(gpus: int, *, least_step: float = 0.0, images_a_core: float = 1e9):
        return training_plans.plan(
            training_plans.Model(multiply_adds=1e9, parameters=25_000_000),
            training_plans.Schedule(images=1_600_000, batch=16, lr=1e-4),
            training_plans.Rates(0.5, images_a_core, least_step),
            training_plans.Gpu(flops=1.2e12, nvlink=350e6),
            gpus,
            cores=10,
        )

    return planned


def test_plan_of_one_gpu(planned):
    plan = planned(1)
    # 6e9 FLOPs an image, 16 images, 0.6 TFLOP/s.
    assert plan.compute == pytest.approx(0.16)
    assert plan.exchange == 0
    assert (plan.batch, plan.lr, plan.steps) == (16, 1e-4, 100_000)
    assert plan.gpu_hours == plan.hours == pytest.approx(16_000 / 3600)
    assert plan.images_a_second == pytest.approx(100)


def test_plan_of_a_node_exchanges_gradients(planned):
    plan = planned(8)
    assert plan.compute == pytest.approx(0.02)
    assert plan.exchange == pytest.approx(2 * 7 / 8 * 100e6 / 350e6)
    assert plan.step == pytest.approx(0.52)
    assert plan.gpu_hours == pytest.approx(8 * plan.hours)


def test_each_of_many_gpus_gets_an_image_and_lr_follows(planned):
    plan = planned(64)
    assert (plan.batch, plan.steps) == (64, 25_000)
    assert plan.lr == pytest.approx(4e-4)
    assert plan.exchange == pytest.approx(
        2 * 63 / 64 * 100e6 / training_plans.INFINIBAND
    )


def test_slow_loading_and_launches_are_waited_for(planned):
    assert planned(1, least_step=0.3).step == pytest.approx(0.3)
    # 16 images from 10 cores of 2 images a second.
    assert planned(1, images_a_core=2).step == pytest.approx(0.8)


@pytest.mark.parametrize(
    "ends, text",
    [((5, 20), "5 to 20"), ((0.31, 0.4), "0.31 to 0.4"), ((1234, 1234.2), "1,234")],
)
def test_ranges(cost, ends, text):
    assert cost.span(*ends) == cost.span(*ends[::-1]) == text


def test_schedules_and_sizes_are_those_of_the_configs(cost):
    configs = {name: training_plans.load(name, "t") for name in cost.JOBS}
    schedules = {
        name: training_plans.read_schedule(cfg, cost.JOBS[name].images)
        for name, cfg in configs.items()
    }
    assert schedules["imagenet"] == training_plans.Schedule(300 * 1_281_167, 1024, 1e-3)
    assert schedules["coco"] == training_plans.Schedule(36 * 117_266, 16, 1e-4)
    assert schedules["ade20k"] == training_plans.Schedule(160_000 * 16, 16, 6e-5)
    # 480 to 800 in steps of 32: mean square 640^2 + 10240.
    assert training_plans.mean_pixels(configs["coco"]) == pytest.approx(4 / 3 * 419_840)


@pytest.fixture
def measured(tmp_path) -> Path:
    def record(height: int, width: int, batch: int, training: bool = True) -> dict:
        setting = dict(height=height, width=width, batch=batch, training=training)
        setting["dense"] = width != height
        return dict(setting=setting, times={"setformer_tiny (cuda)": [0.1, 0.1, 9.0]})

    records = [record(224, 224, 64), record(800, 1280, 1), record(224, 224, 64, False)]
    path = tmp_path / "check.json"
    path.write_text(json.dumps(dict(backbone=dict(records=records))))
    return path


def test_measured_times_give_the_utilisation(measured):
    shares = training_plans.measured_utilisation(measured, "H100")
    # README: 3.55 G multiply-adds; six FLOPs for each of them in training.
    expected = 6 * 3.55e9 * 64 / 0.1 / 989e12
    assert shares["imagenet"] == pytest.approx(expected, rel=0.01)
    by_pixels = 800 * 1280 / (64 * 224**2)
    assert shares["coco"] == pytest.approx(shares["imagenet"] * by_pixels)


def test_files_without_backbones_are_refused(tmp_path):
    path = tmp_path / "check.json"
    path.write_text(json.dumps(dict(backbone={})))
    with pytest.raises(UserError, match="no training of setformer_tiny"):
        training_plans.measured_utilisation(path, "H100")
    path.write_text("[]")
    with pytest.raises(UserError, match="not what tools/gpu_check.sh writes"):
        training_plans.measured_utilisation(path, "H100")


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--utilisation", "0", "0.5"), "shares above 0 up to 1, got 0.0"),
        (("--cores", "0"), "--cores must be positive"),
    ],
)
def test_flags_that_cannot_be(cost, monkeypatch, capsys, flags, said):
    monkeypatch.setattr(sys, "argv", ["training_cost.py", *flags])
    with pytest.raises(SystemExit):
        cost.main()
    assert said in capsys.readouterr().err


def run(cost, monkeypatch, capsys, *flags: str) -> str:
    monkeypatch.setattr(sys, "argv", ["training_cost.py", *flags])
    cost.main()
    return capsys.readouterr().out


def document() -> str:
    return (ROOT / "docs" / "training_cost.md").read_text()


def test_document_has_the_rows_of_a_classifier(cost, monkeypatch, capsys):
    monkeypatch.setattr(cost, "JOBS", dict(imagenet=cost.JOBS["imagenet"]))
    out = run(cost, monkeypatch, capsys, "--variants", "m")
    tables = out.split("**All of it:**")[0]
    rows = [line for line in tables.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + 5
    assert set(rows[3:]) <= set(document().splitlines())


def test_tables_take_their_place_in_a_document(cost, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cost, "JOBS", dict(imagenet=cost.JOBS["imagenet"]))
    path = tmp_path / "cost.md"
    flags = "--variants", "m", "--document", str(path)
    path.write_text(f"before\n{cost.BEGIN}\nold\n{cost.END}\nafter\n")
    out = run(cost, monkeypatch, capsys, *flags)
    tables = f"{cost.BEGIN}\n\n{out.strip()}\n\n{cost.END}"
    assert path.read_text() == f"before\n{tables}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(UserError, match="cost.md: the document must have"):
        run(cost, monkeypatch, capsys, *flags)
    assert path.read_text() == "no marks"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_document_has_the_output_of_the_tool(cost, monkeypatch, capsys):
    assert run(cost, monkeypatch, capsys).strip() in document()
