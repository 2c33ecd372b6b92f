"""Ranks: processes that a notebook starts, runs cells on and trains with, on this machine or on others."""
