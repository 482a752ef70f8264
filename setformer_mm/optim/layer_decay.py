"""Layer-wise learning rate decay, the same for all three tasks."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..models import SeTformer
from .custom_keys import multipliers, trainable_parameters

PARAMWISE_KEYS = {
    "layer_decay_rate",
    "norm_decay_mult",
    "bias_decay_mult",
    "custom_keys",
}
CUSTOM_KEYS = {"lr_mult", "decay_mult"}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SeTformerLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Give early layers of a SeTformer backbone a smaller learning rate.

    Layer ``l`` of ``n`` (:meth:`SeTformer.get_layer_depth`) learns at
    ``lr * layer_decay_rate ** (n - 1 - l)``, so that the stem gets the smallest rate
    and the output norms and everything outside the backbone (necks, heads) get ``lr``.
    The backbone is found wherever it sits in the model, distributed wrappers included.

    Parameters with the same learning rate and weight decay share one parameter group;
    groups are sorted by falling learning rate, so that the rate mmengine logs, the
    first one, is that of the heads. Each group keeps its scale as ``lr_scale``.

    Args:
        optim_wrapper_cfg (dict): Config of the optimiser wrapper; its ``optimizer``
            must hold ``lr``.
        paramwise_cfg (dict): With the keys

            - ``layer_decay_rate`` (float): Required, in (0, 1]; 1 switches the decay
              off.
            - ``norm_decay_mult`` (float): Factor on the weight decay of norm layers.
            - ``bias_decay_mult`` (float): Factor on the weight decay of the other
              biases.
            - ``custom_keys`` (dict[str, dict]): ``lr_mult`` and ``decay_mult`` for the
              parameters whose name contains the key. What an entry gives overrides
              the two factors above and the entries of shorter keys; what it leaves
              out stays as they say. ``lr_mult`` multiplies the layer-wise scale.

    Raises:
        ValueError: If a key is missing, unknown or out of its range, or if the model
            has no SeTformer backbone.

    Examples:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
        ...     constructor="SeTformerLayerDecayConstructor",
        ...     paramwise_cfg=dict(
        ...         layer_decay_rate=0.9,
        ...         norm_decay_mult=0.0,
        ...         bias_decay_mult=0.0,
        ...         custom_keys={
        ...             "anchors": dict(decay_mult=0.0),
        ...             "references": dict(decay_mult=0.0),  # both sets
        ...         },
        ...     ),
        ... )
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        if self.base_lr is None:
            raise ValueError(
                "optimizer must hold lr for layer-wise decay, "
                f"got {dict(self.optimizer_cfg)}"
            )
        _check_keys("paramwise_cfg", self.paramwise_cfg, PARAMWISE_KEYS)
        for key, options in self.paramwise_cfg.get("custom_keys", {}).items():
            _check_keys(f"custom_keys[{key!r}]", options, CUSTOM_KEYS)
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"layer_decay_rate must be in (0, 1], got {rate}")

    def add_params(self, params: list[dict], module: nn.Module) -> None:
        """Append the parameter groups of a whole model.

        Args:
            params (list[dict]): Groups for the optimiser, extended in place.
            module (nn.Module): The model; frozen parameters are left out.
        """
        prefixes = {
            f"{name}." if name else "": child
            for name, child in module.named_modules()
            if isinstance(child, SeTformer)
        }
        if not prefixes:
            raise ValueError(
                "the model must have a SeTformer backbone for layer-wise decay, "
                f"got {type(module).__name__} without one"
            )
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter, owner in trainable_parameters(module):
            lr_mult, decay_mult = multipliers(name, owner, self.paramwise_cfg)
            for prefix, backbone in prefixes.items():
                if name.startswith(prefix):
                    layer, num_layers = backbone.get_layer_depth(name, prefix)
                    rate = self.paramwise_cfg["layer_decay_rate"]
                    lr_mult *= rate ** (num_layers - 1 - layer)
            groups.setdefault((lr_mult, decay_mult), []).append(parameter)

        for (scale, decay_mult), members in sorted(
            groups.items(), key=lambda item: item[0], reverse=True
        ):
            group = dict(params=members, lr=self.base_lr * scale, lr_scale=scale)
            if self.base_wd is not None:
                group["weight_decay"] = self.base_wd * decay_mult
            params.append(group)
        print_log(
            f"Layer-wise decay: {len(params)} parameter groups with learning rates "
            f"from {params[-1]['lr']:.3g} to {params[0]['lr']:.3g}",
            logger="current",
        )


def _check_keys(what: str, options: dict, allowed: set[str]) -> None:
    """A misspelt option would otherwise be ignored without a word."""
    if unknown := set(options) - allowed:
        raise ValueError(
            f"{what} must have keys out of {sorted(allowed)}, got {sorted(unknown)}"
        )
