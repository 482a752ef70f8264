"""What the package can do without."""

from importlib.util import find_spec


def is_installed(name: str) -> bool:
    """Look for a package without importing it: its own import errors must surface."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
