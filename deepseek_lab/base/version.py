"""The package's version: reports and views carry it, so that a newer one can be told."""

__version__ = "0.1.0"
