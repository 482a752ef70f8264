"""Linear layers over channels that are fast on the CPU, too."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_modules

# Tokens for each channel of the wider side from which on a convolution is faster, in
# inference and where there is a backward pass.
_MIN_TOKENS_A_CHANNEL, _MIN_TOKENS_A_CHANNEL_WITH_GRAD = 2, 16
# Where MKL is slow, with or without gradients.
_MIN_MULTIPLY_ADDS, _MIN_TOKENS = 8_000_000, 100
# Of these types; oneDNN has bfloat16 where there is AVX-512.
_TYPES = {torch.float32} | (
    {torch.bfloat16} if torch.backends.cpu.get_cpu_capability() == "AVX512" else set()
)


def _has_slow_mkl() -> bool:
    """Whether this is a processor of AMD, and torch multiplies matrices by MKL.

    MKL is Intel's, and its float32 products take twice as long there as oneDNN's.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in processor


_HAS_SLOW_MKL = _has_slow_mkl()


def pointwise_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, sooner.

    For many tokens ``(B, H, W, C)`` of few channels on the CPU an ``nn.Linear`` runs as
    a convolution of one pixel, in up to half the time: torch fetches a copy of the bias
    for every token before a matrix product, and none before a convolution. On AMD's
    processors float32 convolutions by oneDNN also take half as long as products by MKL,
    and all but small layers run so. With one thread and fewer than 16 images torch does
    not choose oneDNN, and nothing is gained.

    This is a function and no subclass of ``nn.Linear`` because tools that replace
    layers, as quantisers do, look for that very type. What they put in its place is
    called as it is.

    Args:
        layer (nn.Module): ``nn.Linear``, or whatever stands in its place.
        x (Tensor): Of shape ``(..., in_features)``.

    Returns:
        Tensor: Of shape ``(..., out_features)``.
    """
    if not _is_faster_as_convolution(layer, x):
        return layer(x)
    pixels = x.permute(0, 3, 1, 2)  # in the memory format channels_last
    out = F.conv2d(pixels, layer.weight[:, :, None, None], layer.bias)
    return out.permute(0, 2, 3, 1)


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is exactly of this kind, and calling it does nothing but compute.

    More do hooks, and a ``forward`` that was set on it, as Hugging Face's accelerate
    does.
    """
    return (
        type(layer) is kind
        and "forward" not in vars(layer)
        # torch has no public way to ask for hooks.
        and not (
            layer._forward_pre_hooks
            or layer._forward_hooks
            or layer._backward_pre_hooks
            or layer._backward_hooks
            or torch_modules._global_forward_pre_hooks
            or torch_modules._global_forward_hooks
            or torch_modules._global_backward_pre_hooks
            or torch_modules._global_backward_hooks
        )
    )


def _is_faster_as_convolution(layer: nn.Module, x: Tensor) -> bool:
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in _TYPES:
        return False
    if not is_plain(layer, nn.Linear) or torch.onnx.is_in_onnx_export():
        return False
    # Tensors made of others, as quantised weights are, and sparse ones know little but
    # F.linear.
    weight = layer.weight
    if hasattr(type(weight), "__tensor_flatten__") or weight.layout != torch.strided:
        return False
    has_backward = torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        # One graph is for any number of tokens, and inductor cannot order the
        # strides of a convolution's gradients where sizes are open.
        return not has_backward
    tokens = x.shape[:3].numel()
    # Under autocast the product is not in float32, whatever the tokens are.
    is_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _HAS_SLOW_MKL and is_float32:
        multiply_adds = tokens * layer.in_features * layer.out_features
        return tokens >= _MIN_TOKENS and multiply_adds >= _MIN_MULTIPLY_ADDS
    least = _MIN_TOKENS_A_CHANNEL_WITH_GRAD if has_backward else _MIN_TOKENS_A_CHANNEL
    return tokens >= least * max(layer.in_features, layer.out_features)
