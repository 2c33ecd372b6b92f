"""Tests; a package so that suites and the list of architectures can be imported as ``tests.…``."""
