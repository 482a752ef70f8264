"""A model to look into, and the page's application around it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.utils import manager
from PIL import Image

from toolkit.explore.models import load_explorable

FOLDER = Path(__file__).resolve().parents[3] / "configs/digits"
NAMES = ("mask_rcnn_setformer_digits", "upernet_setformer_digits", "setformer_digits")


@pytest.fixture(autouse=True)
def free_lock():
    """mmengine keeps a lock of the process where ``get_current_instance`` raises, as it
    does in other tests; the server's threads would wait for it for ever.
    """
    while manager._lock._is_owned():
        manager._lock.release()


@pytest.fixture(scope="session")
def models():
    """The committed models by their library, without samples of data that may be here.

    Read once: no test changes them.
    """
    found = {}
    for name in NAMES:
        files = FOLDER / f"{name}.py", FOLDER / f"checkpoints/{name}.pth"
        model = load_explorable(*map(str, files), device="cpu", score_thr=0.0)
        found[model.scope] = replace(model, samples=[])
    return found


@pytest.fixture
def picture() -> np.ndarray:
    """RGB of noise, wider than high: the pipelines of the scenes make it 77 x 128."""
    return np.random.randint(1, 256, (90, 150, 3), np.uint8)


@pytest.fixture
def png(picture) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
