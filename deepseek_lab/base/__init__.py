"""Errors, settings, events and report types. Standard library only."""
