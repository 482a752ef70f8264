"""JSON that every reader takes."""

import json
import math


def json_text(value, indent: int | None = None) -> str:
    """Write a value as JSON, with a line's end.

    Args:
        value: anything; see :func:`plain` for what has no place in JSON.
        indent: of a level, in spaces; all on one line without it.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False) + "\n"


def plain(value):
    """A copy of Python's own numbers, texts, lists and dicts.

    Keys become text, NumPy's and torch's scalars and arrays numbers and lists. NaN and
    infinities, which JSON does not know and many readers refuse, become None. What is
    none of these becomes text: nothing may fail at the end of a long run.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
