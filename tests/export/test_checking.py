"""What is not alike is refused, with the numbers."""

import pytest
import torch

from setformer_mm.export import Difference, NotAlikeError, compare, require_alike


def one(images):
    return images, 2 * images


def other(offset=0.0, shape=None, only=None):
    def run(images):
        if shape is not None:
            return images[:, :shape], 2 * images
        return images, 2 * images + offset

    return run


IMAGES = torch.tensor([1.0, -4.0]).view(1, 2, 1, 1)


def test_the_worst_output_for_its_scale_is_named():
    difference = compare(other(0.5), one, IMAGES)
    assert difference == Difference(0.5, 8.0)
    assert difference.share == 1 / 16
    assert require_alike(other(0.5), one, [IMAGES, IMAGES], 0.1) == [difference] * 2


def test_refusals():
    with pytest.raises(NotAlikeError, match=r"within 0.01 .* output 8, got 0.5 for"):
        require_alike(other(0.5), one, [IMAGES], 0.01)
    with pytest.raises(NotAlikeError, match="outputs must be finite"):
        require_alike(other(torch.nan), one, [IMAGES], 0.01)
    with pytest.raises(NotAlikeError, match="outputs must be finite"):
        require_alike(one, other(torch.nan), [IMAGES], 0.01)
    with pytest.raises(NotAlikeError, match="within nan"):
        require_alike(one, one, [IMAGES], torch.nan)
    with pytest.raises(NotAlikeError, match=r"of the shapes \[\(1, 2, 1, 1\), "):
        require_alike(other(shape=1), one, [IMAGES], 0.01)

    def broken(images):
        raise RuntimeError("no\nkernel")

    with pytest.raises(NotAlikeError, match=r"fails for .*\(1, 2, 1, 1\): no kernel"):
        require_alike(broken, one, [IMAGES], 0.01)
