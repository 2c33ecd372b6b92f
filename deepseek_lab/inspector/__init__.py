"""Watches a training loop of the user's own, and says what is wrong with it, where, since when, and what to try.

Yields findings and records (:mod:`deepseek_lab.base.inspection`) and draws nothing.
"""
