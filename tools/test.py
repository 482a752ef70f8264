"""Test any model: ``python tools/test.py CONFIG CHECKPOINT [--show-dir DIR] ...``."""

import argparse
import os.path as osp
import pickle
from copy import deepcopy
from pathlib import Path

from toolkit.flags import add_allow_missing, add_common_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Test a model; its metrics are printed and go to "
        "<work-dir>/test_result.json."
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="where to write predictions")
    parser.add_argument(
        "--show-dir",
        metavar="DIR",
        help="where to draw predictions and ground truth, under the paths of pictures",
    )
    parser.add_argument("--show", action="store_true", help="draw them on the screen")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation, as in the config; metrics go to "
        "<work-dir>/tta_result.json",
    )
    add_allow_missing(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out names a pickle file (*.pkl), got {args.out}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

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
from setformer_mm.utils.data_sources import require_known_classes, unwrapped
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.results import FILE_NAMES, describe_run, write_result
from toolkit.config_checks import require_fitting_class_counts, require_parts
from toolkit.drawings import draw_into, draw_predictions
from toolkit.launch import (
    build_runner,
    form_explained,
    load_config,
    run_tool,
    use_gloo_on_cpu,
)
from toolkit.outputs import (
    require_sources_kept,
    require_writable_file,
    require_writable_folder,
)
from toolkit.preflight import data_files, require_data


def augment_test_time(cfg: Config) -> None:
    """Wrap the model and replace the pipeline as the config's ``tta_*`` fields say."""
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise UserError(
            "--tta needs the fields tta_model and tta_pipeline, which this config lacks"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = unwrapped(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.tta_pipeline


class DumpSegments(DumpResults):
    """Keep label maps, without annotations and the far bigger maps of scores."""

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        data_samples = [
            {k: v for k, v in sample.items() if k not in ("seg_logits", "gt_sem_seg")}
            for sample in data_samples
        ]
        super().process(data_batch, data_samples)


def dump_predictions(runner: Runner, path: str) -> None:
    """Also write the predictions; instance masks are run-length encoded."""
    scope = runner.cfg.get("default_scope")
    kind = DumpSegments if scope == "mmseg" else DumpResults
    if scope == "mmdet":
        from mmdet.evaluation import DumpDetResults as kind

    class Dump(kind):
        """Write as other files here are written, so that an old one is never lost."""

        def compute_metrics(self, results: list[dict]) -> dict:
            if "://" in path:  # one of mmengine's backends knows how
                return super().compute_metrics(results)
            write_atomically(path, pickle.dumps(results))
            print(f"Predictions written to {path}")
            return {}

    # The first, for a metric may fail.
    runner.test_evaluator.metrics.insert(0, Dump(out_file_path=path))


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    require_parts(cfg, ("model", "test_dataloader", "test_cfg"))
    if args.out and "://" not in args.out:
        require_writable_file(args.out, "--out")
    if args.show_dir:
        require_writable_folder(args.show_dir, "--show-dir")
    given_cfg = deepcopy(cfg)  # what follows changes it
    load_checkpoints_safely()
    with form_explained(cfg):
        if args.show or args.show_dir:
            draw_predictions(cfg, args.show, augmented=args.tta)
        if args.tta:
            augment_test_time(cfg)
        require_data(cfg, ("test",), has_options=True)
        if args.out:
            read = [args.config, args.checkpoint, *data_files(cfg, "test")]
            require_sources_kept(read, [args.out])
        require_known_classes(cfg, ("test",))
        require_fitting_class_counts(cfg, ("test",))
    checkpoint = read_checkpoint(args.checkpoint)
    use_gloo_on_cpu(cfg)

    cfg.load_from = args.checkpoint
    cfg.resume = False
    runner = build_runner(cfg, ("test",))
    runner.register_hook(DataCheckHook())
    require_fitting_weights(runner, args.checkpoint, args.allow_missing, checkpoint)
    del checkpoint  # mmengine reads it again
    if args.show_dir:
        draw_into(runner, Path(args.show_dir))
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
        if args.show_dir:
            print(f"Pictures drawn in {args.show_dir}")


if __name__ == "__main__":
    run_tool(main)
