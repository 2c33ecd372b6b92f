"""What stands beside a rank that does not run where the notebook does: it starts it, watches it and ends with it.

``python -m deepseek_lab.distributed.worker.keeper --stdin`` reads all that it needs, keys too, as one line from its
standard input, and ends the rank when that input ends. Without ``--stdin`` it takes the connection file, the names of
all ranks of its job, and the variable of the batch system that says which of them it is. In either case it ends the
rank when the notebook says so, and when the notebook has been away for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

from deepseek_lab.distributed import folder
from deepseek_lab.distributed.channel import Connection, Message, connect

LOST_S = 15.0
ALIVE_S = 2.0
_MOST_WORDS = 16_000


@dataclasses.dataclass(frozen=True)
class Task:
    """A rank to be kept."""

    connection: Connection
    identity: str
    num_sharing: int = 1
    """Ranks that share this machine's cores."""
    directory: str = ""
    """Where to run, if it is there."""
    folder: str = ""
    """Holds the connection file here, and is removed if the notebook ends without doing so."""

    @property
    def rank(self) -> int:
        """Its number until it joins the others: ``rank-3.0`` is the first process of rank 3."""
        return int(self.identity.removeprefix("rank-").partition(".")[0])

    def line(self) -> bytes:
        """As it is sent to a keeper's standard input."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Task:
        """What :meth:`line` gave."""
        fields = json.loads(line)
        return cls(Connection(**fields.pop("connection")), **fields)


class Keeper:
    """Keeps one rank.

    Args:
        task: The rank.
        held: Whether the end of the standard input is the rank's end.
        lost_s: A notebook that is away for so long does not come back.
    """

    def __init__(self, task: Task, *, held: bool, lost_s: float = LOST_S) -> None:
        self._task, self._held, self._lost_s = task, held, lost_s
        self._why = ""
        """Why the rank was ended, if it was ended here."""
        self._words = b""
        self._child = 0

    def keep(self) -> int:
        """Start the rank and wait for its end; gives the exit status for this process."""
        reads, writes = os.pipe()
        self._child = os.fork()  # no thread runs yet
        if not self._child:
            os.close(reads)
            self._become_rank(writes)
        os.close(writes)
        signal.signal(signal.SIGTERM, self._on_signal)  # of a batch system that ends the job
        channel = connect(
            self._task.connection,
            f"keeper-{self._task.identity}".encode(),
            self._heard,
            tick=lambda: channel.send(Message("alive")),
            tick_s=ALIVE_S,
            lost=self._lost,
            lost_s=self._lost_s,
        )
        channel.open()
        channel.send(Message("kept", {"pid": self._child, "host": socket.gethostname()}))
        if self._held:
            threading.Thread(target=self._hold, daemon=True).start()
        listener = threading.Thread(target=self._listen, args=(reads,), daemon=True)
        listener.start()
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        self._kill()  # what it has started
        listener.join(1)
        words = self._words.decode(errors="replace")
        channel.send(Message("ended", {"status": status, "why": self._why, "words": words}))
        channel.close()
        return status if status >= 0 else 128 - status

    def _become_rank(self, writes: int) -> None:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor, source in {0: nothing, 1: writes, 2: writes}.items():
            os.dup2(source, descriptor)
        for name in ("DEEPSEEK_LAB_RANKS", "PYTHONSTARTUP"):
            os.environ.pop(name, None)
        num_threads = max(1, len(os.sched_getaffinity(0)) // self._task.num_sharing)
        os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if self._task.folder:
            os.environ["DEEPSEEK_LAB_RANKS"] = self._task.folder
        with contextlib.suppress(OSError):
            if self._task.directory:
                os.chdir(self._task.directory)
        sys.path.insert(0, str(Path.cwd()))
        try:
            from deepseek_lab.distributed.worker.worker import Worker

            task = self._task
            Worker(task.connection, task.rank, task.identity.encode(), os.getppid()).serve()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    # Threads.

    def _listen(self, reads: int) -> None:
        while part := os.read(reads, 65536):
            self._words = (self._words + part)[-_MOST_WORDS:]
            with contextlib.suppress(OSError):
                os.write(2, part)

    def _hold(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._kill("was ended, as ssh's connection ended")

    def _heard(self, _: bytes, message: Message) -> None:
        if message.kind == "kill":
            self._kill("was ended by the notebook")

    def _lost(self) -> None:
        if self._task.folder:
            folder.remove(Path(self._task.folder))
        self._kill("was ended, as the notebook did not answer any more")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._kill("was ended by the batch system")

    def _kill(self, why: str = "") -> None:
        self._why = self._why or why
        try:
            os.killpg(self._child, signal.SIGKILL)
        except OSError:
            with contextlib.suppress(OSError):
                os.kill(self._child, signal.SIGKILL)  # has no group of its own yet


def main() -> int:
    """Keep the rank that the command line or the standard input names."""
    parser = argparse.ArgumentParser(prog="keeper")
    parser.add_argument("--stdin", action="store_true")
    parser.add_argument("--connection", type=Path)
    parser.add_argument("--ranks", help="their names, with commas between")
    parser.add_argument("--task", help="number of this one among them, or the variable that holds it")
    parser.add_argument("--directory", default="")
    parser.add_argument("--lost", type=float, default=LOST_S)
    options = parser.parse_args()
    if options.stdin:
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(0, 65536)  # no buffer may keep what comes after
            if not part:
                return 1
            line += part
        return Keeper(Task.of(line), held=True, lost_s=options.lost).keep()
    number = int(os.environ.get(options.task, options.task))
    path: Path = options.connection
    identity = options.ranks.split(",")[number]
    task = Task(Connection.read(path), identity, directory=options.directory, folder=str(path.parent))
    return Keeper(task, held=False, lost_s=options.lost).keep()


if __name__ == "__main__":
    sys.exit(main())
