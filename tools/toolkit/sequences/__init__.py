"""Mixers compared on sequences: the tasks, one training, its runs, their tables."""
