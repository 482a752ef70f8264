"""The committed models say the same everywhere: with any torch, and beside OpenMMLab's
own releases, too (`make test-upstream`).
"""

import numpy as np
import pytest

pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from committed_models import FILE, predict
from mmengine.registry import DefaultScope

# Rounding alone: the compiled operator and the reference, other torch.
TOLERANCES = dict(scores=1e-4, logits=1e-3, bboxes=0.01, labels=0, mask_areas=1)


@pytest.fixture(autouse=True)
def default_scope():
    """Inferencers set one for the whole process, as other tests do."""
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize(
    "name",
    ["setformer_digits", "mask_rcnn_setformer_digits", "upernet_setformer_digits"],
)
def test_predictions_are_those_written_down(name):
    with np.load(FILE) as file:
        known = {k.split("/")[1]: file[k] for k in file if k.startswith(f"{name}/")}
    found = predict(name, known.pop("pictures"))
    assert found.keys() == known.keys()
    for field, expected in known.items():
        difference = np.abs(found[field] - expected).max()
        print(f"{name}: {field} differ by {difference:.2g}")
        np.testing.assert_allclose(
            found[field], expected, rtol=0, atol=TOLERANCES[field], err_msg=field
        )
