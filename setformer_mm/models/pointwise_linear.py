"""A linear layer over channels that is fast on the CPU, too."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Tokens for each channel of the wider side from which on a convolution is faster, in
# inference and where there is a backward pass.
_MIN_TOKENS_A_CHANNEL, _MIN_TOKENS_A_CHANNEL_WITH_GRAD = 2, 16
# Of these types; oneDNN has bfloat16 where there is AVX-512.
_TYPES = {torch.float32} | (
    {torch.bfloat16} if torch.backends.cpu.get_cpu_capability() == "AVX512" else set()
)


class PointwiseLinear(nn.Linear):
    """``nn.Linear``, with its parameters.

    For many tokens ``(B, H, W, C)`` of few channels on the CPU it runs as a convolution
    of one pixel, in up to half the time: torch fetches a copy of the bias for every
    token before a matrix product, and none before a convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_faster_as_convolution(x):
            return super().forward(x)
        pixels = x.permute(0, 3, 1, 2)  # in the memory format channels_last
        out = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1)

    def _is_faster_as_convolution(self, x: Tensor) -> bool:
        if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in _TYPES:
            return False
        has_backward = torch.is_grad_enabled()
        if torch.compiler.is_compiling():
            # One graph is for any number of tokens, and inductor cannot order the
            # strides of a convolution's gradients where sizes are open.
            return not has_backward
        least = (
            _MIN_TOKENS_A_CHANNEL_WITH_GRAD if has_backward else _MIN_TOKENS_A_CHANNEL
        )
        tokens = x.shape[:3].numel()
        return tokens >= least * max(self.in_features, self.out_features)
