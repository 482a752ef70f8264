"""What the host libraries say that looks like a failure and is none.

The tools drop it, or say it in words that tell what it means. The package itself never
does: whoever uses the libraries without the tools reads every word of theirs.
"""

import logging
import re
import warnings

from mmengine import logging as mmengine_logging
from mmengine.logging import logger as mmengine_logger

# Beginnings of Python warnings about what no config here uses, or uses on purpose.
WARNINGS = (
    "Default ``avg_non_ignore`` is False",  # the recipe of UperNet
    "The draw is False, it means that the hook for visualization",  # until --show-dir
    "faster_coco_eval is not installed",  # for a metric beside the usual one
    "Warning: The bbox is out of bounds",  # of a thing at the picture's edge
    "Warning: The polygon is out of bounds",
)
# Beginnings of lines in the log.
LINES = (
    '"FileClient" will be deprecated',  # mmengine about its own hook
    '"HardDiskBackend" is the alias',
    "The prefix is not set in metric class",  # names of metrics are unique without
    "paramwise_options -- ",  # launch.py logs a table instead
)
# mmengine's inferencers look for a function in the libraries, which register none.
NO_FUNCTIONS = re.compile(
    r'Failed to search registry with scope ".+" in the "function"'
)
# A classifier has one norm behind its last stage, a dense model one behind each.
NEW_NORMS = re.compile(
    r"The model and loaded state dict do not match exactly\n\n"
    r"missing keys in source state_dict: (norm\d\.(weight|bias)(, )?)+\n"
)


def quieten_host_libraries() -> None:
    """Drop :data:`WARNINGS` and what is printed for developers, in this process."""
    for beginning in WARNINGS:
        warnings.filterwarnings("ignore", re.escape(beginning))
    for module in (mmengine_logging, mmengine_logger):
        module.print_log = _print_log


_their_print_log = mmengine_logger.print_log


def _print_log(msg: str, logger=None, level: int = logging.INFO) -> None:
    """Stand in for mmengine's, which prints what has no logger, whatever its level.

    So mmdet says at the level DEBUG that it could not import a company's library.
    :data:`NO_FUNCTIONS` is dropped.
    """
    is_told = logger is not None or level >= logging.INFO
    if is_told and not NO_FUNCTIONS.match(str(msg)):
        _their_print_log(msg, logger, level)


class HostMessages(logging.Filter):
    """For the log of a run: drops :data:`LINES`, explains :data:`NEW_NORMS`."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)
        if message.startswith(LINES):
            return False
        if NEW_NORMS.fullmatch(message):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg = (
                "The norms behind the stages start anew, as they should: the "
                "checkpoint is a classifier's, which has none there"
            )
        return True
