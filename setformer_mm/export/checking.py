"""Whether an exported model computes what the model does."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Run = Callable[[Tensor], tuple[Tensor, ...]]


class NotAlikeError(ValueError):
    """What an engine computes is too far from what PyTorch does."""


class Difference(NamedTuple):
    """How far two computations of the same are apart.

    Attributes:
        largest (float): The largest difference of two numbers.
        scale (float): The largest number of the output in which that is.
    """

    largest: float
    scale: float

    @property
    def share(self) -> float:
        """Of the scale."""
        return self.largest / max(self.scale, 1e-30)


def compare(run: Run, expected: Run, images: Tensor) -> Difference:
    """Run both on the same pictures.

    Args:
        run (Run): What is checked.
        expected (Run): What it should do.
        images (Tensor): Normalised pictures ``(B, C, H, W)``.

    Returns:
        Difference: Of the output that is furthest off for its scale.

    Raises:
        NotAlikeError: If there are other outputs, or other shapes, or NaN in either.
    """
    with torch.no_grad():
        outs, wanted = run(images), expected(images)
    shapes = [tuple(t.shape) for t in outs], [tuple(t.shape) for t in wanted]
    if shapes[0] != shapes[1]:
        raise NotAlikeError(
            f"outputs must be of the shapes {shapes[1]}, got {shapes[0]} for pictures "
            f"{tuple(images.shape)}"
        )
    differences = [
        Difference((a - b).abs().max().item(), b.abs().max().item())
        for a, b in zip(outs, wanted)
    ]
    if not all(t.isfinite().all() for t in (*outs, *wanted)):
        raise NotAlikeError(
            f"outputs must be finite for pictures {tuple(images.shape)}"
        )
    return max(differences, key=lambda d: d.share)


def require_alike(
    run: Run, expected: Run, pictures: Sequence[Tensor], tolerance: float
) -> list[Difference]:
    """Check an engine on pictures of several sizes.

    Args:
        run (Run): What is checked.
        expected (Run): What it should do.
        pictures (Sequence[Tensor]): Batches of normalised pictures.
        tolerance (float): How large the largest difference may be, as a share of the
            largest number of its output.

    Returns:
        list[Difference]: One for each of the batches.

    Raises:
        NotAlikeError: If an engine fails at a size, or is further off than that.
    """
    differences = []
    for images in pictures:
        try:
            difference = compare(run, expected, images)
        except NotAlikeError:
            raise
        except Exception as error:  # of any type: engines have their own
            reason = " ".join(str(error).split())
            raise NotAlikeError(
                f"the engine fails for pictures {tuple(images.shape)}: {reason[:300]}"
            ) from error
        if not difference.share <= tolerance:
            raise NotAlikeError(
                f"the largest difference must be within {tolerance:g} of the largest "
                f"output {difference.scale:.3g}, got {difference.largest:.3g} for "
                f"pictures {tuple(images.shape)}"
            )
        differences.append(difference)
    return differences
