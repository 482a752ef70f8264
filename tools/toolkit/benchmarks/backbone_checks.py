"""No speed of a backbone is shown unless it computes what it should."""

import sys
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from .backbones import (
    NUM_CLASSES,
    Entry,
    Setting,
    backpropagate,
    build,
    infer,
    make_images,
)
from .measuring import use_backend

STRIDES = (4, 8, 16, 32)
# What two ways to run a model may differ by, relative to the norm.
TOLERANCE, TOLERANCE_BF16 = 1e-4, 5e-2
# Parameters whose gradients come through the operator and no way around it.
BEHIND_OPERATOR = ("in_proj.weight", "anchors", "references", "return_references")


class Refusal(Exception):
    """A model does not run at the size asked for."""


def gate(entry: Entry, setting: Setting) -> Entry:
    """Check a model at a size.

    Returns:
        Entry: The same one, told the size if it has to be.

    Raises:
        Refusal: If the model does not run at this size.
        SystemExit: If it does and computes something wrong.
    """
    images = make_images(setting)
    reasons = []
    for tell_size in (False,) if entry.backend else (False, True):
        candidate = replace(entry, tell_size=tell_size)
        try:
            model = build(replace(candidate, compiled=False), setting).eval()
            outputs = infer(model, images, setting)
        except Exception as error:  # of any type: models have rules of their own
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        check_outputs(candidate, outputs, setting)
        if entry.backend not in ("", "reference"):
            check_backend(candidate, model, images, setting)
        return candidate
    raise Refusal("; told the size: ".join(dict.fromkeys(reasons)))


def check_outputs(entry: Entry, outputs: list[Tensor], setting: Setting) -> None:
    """End the script unless outputs are finite and of the right shape."""
    if setting.dense:
        # Some pyramids begin with a map of stride 2. Channels come first or last.
        expected = [
            (-(-setting.height // stride), -(-setting.width // stride))
            for stride in STRIDES
        ]
        right = len(outputs) >= len(STRIDES) and all(
            size in (out.shape[1:3], out.shape[2:4])
            for size, out in zip(expected, outputs[-len(STRIDES) :])
        )
    else:
        expected = [(setting.batch, NUM_CLASSES)]
        right = [out.shape for out in outputs] == expected
    if not right:
        shapes = [tuple(out.shape) for out in outputs]
        refuse(entry, setting, f"its outputs are {shapes}, not {expected}")
    if not all(out.isfinite().all() for out in outputs):
        refuse(entry, setting, "its outputs are not finite")


def check_backend(
    entry: Entry, model: nn.Module, images: Tensor, setting: Setting
) -> None:
    """End the script unless a backend agrees with the reference on this very model.

    In bfloat16 both have rounding errors that many blocks amplify: the backend may be
    half as far again from float32 as the reference is.
    """
    exact = outputs_and_gradients(
        model, images, replace(setting, bf16=False), "reference"
    )
    limits = dict.fromkeys(exact, TOLERANCE)
    if setting.bf16:
        rounded = outputs_and_gradients(model, images, setting, "reference")
        for what, expected in exact.items():
            error = relative_error(rounded[what], expected)
            limits[what] = max(TOLERANCE_BF16, 1.5 * error)
    actual = outputs_and_gradients(model, images, setting, entry.backend)
    for what, expected in exact.items():
        require_close(entry, setting, what, actual[what], expected, limits[what])


def outputs_and_gradients(
    model: nn.Module, images: Tensor, setting: Setting, backend: str
) -> dict[str, list[Tensor]]:
    """What a backend gives, under the names of what it is."""
    use_backend(model, backend)
    outputs = infer(model, images, setting)
    model.zero_grad()
    backpropagate(model, images, setting)
    gradients = {
        f"gradients of {kind}": [
            parameter.grad
            for name, parameter in model.named_parameters()
            if name.endswith(kind)
        ]
        for kind in BEHIND_OPERATOR
    }
    return dict(outputs=outputs, **gradients)


def relative_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    """How far all of them are from what is expected, relative to its norm."""
    actual, expected = (
        torch.cat([t.flatten().double() for t in tensors])
        for tensors in (actual, expected)
    )
    return ((actual - expected).norm() / expected.norm()).item()


def require_close(
    entry: Entry,
    setting: Setting,
    what: str,
    actual: list[Tensor],
    expected: list[Tensor],
    limit: float,
) -> None:
    """End the script unless two ways to run the same model give the same."""
    error = relative_error(actual, expected)
    if not error <= limit:
        why = f"its {what} differ by {error:.2g} of their norm from what they should be"
        refuse(entry, setting, why)


def refuse(entry: Entry, setting: Setting, why: str) -> NoReturn:
    """End the script without any speed."""
    sys.exit(f"error: {entry.name} is wrong at {setting}: {why}; no speed is shown")
