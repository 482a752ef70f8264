"""The page of tools/explore.py: what it serves and what it computes."""
