import torch
from torch.nn import functional as F

from setformer_mm.models.gelu import GELU


def test_input_is_overwritten_where_no_gradient_is_wanted(seed):
    torch.manual_seed(seed)
    x = torch.randn(3, 5)
    expected = F.gelu(x)
    with torch.no_grad():
        out = GELU()(x)
    assert torch.equal(out, expected)
    assert out.data_ptr() == x.data_ptr()


def test_input_is_kept_for_the_gradient(seed):
    torch.manual_seed(seed)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    assert torch.autograd.gradcheck(GELU(), x)
    assert torch.equal(GELU()(x), F.gelu(x))
    assert torch.equal(x, before)
