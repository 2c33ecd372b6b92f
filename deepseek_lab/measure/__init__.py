"""Timing, and what the machine is."""
