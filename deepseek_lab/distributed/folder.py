"""The folder of the ranks, which its owner alone may read: connection files, and what processes write beside cells."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

_PREFIX = "deepseek_lab-ranks-"


def make(parent: Path) -> Path:
    """Make one, and remove those whose notebook has ended on this machine without removing them."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    host = socket.gethostname()
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            owner, where = folder.name.removeprefix(_PREFIX).rpartition("-")[0].split("-", 1)
            gone = where == host and not Path(f"/proc/{int(owner)}").exists()
            if gone and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{host}-", dir=parent))


def remove(folder: Path) -> None:
    """Remove it, if it is one."""
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
