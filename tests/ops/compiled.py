"""For tests of the compiled operator: where they are skipped."""

from importlib.util import find_spec

import pytest
import torch

from setformer_mm.ops.extension import why_not_to_load

# An extension that is not built, or does not load, is a failure and skips nothing.
needs_extension = pytest.mark.skipif(
    why_not_to_load() is not None, reason=str(why_not_to_load())
)

# Installing a wheel or without nvcc leaves them out; if they are there, they must load.
needs_cuda_kernels = pytest.mark.skipif(
    why_not_to_load() is not None
    or not torch.cuda.is_available()
    or find_spec("setformer_mm.ops._C_cuda") is None,
    reason="needs a GPU and the CUDA kernels: see python -m setformer_mm.ops",
)
