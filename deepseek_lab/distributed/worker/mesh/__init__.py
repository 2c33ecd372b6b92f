"""Layers that ranks share, stages that follow each other, and copies of both, on a grid of ranks."""
