"""A training's last saved place in a folder, from which the same cell goes on in another kernel.

The file is replaced as a whole, so that it is always that of one moment. It holds pickles of the notebook's own
objects: a folder is as trusted as the notebook.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.request import Saved
from deepseek_lab.distributed.worker.feedback import PREFIX

_NAME, _FORMAT = "training.checkpoint", 2


class Checkpoint:
    """Where a training is saved.

    Args:
        folder: Made if it is not there.
        source: The cell; another one does not go on from here.
        kinds: What was sent to the ranks, in order: what was saved is written into objects of these kinds.
        seed: Of the training.

    Raises:
        TargetError: the folder cannot be used.
    """

    def __init__(self, folder: Path, source: str, kinds: Sequence[str], seed: int) -> None:
        self._path = folder / _NAME
        self._is = {
            "format": _FORMAT,
            "source": hashlib.sha256(source.encode()).hexdigest(),
            "kinds": hashlib.sha256("\n".join(kinds).encode()).hexdigest(),
        }
        self.seed = seed
        """Of the training; of the one that was loaded."""
        self.failed = ""
        """Why the last place could not be written."""
        self._next: Saved | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(
                f"{folder} cannot hold checkpoints: {error.strerror}", hint="--checkpoint-to FOLDER"
            ) from None

    def load(self) -> tuple[Saved, str] | None:
        """What was saved, and when; sets the seed that the training had.

        Raises:
            TargetError: it is of another training, or no checkpoint.
        """
        try:
            with self._path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > self._path.stat().st_size:
                    raise ValueError
                header: dict[str, Any] = json.loads(file.read(length))
                self._require(header)
                parts = [file.read(size) for size in header["sizes"]]
                if [len(part) for part in parts] != header["sizes"]:
                    raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, struct.error):
            raise TargetError(
                f"{self._path} is no checkpoint that can be read", hint=f"remove {self._path}"
            ) from None
        self.seed = header["seed"]
        first = header["num_states"]
        saved = Saved(header["place"], parts[:first], parts[first:], header["num_steps"], {})
        return saved, header["time"]

    def _require(self, header: dict[str, Any]) -> None:
        words = {
            "format": "by another version",
            "source": "of another cell",
            "kinds": "of other objects",
        }
        for key, word in words.items():
            if header[key] != self._is[key]:
                raise TargetError(
                    f"{self._path} was saved by a training {word}", hint="--checkpoint-to another folder"
                )

    def put(self, saved: Saved) -> None:
        """Write it soon, in a thread; where one is written already, only the newest of those that wait."""
        with self._changed:
            self._next = saved
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="deepseek-checkpoint", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def remove(self) -> None:
        """The training is done: nothing is to go on from here."""
        with self._changed:
            self._next = None
        self._stop()
        for path in (self._path, *self._path.parent.glob(f"{PREFIX}*")):
            path.unlink(missing_ok=True)

    def _stop(self) -> None:
        """Write what waits, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._next is None and not self._closing:
                    self._changed.wait()
                saved, self._next = self._next, None
            if saved is None:
                return
            try:
                self._write(saved)
                self.failed = ""
            except OSError as error:
                self.failed = error.strerror or str(error)

    def _write(self, saved: Saved) -> None:
        if saved.left:  # with these nothing can go on
            return
        parts = [*saved.states, *saved.values]
        header = self._is | {
            "seed": self.seed,
            "place": saved.place,
            "num_steps": saved.num_steps,
            "num_states": len(saved.states),
            "sizes": [memoryview(part).nbytes for part in parts],
            "time": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        text = json.dumps(header).encode()
        new = self._path.with_suffix(".new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(struct.pack("<Q", len(text)))
                file.write(text)
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
