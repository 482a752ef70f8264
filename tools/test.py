"""Test any model: ``python tools/test.py CONFIG CHECKPOINT [--show-dir DIR] ...``."""

import argparse
import os.path as osp
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from setformer_mm.hooks import DataCheckHook
from setformer_mm.utils.checkpoints import (
    load_checkpoints_safely,
    read_checkpoint,
    require_fitting_weights,
)
from setformer_mm.utils.data_sources import require_known_classes
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.results import FILE_NAMES, describe_run, write_result
from toolkit.config_checks import require_parts
from toolkit.launch import (
    add_allow_missing,
    add_common_arguments,
    build_runner,
    form_explained,
    load_config,
    run_tool,
    use_gloo_on_cpu,
)
from toolkit.outputs import require_writable_file, require_writable_folder
from toolkit.preflight import require_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Test a model; its metrics are printed and go to "
        f"<work-dir>/{FILE_NAMES['test']}."
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="where to write predictions")
    parser.add_argument("--show-dir", help="where to draw predictions and ground truth")
    parser.add_argument("--show", action="store_true", help="draw them on the screen")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation, as in the config; metrics go to "
        f"<work-dir>/{FILE_NAMES['tta']}",
    )
    add_allow_missing(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out names a pickle file (*.pkl), got {args.out}")
    return args


def draw_predictions(cfg: Config, show_dir: str | None, show: bool) -> None:
    """Switch on the host library's own hook for pictures."""
    hook = cfg.default_hooks.setdefault("visualization", {})
    show_dir = show_dir and osp.abspath(show_dir)  # not below the folder of the logs
    scope = cfg.get("default_scope")
    if scope == "mmdet":
        hook.update(type="DetVisualizationHook", draw=True, test_out_dir=show_dir)
    elif scope == "mmseg":
        hook.update(type="SegVisualizationHook", draw=True)
        if show_dir:
            cfg.visualizer.save_dir = show_dir
    else:
        hook.update(type="VisualizationHook", enable=True, out_dir=show_dir)
        hook.setdefault("interval", 1)
        hook.setdefault("resize", 320)  # room for the text, however small the picture
    hook.show = show


def augment_test_time(cfg: Config) -> None:
    """Wrap the model and replace the pipeline as the config's ``tta_*`` fields say."""
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise UserError(
            "--tta needs the fields tta_model and tta_pipeline, which this config lacks"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


class DumpSegments(DumpResults):
    """Write label maps, without annotations and the far bigger maps of scores."""

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        data_samples = [
            {k: v for k, v in sample.items() if k not in ("seg_logits", "gt_sem_seg")}
            for sample in data_samples
        ]
        super().process(data_batch, data_samples)


def dump_predictions(runner: Runner, path: str) -> None:
    """Also write the predictions; instance masks are run-length encoded."""
    scope = runner.cfg.get("default_scope")
    dump = DumpSegments if scope == "mmseg" else DumpResults
    if scope == "mmdet":
        from mmdet.evaluation import DumpDetResults as dump
    runner.test_evaluator.metrics.append(dump(out_file_path=path))


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    require_parts(cfg, ("model", "test_dataloader", "test_cfg"))
    if args.out:
        require_writable_file(args.out, "--out")
    if args.show_dir:
        require_writable_folder(args.show_dir, "--show-dir")
    given_cfg = deepcopy(cfg)  # what follows changes it
    load_checkpoints_safely()
    with form_explained(cfg):
        if args.show or args.show_dir:
            draw_predictions(cfg, args.show_dir, args.show)
        if args.tta:
            augment_test_time(cfg)
        require_data(cfg, ("test",))
        require_known_classes(cfg, ("test",))
    read_checkpoint(args.checkpoint)
    use_gloo_on_cpu(cfg)

    cfg.load_from = args.checkpoint
    cfg.resume = False
    runner = build_runner(cfg, ("test",))
    runner.register_hook(DataCheckHook())
    require_fitting_weights(runner, args.checkpoint, args.allow_missing)
    if args.out:
        dump_predictions(runner, args.out)
    metrics = runner.test()
    if is_main_process():
        path = osp.join(cfg.work_dir, FILE_NAMES["tta" if args.tta else "test"])
        result = describe_run(
            given_cfg,
            kind="test",
            metrics=metrics,
            model=runner.model,
            checkpoint=args.checkpoint,
            seed=runner.seed,
            tta=args.tta,
        )
        write_result(path, result)
        print(f"Result written to {path}")


if __name__ == "__main__":
    run_tool(main)
