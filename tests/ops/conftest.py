"""What several tests of the operator ask for."""

import pytest
import torch


@pytest.fixture
def poisoned_memory():
    """Fill what the kernels are given to write with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
