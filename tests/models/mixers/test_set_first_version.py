"""The first version of SeT attention, against the method written out token by token."""

import numpy as np
import pytest
import torch
from ops import naive

from setformer_mm.models import SeTAttention
from setformer_mm.models.mixers.set_first_version import FirstSeTAttention

from .dense import GRID


@pytest.mark.parametrize("tau", [0.15, None])
def test_by_the_whole_matrix(tau):
    mixer = FirstSeTAttention(12, 3, reference_shape=(2, 3), tau=tau).double()
    tokens = torch.randn(2, 30, 3, 4).double()
    with torch.no_grad():
        out = mixer.attend(tokens, mixer.folded(), GRID)
    for image, head in np.ndindex(2, 3):
        parameters = (mixer.anchors[head], mixer.references[head])
        x, anchors, references = (
            t.detach().numpy() for t in (tokens[image, :, head], *parameters)
        )
        dense = naive.attend(
            x,
            anchors,
            references,
            spatial_shape=GRID,
            reference_shape=(2, 3),
            epsilon=0.1,
            num_iters=3,
            tau=tau,
        )
        whitening = naive.inverse_square_root(anchors, 2.0)
        kernel = np.array([[naive.kernel(z, v, 2.0) for z in anchors] for v in x])
        values = np.linalg.norm(x, axis=1)[:, None] * (kernel @ whitening)
        expected = dense.mixing @ values
        np.testing.assert_allclose(out[image, :, head], expected, atol=1e-8)


def test_values_are_all_that_the_fields_do_not_say():
    """With the second version's values it would be that one with other fields."""
    first = FirstSeTAttention(12, 3).double()
    second = SeTAttention(
        12,
        3,
        return_references=False,
        epsilon=0.1,
        num_iters=3,
        tau=0.15,
        centred=False,
    ).double()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, *GRID, 12).double()
    tokens = first.in_proj(x).view(2, 30, 3, 4)
    folded = first.folded()
    centre = np.exp(-first.alpha) * folded.value_map.sum(-2)  # of each head
    lengths = tokens.norm(dim=-1, keepdim=True)
    difference = first.attend(tokens, folded, GRID) - second.attend(
        tokens, folded, GRID, None
    )
    # Rows of the mixing matrix sum to 1: a constant |x| would come through as it is.
    mean = (difference / centre).mean(-1, keepdim=True)
    torch.testing.assert_close(difference, mean * centre)
    assert (mean <= lengths.amax(1, keepdim=True)).all()
    assert (mean >= lengths.amin(1, keepdim=True)).all()
