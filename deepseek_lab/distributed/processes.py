"""Processes of ranks on this machine: started, watched, ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_TAIL = 2000


class RankProcess:
    """One rank's process.

    Args:
        folder: Of all ranks, with the connection file.
        rank: Its number.
        identity: What the process calls itself.
        num_threads: For the operations of PyTorch.
        ended: Called with the exit status, in a thread, when the process has ended.
    """

    def __init__(
        self, folder: Path, rank: int, identity: str, num_threads: int, ended: Callable[[int], None]
    ) -> None:
        self.log = folder / f"{identity}.log"
        root = str(Path(__file__).resolve().parents[2])
        path = [root, *[one for one in sys.path if one and Path(one).exists()]]
        environment = {
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **os.environ,
            "DEEPSEEK_LAB_RANKS": str(folder),
            "GLOO_SOCKET_IFNAME": "lo",
            "MASTER_ADDR": "127.0.0.1",
            "NCCL_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(num_threads),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        }
        environment.pop("PYTHONSTARTUP", None)
        words = [sys.executable, "-m", "deepseek_lab.distributed.worker", str(folder / "connection.json")]
        with self.log.open("wb") as log:
            # A session of its own: an interrupt of the notebook goes to whom it is meant for.
            self._process = subprocess.Popen(
                [*words, str(rank), identity, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._ended = ended
        threading.Thread(target=self._watch, name=f"deepseek-rank-{rank}", daemon=True).start()

    def _watch(self) -> None:
        self._ended(self._process.wait())

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def kill(self) -> None:
        """End it and whatever it has started, now."""
        with contextlib.suppress(OSError):
            if self.alive:
                os.killpg(self.pid, 9)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """The end of what it wrote beside its cells: faults of its libraries, of the interpreter."""
        try:
            text = self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-8:])


def remove_remains(parent: Path) -> None:
    """Remove folders of ranks whose notebook has ended without removing them."""
    for folder in parent.glob("deepseek_lab-ranks-*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            owner = int(folder.name.split("-")[2])
            if folder.stat().st_uid == os.getuid() and not Path(f"/proc/{owner}").exists():
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
