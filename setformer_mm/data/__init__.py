"""Data sets that are drawn or computed, so that nothing is downloaded."""
