"""TrainResultHook: the metrics of the last weights, whatever happened before."""

import pytest

from setformer_mm.utils.results import config_sha256, file_sha256, read_result


def trained_result(runner):
    return read_result(f"{runner.work_dir}/train_result.json")


@pytest.mark.parametrize(
    ("kind", "last"), [("epochs", "epoch_4"), ("iters", "iter_12")]
)
def test_result_of_a_training(toy_runner, kind, last):
    seen = []
    runner = toy_runner(kind, options={"randomness.seed": 3})
    before = config_sha256(runner.cfg)
    evaluate = runner.val_loop.evaluator.evaluate

    def observed(size):
        seen.append(evaluate(size))
        return seen[-1]

    runner.val_loop.evaluator.evaluate = observed
    runner.train()
    result = trained_result(runner)
    assert result.kind == "train" and result.seed == 3
    assert result.config.endswith(f"tests/toy/toy_{kind}.py")
    assert result.config_sha256 == before
    assert result.checkpoint == f"{last}.pth"
    path = f"{runner.work_dir}/{last}.pth"
    assert result.checkpoint_sha256 == file_sha256(path)
    assert result.metrics == seen[-1]
    assert result.num_parameters == 4 * 8 + 8 + 8 * 2 + 2
    assert result.best == {}


def test_killed_before_the_last_validation(toy_runner, tmp_path):
    """Resumed with nothing left to train, it validates what is there."""
    left_alone = toy_runner("epochs", "left_alone")
    left_alone.train()

    killed = toy_runner("epochs", "killed")
    killed.val_loop.run = lambda: 1 / 0 if killed.epoch == 4 else None
    with pytest.raises(ZeroDivisionError):
        killed.train()
    assert not (tmp_path / "killed" / "train_result.json").exists()
    resumed = toy_runner("epochs", "killed", dict(resume=True))
    resumed.train()
    assert trained_result(resumed).metrics == trained_result(left_alone).metrics


@pytest.mark.parametrize("save_best", ["accuracy", ["accuracy"]])
def test_best_validation(toy_runner, save_best):
    options = {"default_hooks.checkpoint": dict(save_best=save_best, rule="greater")}
    runner = toy_runner("epochs", options=options)
    runner.train()
    result = trained_result(runner)
    assert result.best["accuracy"] >= result.metrics["accuracy"]


def test_without_validation_and_checkpoint(toy_runner):
    options = dict(
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        default_hooks=dict(checkpoint=None),
    )
    runner = toy_runner("epochs", options=options)
    runner.train()
    result = trained_result(runner)
    assert result.metrics == {} and result.checkpoint is None
