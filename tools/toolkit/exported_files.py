"""Files of exported models: whole or not there, and over nobody else's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from setformer_mm.export import Format
from setformer_mm.utils.errors import UserError

from .outputs import require_writable_file


def require_writable_export(out: Path, kind: Format, what: str) -> None:
    """Check that an export can be written under a name.

    Args:
        out: what the engine opens.
        kind: the format.
        what: the flag that names it, for the message.

    Raises:
        UserError: if the name is none of the format's, a folder is in the way, there is
            no permission, or a file that goes with it is somebody else's.
    """
    if not out.name.endswith(kind.suffix) or out.name == kind.suffix:
        raise UserError(
            f"{what} names a file NAME{kind.suffix} for {kind.title}, got {out}"
        )
    require_writable_file(out, what)
    for suffix in kind.companions:
        companion = out.with_suffix(suffix)
        require_writable_file(companion, what)
        if companion.exists() and not out.exists():
            raise UserError(
                f"{what} {out} would overwrite {companion}, which is of no export: "
                f"there is no {out.name} beside it; name another file"
            )


@contextmanager
def in_another_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, which is gone in the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield Path(folder) / out.name


def put_in_place(written: Path, out: Path, kind: Format) -> int:
    """Give files their names, what the engine opens last.

    Returns:
        Bytes of all of them.
    """
    size = 0
    for suffix in (*kind.companions, None):
        path, target = (
            p if suffix is None else p.with_suffix(suffix) for p in (written, out)
        )
        size += path.stat().st_size
        path.replace(target)
    return size
