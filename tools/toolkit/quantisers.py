"""INT8 in PyTorch: torch.ao, which comes with torch, and torchao."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.ao.nn.quantized import dynamic

from setformer_mm.utils.errors import UserError

# A method of tensors that are made of others, as torchao's are of INT8 and scales.
WRAPPER = "__tensor_flatten__"


def torch_ao_dynamic(model: nn.Module) -> nn.Module:
    """A copy with INT8 weights, whose layers make INT8 of their inputs as they come."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def torchao_weight_only(model: nn.Module) -> nn.Module:
    """A copy with INT8 weights, which layers turn into floats."""
    return _quantised_by_torchao(model, "Int8WeightOnlyConfig")


def torchao_dynamic(model: nn.Module) -> nn.Module:
    """A copy as :func:`torch_ao_dynamic` makes, with one scale a channel and token."""
    return _quantised_by_torchao(model, "Int8DynamicActivationInt8WeightConfig")


QUANTISERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.ao, dynamic": torch_ao_dynamic,
    "torchao, weights only": torchao_weight_only,
    "torchao, dynamic": torchao_dynamic,
}


def count_layers(model: nn.Module) -> tuple[int, int]:
    """How many linear layers are quantised, and how many there are."""
    quantised = [
        isinstance(layer, dynamic.Linear) or hasattr(type(layer.weight), WRAPPER)
        for layer in model.modules()
        if isinstance(layer, nn.Linear | dynamic.Linear)
    ]
    return sum(quantised), len(quantised)


def _quantised_by_torchao(model: nn.Module, config: str) -> nn.Module:
    try:
        from torchao import quantization
    except ImportError as error:
        raise UserError("there is no torchao here: pip install torchao") from error
    model = copy.deepcopy(model)
    quantization.quantize_(model, getattr(quantization, config)())
    return model
