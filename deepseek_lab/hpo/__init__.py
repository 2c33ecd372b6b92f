"""Hyper-parameter search: a cell becomes a search over the ranges that stand in it."""
