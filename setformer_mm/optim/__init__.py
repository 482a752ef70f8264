"""Optimiser wrapper constructors."""

from .layer_decay import SeTformerLayerDecayConstructor

__all__ = ["SeTformerLayerDecayConstructor"]
