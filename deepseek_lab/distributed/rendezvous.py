"""Keys and values by which the ranks of a group find each other: the notebook keeps them, the ranks ask for them.

They go over the connections that are there anyway, so that no folder has to be shared and no port opened.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from deepseek_lab.distributed.channel import Message


@dataclasses.dataclass(frozen=True)
class _Waiting:
    sender: bytes
    message: Message


class Rendezvous:
    """Of one group after the other.

    Args:
        send: Sends a message to a rank.
    """

    def __init__(self, send: Callable[[Message, bytes], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._group = 0
        self._values: dict[str, bytes] = {}
        self._waiting: list[_Waiting] = []

    def begin(self) -> int:
        """Begin anew; gives the number of the group, and whoever still asks for another one is told that it is over."""
        with self._lock:
            over, self._waiting = self._waiting, []
            self._values.clear()
            self._group += 1
            for one in over:
                self._answer(one.sender, one.message, over=True)
            return self._group

    def heard(self, sender: bytes, message: Message) -> None:
        """Do what a rank asks for, or keep it until the keys that it needs are there."""
        with self._lock:
            if message.fields["group"] != self._group:
                self._answer(sender, message, over=True)
            elif not self._done(sender, message):
                self._waiting.append(_Waiting(sender, message))
            else:
                self._waiting = [one for one in self._waiting if not self._done(one.sender, one.message)]

    def _done(self, sender: bytes, message: Message) -> bool:
        keys: list[str] = message.fields["keys"]
        given = [bytes(part) for part in message.payload]
        number, value = 0, b""
        match message.fields["what"]:
            case "set":
                self._values[keys[0]] = given[0]
            case "add":
                number = int(self._values.get(keys[0], b"0")) + int(message.fields["amount"])
                self._values[keys[0]] = str(number).encode()
            case "compare":
                expected, desired = given
                if self._values.get(keys[0], b"") == expected:
                    self._values[keys[0]] = desired
                value = self._values.get(keys[0], expected)
            case "check":
                number = all(key in self._values for key in keys)
            case "count":
                number = len(self._values)
            case "delete":
                number = self._values.pop(keys[0], None) is not None
            case _:  # get
                if any(key not in self._values for key in keys):
                    return False
                value = self._values[keys[0]] if message.fields["what"] == "get" else b""
        self._answer(sender, message, number=number, value=value)
        return True

    def _answer(
        self, sender: bytes, message: Message, *, number: int = 0, value: bytes = b"", over: bool = False
    ) -> None:
        fields = {"call": message.fields["call"], "number": number, "over": over}
        self._send(Message("met", fields, [value]), sender)
