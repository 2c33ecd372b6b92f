"""The artefact store: one folder per user, safe for several kernels at once.

An entry is a folder ``<key>/`` holding an artefact's files and ``manifest.json`` with their sizes and
checksums, the full key in words and the verdict. Entries are made beside their place and renamed into it,
so a reader sees all of one or none of it. What is damaged is removed and counts as absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import ArtifactError
from deepseek_lab.base.settings import settings

MANIFEST = "manifest.json"
LOCK = ".lock-"
"""Begins the name of the file that says which kernel builds an entry."""
LEFT_OVER_S = 86400
"""Scratch and locks that nobody has touched for so long are left over from a kernel that died."""
_FORMAT = 1
_DIGEST = re.compile("[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class Key:
    """What an artefact depends on, part by part, so that a miss can say which part changed."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, **parts: str) -> Key:
        """A key from named parts."""
        return cls(tuple(sorted(parts.items())))

    @property
    def digest(self) -> str:
        """The entry's folder name."""
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()[:40]

    def difference(self, other: dict[str, str]) -> list[str]:
        """Names of the parts in which another key differs."""
        mine = dict(self.parts)
        return sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A complete, checked entry."""

    directory: Path
    record: dict[str, Any]


def checksum(path: Path) -> str:
    """CRC-32 of a file's content with its size; enough to find damage and careless edits."""
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}-{path.stat().st_size}"


class Store:
    """Entries under ``root``, which defaults to the user's setting at the time of each call."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder of all entries."""
        return (self._root or settings.cache_dir) / "artifacts"

    def scratch(self) -> Path:
        """A new empty folder on the store's file system; the caller removes it or hands it to :meth:`put`."""
        path = self.root / f".scratch-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        path.mkdir(parents=True)
        return path

    def mark(self, weights: str, key: Key) -> None:
        """Remember the entry that was used last for weights of this digest; forgetting it costs time alone."""
        with contextlib.suppress(OSError):
            (self.root / f".weights-{weights}").write_text(key.digest, encoding="utf-8")

    def marked(self, weights: str) -> str | None:
        """Digest of the key of the entry that was used last for these weights; None where there was none."""
        try:
            digest = (self.root / f".weights-{weights}").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        # It becomes a path, and what is found damaged at that path is removed.
        return digest if _DIGEST.fullmatch(digest) else None

    def get(self, key: Key | str) -> Entry | None:
        """The entry of this key, or of a key of this digest, checked file by file.

        None when absent or damaged (then removed).
        """
        directory = self.root / (key if isinstance(key, str) else key.digest)
        try:
            return self._checked(directory)
        except FileNotFoundError:
            return None
        except (ArtifactError, OSError):
            self._set_aside(directory)
            return None

    def _checked(self, directory: Path) -> Entry:
        manifest = directory / MANIFEST
        if not directory.is_dir():
            raise FileNotFoundError(directory)
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            files, record, stamp = data["files"], data["record"], data["stamp"]
            key = Key.of(**data["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{manifest} cannot be read: {error}") from error
        if key.digest != directory.name:
            raise ArtifactError(f"{manifest} is that of another entry")
        if data.get("format") != _FORMAT or stamp != _stamp(files, record):
            raise ArtifactError(f"{manifest} is of another format or was edited")
        for name, expected in files.items():
            path = directory / name
            if not path.is_file() or checksum(path) != expected:
                raise ArtifactError(f"{path} is missing or damaged")
        os.utime(manifest)
        return Entry(directory, record)

    def put(self, key: Key, scratch: Path, record: dict[str, Any]) -> Entry:
        """Publish what a scratch folder holds; an entry that is already there is replaced.

        Raises:
            ArtifactError: the disk is full or the folder cannot be written.
        """
        try:
            files = {
                str(path.relative_to(scratch)): checksum(path)
                for path in sorted(scratch.rglob("*"))
                if path.is_file() and path.name != MANIFEST
            }
            data = {
                "format": _FORMAT,
                "key": dict(key.parts),
                "files": files,
                "record": record,
                "stamp": _stamp(files, record),
            }
            (scratch / MANIFEST).write_text(json.dumps(data, indent=1), encoding="utf-8")
            target = self.root / key.digest
            for _ in range(3):
                try:
                    scratch.rename(target)
                    break
                except OSError:
                    self._set_aside(target)
            else:
                shutil.rmtree(scratch, ignore_errors=True)
                raise ArtifactError(f"{target} is being written by another kernel")
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise ArtifactError(f"the artefact could not be stored: {error.strerror or error}") from error
        self.trim()
        return Entry(target, record)

    def annotate(self, directory: Path, **facts: Any) -> None:
        """Add facts to an entry's record; those that are None are taken out.

        Raises:
            ArtifactError: the entry is gone, or cannot be written.
        """
        manifest = directory / MANIFEST
        beside = manifest.with_name(f".{MANIFEST}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            record = {**data["record"], **facts}
            data["record"] = {name: value for name, value in record.items() if value is not None}
            data["stamp"] = _stamp(data["files"], data["record"])
            beside.write_text(json.dumps(data, indent=1), encoding="utf-8")
            beside.replace(manifest)
        except (OSError, ValueError, KeyError) as error:
            beside.unlink(missing_ok=True)
            raise ArtifactError(f"{manifest} could not be written: {error}") from error

    def _set_aside(self, target: Path) -> None:
        aside = self.root / f".scratch-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        try:
            target.rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def discard(self, key: Key) -> None:
        """Remove an entry."""
        self._set_aside(self.root / key.digest)

    def explain_miss(self, key: Key) -> str:
        """Which parts of the key differ from the nearest entry of the same graph."""
        best: list[str] | None = None
        for manifest in self.root.glob(f"*/{MANIFEST}"):
            try:
                other = json.loads(manifest.read_text(encoding="utf-8"))["key"]
            except (OSError, ValueError, KeyError):
                continue
            parts = key.difference(other)
            if parts and other.get("candidate") == dict(key.parts).get("candidate"):
                best = parts if best is None or len(parts) < len(best) else best
        if best is None:
            return "nothing like it has been built before"
        return "built before with another " + ", ".join(best)

    def trim(self, limit_bytes: int | None = None) -> int:
        """Remove least recently used entries above the size limit, and what is left over; bytes freed."""
        limit = settings.cache_limit_bytes if limit_bytes is None else limit_bytes
        entries = []
        for directory in self.root.glob("*"):
            try:
                if directory.name.startswith("."):
                    self._sweep(directory)
                    continue
                size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
                entries.append(((directory / MANIFEST).stat().st_mtime, size, directory))
            except OSError:
                continue
        freed, total = 0, sum(size for _, size, _ in entries)
        for _, size, directory in sorted(entries, key=lambda entry: entry[0]):
            if total - freed <= limit:
                break
            self._set_aside(directory)
            freed += size
        return freed

    def _sweep(self, path: Path) -> None:
        """Remove scratch and locks that nobody has used for a day, and a mark whose entry is gone."""
        if path.name.startswith(".weights-"):
            digest = self.marked(path.name.removeprefix(".weights-"))
            if digest is None or not (self.root / digest).exists():
                path.unlink(missing_ok=True)
        elif time.time() - path.stat().st_mtime < LEFT_OVER_S:
            return
        elif path.name.startswith(".scratch-"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(LOCK):
            with path.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while somebody builds
                path.unlink(missing_ok=True)

    def usage(self) -> tuple[int, int]:
        """Number of entries and their bytes."""
        sizes = [
            sum(path.stat().st_size for path in manifest.parent.rglob("*") if path.is_file())
            for manifest in self.root.glob(f"*/{MANIFEST}")
            if not manifest.parent.name.startswith(".scratch-")
        ]
        return len(sizes), sum(sizes)


def _stamp(files: dict[str, str], record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([files, record], sort_keys=True).encode()).hexdigest()
