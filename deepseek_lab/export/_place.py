"""The folder that an export goes to: written beside its place, renamed into it, and never over anything else."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from deepseek_lab.base.errors import UsageError
from deepseek_lab.engine.store import checksum

MARK = "export.json"
_FORMAT = 1
_CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}


def files_of(directory: Path) -> list[Path]:
    """Every file of an export, in order; caches of tools do not count."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not _CACHES & set(path.relative_to(directory).parts)
    )


def check(directory: Path) -> None:
    """Make sure that nothing of the user's would be lost.

    Raises:
        UsageError: there is something else than an earlier export as it was written.
    """
    beside = f"%deepseek export {directory.with_name(directory.name + '-2')}"
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise UsageError(f"{directory} is not a folder", hint=beside)
    if not directory.exists() or not any(directory.iterdir()):
        return
    try:
        data = json.loads((directory / MARK).read_text(encoding="utf-8"))
        known: dict[str, str] = dict(data["files"])
        if data["format"] != _FORMAT:
            raise ValueError(data["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{directory} holds something that is no earlier export", hint=beside) from None
    for path in files_of(directory):
        name = str(path.relative_to(directory))
        if name != MARK and name not in known:
            raise UsageError(f"{directory} holds {name}, which the earlier export did not write", hint=beside)
        if name != MARK and checksum(path) != known[name]:
            raise UsageError(f"{path} was changed after it was exported", hint=beside)


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``directory`` when the block ends without an error.

    Raises:
        UsageError: ``directory`` holds something that would be lost, or cannot be written.
    """
    directory = directory.absolute()
    check(directory)
    made = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}")
    try:
        made.mkdir(parents=True)
        yield made
        sums = {str(path.relative_to(made)): checksum(path) for path in files_of(made)}
        (made / MARK).write_text(json.dumps({"format": _FORMAT, "files": sums}, indent=1), encoding="utf-8")
        old = made.with_name(f"{made.name}.old")
        if directory.exists():
            directory.rename(old)
        try:
            made.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written ({error.strerror or error})",
            hint="%deepseek export with another folder",
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
