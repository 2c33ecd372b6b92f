"""The store of a process group, which the notebook keeps: ``torch.distributed.Store`` over the rank's connection.

C++ calls the methods of a subclass by the names that stand here (torch/csrc/distributed/c10d/init.cpp, PythonStore).
A wait ends with an interrupt, with :meth:`NotebookStore.close`, and with its time limit.
"""

from __future__ import annotations

import datetime as dt
import itertools
import queue
from collections.abc import Callable, Sequence

from torch._C._distributed_c10d import Store
from torch.distributed import DistStoreError

from deepseek_lab.distributed.channel import Message


class NotebookStore(Store):
    """Keys and values of one group.

    Args:
        send: Sends to the notebook.
        group: Number of the group.
        limit_s: Whoever waits for a key waits so long at most.
    """

    def __init__(self, send: Callable[[Message], None], group: int, limit_s: float) -> None:
        super().__init__()
        self.set_timeout(dt.timedelta(seconds=limit_s))
        self._send, self._group = send, group
        self._calls = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._closed = False

    def heard(self, message: Message) -> None:
        """An answer of the notebook; called in the thread that listens."""
        answer = self._answers.get(message.fields["call"])
        if answer is not None:  # else it was given up
            answer.put(message)

    def close(self) -> None:
        """Have whoever waits raise, and whoever asks later."""
        self._closed = True
        for answer in list(self._answers.values()):
            answer.put(None)

    def _ask(
        self,
        what: str,
        keys: Sequence[str] = (),
        payload: Sequence[bytes] = (),
        *,
        amount: int = 0,
        limit: dt.timedelta | None = None,
    ) -> Message:
        limit_s = (limit or self.timeout).total_seconds()  # type: ignore[attr-defined]
        call = next(self._calls)
        answer = self._answers[call] = queue.SimpleQueue()
        try:
            if self._closed:
                answer.put(None)
            fields = {"group": self._group, "call": call, "what": what, "keys": list(keys), "amount": amount}
            self._send(Message("meet", fields, payload))
            came = answer.get(timeout=limit_s)
        except queue.Empty:
            raise DistStoreError(f"the other ranks did not set {', '.join(keys)} in time") from None
        finally:
            del self._answers[call]
        if came is None or came.fields["over"]:
            # The words of gloo for a rank that waits for one that does not come.
            raise RuntimeError("Connection closed by peer: this group of ranks is over")
        return came

    def set(self, key: str, value: str | bytes) -> None:
        self._ask("set", [key], [value.encode() if isinstance(value, str) else value])

    def get(self, key: str) -> bytes:
        return bytes(self._ask("get", [key]).payload[0])

    def add(self, key: str, value: int) -> int:
        return int(self._ask("add", [key], amount=value).fields["number"])

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        values = [one.encode() if isinstance(one, str) else one for one in (expected_value, desired_value)]
        return bytes(self._ask("compare", [key], values).payload[0])

    def check(self, keys: list[str]) -> bool:
        return bool(self._ask("check", keys).fields["number"])

    def wait(self, keys: list[str], timeout: dt.timedelta | None = None) -> None:
        self._ask("wait", keys, limit=timeout)

    def num_keys(self) -> int:
        return int(self._ask("count").fields["number"])

    def delete_key(self, key: str) -> bool:
        return bool(self._ask("delete", [key]).fields["number"])

    getNumKeys, deleteKey = num_keys, delete_key  # noqa: N815 - as C++ calls them
