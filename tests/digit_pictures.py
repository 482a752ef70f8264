"""Pictures like those that the committed models were trained on, without their data."""

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits


def digit_picture(index: int, side: int = 64) -> np.ndarray:
    """A digit of scikit-learn's, white on grey, uint8 of shape ``(side, side, 3)``."""
    digit = load_digits().images[index] / 16
    grey = 60 + 180 * cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2)


def normalised_digits(count: int, model) -> tuple[torch.Tensor, torch.Tensor]:
    """The first digits of scikit-learn as a classifier takes them, and labels."""
    pictures = torch.stack([torch.tensor(digit_picture(i)) for i in range(count)])
    data = dict(inputs=pictures.permute(0, 3, 1, 2))
    inputs = model.data_preprocessor(data, False)["inputs"]
    return inputs, torch.tensor(load_digits().target[:count])


def scene(indices: tuple[int, ...] = (3, 6), side: int = 128) -> np.ndarray:
    """Digits in a row on grey, uint8 of shape ``(side, side, 3)``."""
    picture = np.full((side, side, 3), 60, np.uint8)
    for place, index in enumerate(indices):
        left = 8 + 60 * place
        picture[40:88, left : left + 48] = digit_picture(index, 48)
    return picture
