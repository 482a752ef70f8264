"""Optimiser wrapper constructors, how their rules combine, and what comes of it."""

from .custom_keys import cancelled_exemptions
from .group_table import group_table
from .layer_decay import SeTformerLayerDecayConstructor

__all__ = ["SeTformerLayerDecayConstructor", "cancelled_exemptions", "group_table"]
