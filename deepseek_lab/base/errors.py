"""Errors that say what happened, show the evidence and name the next thing to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeepseekError(Exception):
    """Base of every error that deepseek_lab raises on purpose.

    ``hint`` is the next thing to type; it is printed on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class UsageError(DeepseekError):
    """What was typed is not something this package understands."""


class TargetError(DeepseekError):
    """The thing named as a target is missing or is not something that can be optimised."""


class CaptureError(DeepseekError):
    """A call could not be turned into a graph."""


class ArtifactError(DeepseekError):
    """A stored artefact is missing, damaged or written by something else."""


class BuildError(DeepseekError):
    """A candidate could not be built; carries the backend's own words."""


class MissingPackageError(DeepseekError):
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            hint=f'pip install "deepseek_lab[{extra}]"',
        )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` most likely stands for, or None."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
