"""For tests of the compiled operator: where they are skipped."""

import os

import pytest

from setformer_mm.ops.extension import DISABLE_VARIABLE

# Nothing but the variable skips a test: an extension that is not built or does not load
# is a failure.
needs_extension = pytest.mark.skipif(
    os.environ.get(DISABLE_VARIABLE) == "1", reason=f"{DISABLE_VARIABLE}=1"
)
