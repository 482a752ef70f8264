"""Where a message goes to: mmengine's log if there is one, and else Python's."""

import logging
import sys


def print_log(message: str) -> None:
    """Log at level INFO.

    Models are used without mmengine, too; where it is in use, what they say stands in
    the log of the run.
    """
    mmengine_logging = sys.modules.get("mmengine.logging")
    if mmengine_logging is None:
        logging.getLogger("setformer_mm").info(message)
    else:
        mmengine_logging.print_log(message, logger="current")
