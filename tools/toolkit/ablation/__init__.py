"""Grids of trainings: their jobs, their runs, and the tables made of these."""
