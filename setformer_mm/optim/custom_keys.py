"""How the rules of ``paramwise_cfg`` combine for one parameter.

A norm or a bias has its factor on the weight decay; over it go the entries of
``custom_keys`` whose key is part of the parameter's name, from short to long keys, each
with what it gives and nothing else. mmengine's own constructor takes the longest key
alone: an entry with ``lr_mult`` and no ``decay_mult`` gives everything that it matches
full weight decay, norms, biases, anchors and references included.
"""

from collections.abc import Iterator

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from torch import nn

NORM_LAYERS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def multipliers(
    name: str, owner: nn.Module, paramwise_cfg: dict
) -> tuple[float, float]:
    """Factors on learning rate and weight decay of one parameter.

    Args:
        name: full name of the parameter.
        owner: the module that it belongs to.
        paramwise_cfg: with ``norm_decay_mult``, ``bias_decay_mult``, ``custom_keys``.
    """
    options = dict(lr_mult=1.0, decay_mult=1.0)
    if isinstance(owner, NORM_LAYERS):
        options["decay_mult"] = paramwise_cfg.get("norm_decay_mult", 1.0)
    elif name.rpartition(".")[2] == "bias":
        options["decay_mult"] = paramwise_cfg.get("bias_decay_mult", 1.0)
    custom_keys = paramwise_cfg.get("custom_keys", {})
    for key in sorted(_matching(name, custom_keys), key=len):
        options |= custom_keys[key]
    return options["lr_mult"], options["decay_mult"]


def trainable_parameters(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Yield name, parameter and owning module, shared parameters once."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, modules[name.rpartition(".")[0]]


def cancelled_exemptions(model: nn.Module, optim_wrapper_cfg: dict) -> list[str]:
    """Find exemptions from weight decay that mmengine's own constructor drops.

    Args:
        model: whose parameters are trained.
        optim_wrapper_cfg: of the config.

    Returns:
        One sentence for each entry of ``custom_keys`` that cancels some.
    """
    paramwise_cfg = optim_wrapper_cfg.get("paramwise_cfg") or {}
    custom_keys = paramwise_cfg.get("custom_keys", {})
    kind = optim_wrapper_cfg.get("constructor", "DefaultOptimWrapperConstructor")
    constructor = (
        OPTIM_WRAPPER_CONSTRUCTORS.get(kind) if isinstance(kind, str) else kind
    )
    if constructor is not DefaultOptimWrapperConstructor:
        return []
    cancelled: dict[str, list[str]] = {}
    for name, _, owner in trainable_parameters(model):
        matching = _matching(name, custom_keys)
        if not matching:
            continue
        # As mmengine chooses among keys of one length.
        longest = min(matching, key=lambda key: (-len(key), key))
        decay_mult = custom_keys[longest].get("decay_mult", 1.0)
        if decay_mult > multipliers(name, owner, paramwise_cfg)[1]:
            cancelled.setdefault(longest, []).append(name)
    return [
        f"optim_wrapper.paramwise_cfg.custom_keys[{key!r}] has no decay_mult, and "
        f"mmengine's constructor then applies no other rule: {len(names)} parameters "
        f"that were exempt from weight decay get all of it, as {names[0]}; "
        "constructor='SeTformerLayerDecayConstructor' with layer_decay_rate=1.0 "
        "combines the rules"
        for key, names in cancelled.items()
    ]


def _matching(name: str, custom_keys: dict) -> list[str]:
    return [key for key in custom_keys if key in name]
