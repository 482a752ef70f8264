"""Flags that tools share.

Like a tool's own flags they import nothing that takes time: a tool reads its flags
first, so that ``--help`` and a mistake in a flag are answered at once.
"""

import argparse


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument(
        "--work-dir", help="where to write logs and results (work_dirs/<config name>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, e.g. train_cfg.max_epochs=12",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how several processes were started; torchrun is 'pytorch'",
    )
    # torchrun sets LOCAL_RANK; older launchers pass it in one of two spellings.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)


def add_allow_missing(parser: argparse.ArgumentParser) -> None:
    """Add the flag of tools that load a checkpoint into the model of a config."""
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="go on if the checkpoint lacks weights of the model, which stay random",
    )


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that benchmarks of times and memory share."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short run: fewer rounds, less to compare",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--threads",
        type=positive_integer,
        help="CPU threads (default: as many as torch takes)",
    )
    parser.add_argument(
        "--rounds", type=positive_integer, help="turns of each contender"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="measure times and no memory"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")


def positive_integer(text: str) -> int:
    """Read how many there are of what there has to be."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return int(text)


class ConfigOptions(argparse.Action):
    """mmengine's ``DictAction``, imported when there is something for it to read."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from mmengine.config import DictAction

        theirs = DictAction(self.option_strings, self.dest, self.nargs)
        try:
            theirs(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):  # it cannot read a dict
            parser.error(
                f"{option_string} takes KEY=VALUE with numbers, texts, lists and "
                f"tuples, one key for each field of a dict, got {' '.join(values)}"
            )
