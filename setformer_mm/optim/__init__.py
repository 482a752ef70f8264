"""Optimiser wrapper constructors, and how their rules combine."""

from .custom_keys import cancelled_exemptions
from .layer_decay import SeTformerLayerDecayConstructor

__all__ = ["SeTformerLayerDecayConstructor", "cancelled_exemptions"]
