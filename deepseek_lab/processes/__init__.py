"""Cells and objects of a notebook in other processes: how they travel, run, and tell what they print."""
