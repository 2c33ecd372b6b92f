"""Where studies are on disk, and what they may be called. Importing this imports no Optuna, which takes seconds."""

from __future__ import annotations

import re
from pathlib import Path

from deepseek_lab.base.errors import UsageError
from deepseek_lab.base.settings import settings

_ENDING = ".journal"


def folder() -> Path:
    """The folder of the studies that have no other storage."""
    return settings.cache_dir / "hpo"


def file_of(name: str) -> Path:
    """The file of a study."""
    return folder() / f"{name}{_ENDING}"


def names() -> list[str]:
    """The studies of the store, the one that was written last first.

    A file that was only asked for holds none, and one whose name no study can have is not ours.
    """
    found = [(one.stat(), one.name.removesuffix(_ENDING)) for one in folder().glob(f"*{_ENDING}")]
    there = [(about.st_mtime, name) for about, name in found if about.st_size and is_name(name)]
    return [name for _, name in sorted(there, reverse=True)]


def is_name(name: str) -> bool:
    """Whether this can be the name of a study, and of its file in the folder."""
    return re.fullmatch(r"[\w.-][\w. -]{0,99}", name) is not None and not name.startswith(".")


def check_name(name: str) -> str:
    """A name that can be a study's.

    Raises:
        UsageError: it cannot.
    """
    if not is_name(name):
        better = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or "study"
        raise UsageError(f"{name!r} is no name of a study", hint=f"--name {better}")
    return name
