"""For tests of the compiled operator: where they are skipped."""

import pytest

from setformer_mm.ops.extension import why_not_to_load

# An extension that is not built, or does not load, is a failure and skips nothing.
needs_extension = pytest.mark.skipif(
    why_not_to_load() is not None, reason=str(why_not_to_load())
)
