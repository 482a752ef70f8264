"""What mmengine's table of libraries gets wrong about the maintained ones."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed


def find_mmseg_bases() -> None:
    """Let ``_base_ = "mmseg::..."`` find mmsegmentation under its module's name.

    mmengine looks for a distribution ``mmsegmentation``; the maintained one is called
    ``onedl-mmsegmentation``.
    """
    if not is_installed(MODULE2PACKAGE["mmseg"]) and is_installed("mmseg"):
        MODULE2PACKAGE["mmseg"] = "mmseg"
