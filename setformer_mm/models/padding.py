"""What of a padded batch is picture, and what of feature maps belongs to it.

Host models pad the pictures of a batch to one size, below and to the right, with zeros
after normalisation. Valid shapes are int64 tensors ``(B, 2)``: rows and columns of each
picture, or of what convolutions have made of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.valid import has_values, inside, is_traced


def detect_valid_shape(images: Tensor) -> Tensor | None:
    """Find the size of each picture from the zeros below it and to its right.

    A row or column counts as padding if it and all after it are exactly 0 in every
    channel, so a picture that ends so by itself is taken for a smaller one. Nothing
    here waits for an accelerator.

    Args:
        images (Tensor): Of shape ``(B, channels, H, W)``.

    Returns:
        Tensor | None: The valid shape; None where looking is cheap, on the CPU, and
        shows that nothing is padded.
    """
    if not has_values(images) and not is_traced():
        return None  # there is nothing to look at
    is_cheap = images.device.type == "cpu" and not is_traced()
    edges = images[:, :, -1:], images[..., -1:]
    if is_cheap and all(edge.ne(0).flatten(1).any(1).all() for edge in edges):
        return None
    content = images.ne(0).any(1)
    return torch.stack([_end_of(content.any(2)), _end_of(content.any(1))], 1)


def _end_of(is_content: Tensor) -> Tensor:
    """One more than the last index of True in each row of ``(B, n)``, 0 if none is."""
    places = torch.arange(1, is_content.shape[1] + 1, device=is_content.device)
    return (is_content * places).amax(1)


def halved(valid_shape: Tensor | None) -> Tensor | None:
    """What a convolution of stride 2 makes of it: sides are rounded up."""
    return None if valid_shape is None else (valid_shape + 1) // 2


def valid_places(valid_shape: Tensor, sizes: Sequence[int]) -> Tensor:
    """Which places of maps of ``sizes`` ``(H, W)`` are valid, bool ``(B, H, W)``."""
    rows, cols = inside(valid_shape, sizes)
    return rows[:, :, None] & cols[:, None, :]


def zero_padding(x: Tensor, valid_shape: Tensor | None) -> Tensor:
    """Set what is padding to 0, whatever it is, as around a picture by itself.

    Args:
        x (Tensor): Of shape ``(B, H, W, C)``.
        valid_shape (Tensor | None): Of shape ``(B, 2)``; None if nothing is padding.

    Returns:
        Tensor: Of the same shape.
    """
    if valid_shape is None:
        return x
    return x.masked_fill(~valid_places(valid_shape, x.shape[1:3]).unsqueeze(-1), 0)


def mean_of_tokens(x: Tensor, valid_shape: Tensor | None) -> Tensor:
    """The mean over the valid tokens of ``(B, H, W, C)``, of shape ``(B, C)``."""
    count = x.shape[1] * x.shape[2]
    if valid_shape is not None:
        count = valid_shape.prod(1, keepdim=True).clamp_min(1)
    at_least_float = torch.promote_types(x.dtype, torch.float32)  # sums leave float16
    total = zero_padding(x, valid_shape).sum((1, 2), dtype=at_least_float)
    return (total / count).to(x.dtype)


def without_mean(x: Tensor, valid_shape: Tensor | None) -> Tensor:
    """Tokens ``(B, H, W, C)`` less the mean of the valid ones of their image."""
    # Rounded once: what tokens have in common may be long.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide - mean_of_tokens(wide, valid_shape)[:, None, None]).to(x.dtype)
