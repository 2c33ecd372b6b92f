"""Runs of the user's own loops: what each step gave, how far they are, and a way to end them early."""

from deepseek_lab.monitor._track import Track

__all__ = ["Track"]
