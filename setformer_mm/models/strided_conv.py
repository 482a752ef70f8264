"""The convolution that halves a grid, right for narrow ones in bfloat16, too."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.valid import is_traced

# From this width on, results have two columns.
_MIN_WIDTH = 3


class StridedConv2d(nn.Conv2d):
    """``nn.Conv2d`` of 3x3 and stride 2, padded by 1, with its parameters.

    Where results are one column of seven or more, oneDNN (seen with torch 2.11 and
    AVX-512) computes in bfloat16 some of them wrongly and leaves others unwritten.
    Zeros on the right, where a picture is padded with zeros anyway, give it more
    columns. A graph, which may be for open sizes, is left as it is.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the result.
        bias (bool): Whether there is a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(B, in_channels, H, W)`` to half the sides, rounded up."""
        if x.device.type != "cpu" or is_traced() or x.shape[-1] >= _MIN_WIDTH:
            return super().forward(x)
        return super().forward(F.pad(x, (0, _MIN_WIDTH - x.shape[-1])))[..., :1]
