"""The process group of a rank: joined, left, and unblocked from outside of a collective that never ends.

gloo's collectives end with the other ranks or with their time limit, and not for a signal. A connection that is shut
down ends them at once with an error, so the sockets that the groups opened are remembered; the group is joined
anew afterwards. In the middle of a message it does not: gloo tells what waits for messages that have not begun, and
not what is being read or written (gloo/transport/tcp/pair.cc, Pair::signalException). So connections are shut down
when nothing has gone over them for a moment.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_lab.distributed.channel import Message

if TYPE_CHECKING:
    from deepseek_lab.distributed.worker.store import NotebookStore

_MEETING_S = 60
"""Ranks that form a group wait so long for each other."""

_QUIET_S = 0.15
_LONGEST_S = 5.0
"""Connections that never rest are shut down after so long."""


def _sockets() -> dict[int, int]:
    """Sockets of this process that are open now: descriptor to inode."""
    found: dict[int, int] = {}
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = one.stat()
            if stat.S_ISSOCK(status.st_mode):
                found[int(one.name)] = status.st_ino
    return found


def _num_bytes(descriptor: int, inode: int) -> int:
    """How much has gone over a connection, in both directions; 0 for what is none (tcp(7), struct tcp_info)."""
    with contextlib.suppress(OSError, struct.error):
        if os.fstat(descriptor).st_ino != inode:
            return 0
        with socket.socket(fileno=os.dup(descriptor)) as one:
            told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
            acknowledged, received = struct.unpack_from("=QQ", told, 120)
            return int(acknowledged + received)
    return 0


def _shut_down(descriptor: int, inode: int) -> None:
    """End a connection that is still the one that was remembered; a socket that listens is left alone."""
    with contextlib.suppress(OSError):
        if os.fstat(descriptor).st_ino != inode:
            return
        with socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family in {socket.AF_INET, socket.AF_INET6}:
                one.getpeername()  # raises where it listens
                one.shutdown(socket.SHUT_RDWR)


class Group:
    """What this rank belongs to.

    Args:
        send: Sends to the notebook.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._store: NotebookStore | None = None
        self.broken = False
        """Whether connections were shut down since the group was joined."""
        self.members: dict[str, list[int]] = {}
        """Ranks of each group that was formed since then, by its name."""
        self._opened: dict[int, int] = {}
        self._lock = threading.Lock()
        """Held while connections are shut down, so that these are never those of the next group."""
        self._asked_at_s: float | None = None
        self._seen = (-1, 0.0)
        """Bytes that had gone over all connections, and since when."""

    def join(self, *, rank: int, size: int, group: int, limit_s: float, local_rank: int) -> str:
        """Form a group with the other ranks, which the notebook has given this number; gives the name of its device.

        Raises:
            RuntimeError: the others did not come within the limit.
        """
        import torch
        import torch.distributed as dist

        from deepseek_lab.distributed.worker.store import NotebookStore

        self.leave()
        cuda = (
            torch.cuda.is_available() and dist.is_nccl_available() and local_rank < torch.cuda.device_count()
        )
        if cuda:
            torch.cuda.set_device(local_rank)
        # C++ holds a store, and not the Python object that it calls.
        self._store = NotebookStore(self._send, group, _MEETING_S)
        with self._remembering():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=self._store,
                rank=rank,
                world_size=size,
                timeout=dt.timedelta(seconds=limit_s),
            )
        self.broken = False
        return f"cuda:{local_rank}" if cuda else "cpu"

    def leave(self) -> None:
        """Belong to no group."""
        import torch.distributed as dist

        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        with self._lock:
            self._opened.clear()
            self.members.clear()
            self._asked_at_s = None

    def heard(self, message: Message) -> None:
        """An answer to what the group's store has asked for."""
        if self._store is not None:
            self._store.heard(message)

    def unblock(self) -> None:
        """Have the collective that is under way raise, and every later one, as soon as :meth:`tick` finds it quiet."""
        with self._lock:
            self._asked_at_s, self._seen = time.monotonic(), (-1, 0.0)

    @property
    def num_bytes(self) -> int:
        """How much has gone over the connections that are open, in both directions."""
        return sum(_num_bytes(*one) for one in list(self._opened.items()))

    def tick(self) -> None:
        """Called often, from another thread than the one that waits."""
        with self._lock:
            self._shut_down_when_quiet()

    def _shut_down_when_quiet(self) -> None:
        if self._asked_at_s is None:
            return
        now, total = time.monotonic(), self.num_bytes
        if total != self._seen[0]:
            self._seen = total, now
        if now - self._seen[1] < _QUIET_S and now - self._asked_at_s < _LONGEST_S:
            return
        self._asked_at_s = None
        self.broken = True
        if self._store is not None:
            self._store.close()
        for descriptor, inode in list(self._opened.items()):
            _shut_down(descriptor, inode)

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        """Remember the sockets that groups open, also those that are made of this one later."""
        from torch.distributed import distributed_c10d as c10d

        make: Callable[..., Any] = getattr(c10d._new_process_group_helper, "plain", None) or (
            c10d._new_process_group_helper
        )

        def remembered(*arguments: Any, **options: Any) -> Any:
            before = _sockets()
            made = make(*arguments, **options)
            self._opened.update({one: inode for one, inode in _sockets().items() if before.get(one) != inode})
            if isinstance(made[0], c10d.ProcessGroup):
                self.members[made[0].group_name] = list(arguments[2]) or list(range(arguments[0]))
            return made

        remembered.plain = make  # type: ignore[attr-defined]
        c10d._new_process_group_helper = remembered
        yield
