"""One rank: a main thread that does what the notebook asks for, and a thread that listens meanwhile."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from deepseek_lab.distributed import folder
from deepseek_lab.distributed.channel import Connection, Message, connect
from deepseek_lab.distributed.worker import place as places
from deepseek_lab.distributed.worker.group import Group
from deepseek_lab.distributed.worker.network import host_id, interface, local_address
from deepseek_lab.processes import cells
from deepseek_lab.processes.output import Output

if TYPE_CHECKING:
    from deepseek_lab.distributed.worker.feedback import Kept
    from deepseek_lab.distributed.worker.turns import Turns
    from deepseek_lab.distributed.worker.vitals import Vitals

_BEAT_S, _LOOK_S = 0.5, 0.1
"""Where it is, is said so often, and where it has moved; how it is doing only so often."""
_PARENT_S = 0.5


class Worker:
    """A rank.

    Args:
        connection: Of the notebook.
        rank: Number of this rank.
        identity: What the notebook calls this process.
        parent: Process whose end is the end of this one; 0 where it runs on another machine.
    """

    def __init__(self, connection: Connection, rank: int, identity: bytes, parent: int) -> None:
        self.rank, self._parent = rank, parent
        self._output = Output()
        self._todo: queue.Queue[Message] = queue.Queue()
        self._request: int | None = None
        """What is being done now."""
        self._file = ""
        self._files: set[str] = set()
        """Of all cells so far."""
        self._interruptible = False
        self._interrupted: int | None = None
        """The request that is to be interrupted."""
        self._beat_at_s = self._looked_at_s = self._parent_at_s = 0.0
        self._place: dict[str, Any] = {}
        self._turns: Turns | None = None
        self._kept: Kept | None = None
        self._vitals: Vitals | None = None
        self._told_at_s = 0.0
        self._hosts: Sequence[int] = ()
        """Of all ranks: two that share one have the same number."""
        self._main_thread = threading.main_thread()
        self._address = self._own_address(connection)
        self._folder = os.environ.get("DEEPSEEK_LAB_RANKS")
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self.names: dict[str, Any] = vars(module)
        self._channel = connect(connection, identity, self._heard, tick=self._tick)
        self.group = Group(self._channel.send)

    def serve(self) -> None:
        """Do what is asked for until the notebook says that it is enough, or ends."""
        faulthandler.enable()  # to the log, which is what a rank says last
        faulthandler.register(signal.SIGUSR1)
        signal.signal(signal.SIGINT, self._on_signal)
        sys.stdout, sys.stderr = self._output.stdout, self._output.stderr
        self._channel.open()
        about = {"host": socket.gethostname(), "machine": host_id(), "address": self._address}
        self._channel.send(Message("hello", about))
        with contextlib.suppress(ImportError):
            import torch.distributed
        while True:
            message = self._todo.get()
            if message.kind == "stop":
                break
            self._do(message)
            if message.kind == "join" and self._todo.empty():
                with contextlib.suppress(ImportError):
                    import torch._dynamo  # noqa: F401 - DistributedDataParallel asks for it, a second and a half
        self.group.leave()
        self._flush()
        self._channel.close()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        os._exit(0)  # threads that user code left behind do not hold the process

    def _own_address(self, connection: Connection) -> str:
        """That from which the notebook is reached; so are the other ranks, unless the user has chosen an interface."""
        host, _, port = connection.address.removeprefix("tcp://").rpartition(":")
        address = local_address(host.strip("[]"), int(port))
        if name := interface(address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
        return address

    # The main thread.

    def _do(self, message: Message) -> None:
        request = message.fields["request"]
        self._file = message.fields.get("file", "")
        self._files.add(self._file)
        began_s = time.perf_counter()
        fields: dict[str, Any] = {"status": "ok"}
        payload: list[Any] = []
        try:
            try:
                self._request = request
                self._interruptible = True
                if self._interrupted == request:  # before it began
                    raise KeyboardInterrupt
                answer, payload = getattr(self, f"_do_{message.kind}")(message)
                self._interruptible = False
                fields |= answer
            finally:
                self._interruptible = False
        except KeyboardInterrupt:  # raised once a request at most
            fields |= {"status": "interrupted"}
        except cells.CellFailed as failed:
            fields |= {"status": "error", "error": failed.name, "text": failed.text, "line": failed.line}
        except BaseException as error:
            text = cells.describe(error, self._file)
            fields |= {"status": "error", "error": type(error).__name__, "text": text, "line": None}
        self._request = None
        if self._interrupted == request and fields["status"] == "error":
            fields["status"] = "interrupted"  # what gloo raised came first
        fields |= {"seconds": time.perf_counter() - began_s, "broken": self.group.broken}
        self._flush(request)
        self._channel.send(Message("done", {"request": request, **fields}, payload))

    def _do_join(self, message: Message) -> tuple[dict[str, Any], list[Any]]:
        wanted = message.fields
        self.rank, size, local_rank = wanted["rank"], wanted["size"], wanted["local_rank"]
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))
        os.environ["MASTER_ADDR"] = wanted["master"]
        self._remember()
        device = self.group.join(
            rank=self.rank, size=size, group=wanted["group"], limit_s=wanted["limit_s"], local_rank=local_rank
        )
        self._hosts = wanted["hosts"]
        for name, value in {"rank": self.rank, "world_size": size, "device": device}.items():
            self.names.setdefault(name, value)
        self.names |= {"rank": self.rank, "world_size": size}
        return {"device": device}, []

    def _remember(self) -> None:
        """Have operations of the groups that are formed next remembered."""
        from deepseek_lab.distributed.worker.flight import flight

        flight.files = self._files
        flight.install()
        flight.begin()

    def _do_run(self, message: Message) -> tuple[dict[str, Any], list[Any]]:
        from deepseek_lab.processes import travel

        if message.payload:
            self.names |= travel.unpack(message.payload, self.names).value
        if shell := message.fields.get("shell"):  # the module that knows what magics are
            importlib.import_module(shell).provide(self.names)
        value = cells.run_cell(message.fields["source"], self._file, self.names)
        gathered: list[Any] = []
        if wanted := message.fields.get("gather"):
            missing = [name for name in wanted if name not in self.names]
            if missing:
                raise NameError(f"there is no {missing[0]!r} on rank {self.rank}")
            gathered = travel.pack({name: self.names[name] for name in wanted}, self.names)
        return {"value": cells.value_text(value)}, gathered

    def _do_train(self, message: Message) -> tuple[dict[str, Any], list[Any]]:
        from deepseek_lab.distributed.worker.feedback import Kept
        from deepseek_lab.distributed.worker.training import train
        from deepseek_lab.distributed.worker.vitals import Vitals

        self._kept = self._kept or Kept()
        with Vitals(self.names.get("device", "cpu"), lambda: self.group.num_bytes) as vitals:
            self._vitals = vitals
            try:
                return train(
                    self.rank,
                    message,
                    self.names,
                    self._channel.send,
                    self._follow,
                    vitals,
                    self._hosts,
                    self._kept,
                )
            finally:
                self._turns = self._vitals = None
                self._tell(vitals)

    def _follow(self, turns: Turns | None) -> None:
        self._turns = turns

    # The thread that listens.

    def _heard(self, _: bytes, message: Message) -> None:
        match message.kind:
            case "interrupt":
                self._interrupted = message.fields["request"]
                self.group.unblock()
                if self._main_thread.ident is not None:
                    signal.pthread_kill(self._main_thread.ident, signal.SIGINT)
            case "unblock":
                if self._request == message.fields["request"]:
                    self.group.unblock()
                    if self._turns is not None:
                        self._turns.decide(None, go=False)
            case "met":
                self.group.heard(message)
            case "save":
                turns = self._turns if self._request == message.fields["request"] else None
                can = turns is not None and turns.tell(message.fields["place"])
                self._channel.send(Message("can save", {**message.fields, "can": can}))
            case "decided":
                if self._turns is not None and self._request == message.fields["request"]:
                    self._turns.decide(message.fields["place"], go=message.fields["go"])
            case "record":
                self._channel.send(Message("recorded", self._record(message.fields)))
            case "exit":
                os._exit(0)
            case _:
                self._todo.put(message)

    def _record(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The last operations, and where the main thread is."""
        if "torch.distributed" not in sys.modules:  # it has joined no group
            return {"call": wanted["call"], "operations": [], "groups": {}, "stack": []}
        from deepseek_lab.distributed.worker.flight import flight, stack_of

        operations, whole = flight.told(wanted["limit"])
        busy = self._request is not None and self._main_thread.ident is not None
        line, source, stack = stack_of(self._main_thread.ident or 0, self._file) if busy else (None, "", [])
        return {
            "call": wanted["call"],
            "operations": operations,
            "groups": dict(self.group.members),
            "whole": whole,
            "waits": bool(self._place.get("waits")),
            "line": line,
            "source": source,
            "stack": stack,
            "at_s": time.time(),
        }

    def _tick(self) -> None:
        self._flush(self._request)
        self.group.tick()
        now = time.monotonic()
        if now - self._parent_at_s > _PARENT_S:
            self._parent_at_s = now
            if self._parent and os.getppid() != self._parent:
                self._abandon()
        if now - self._looked_at_s > _LOOK_S:
            self._looked_at_s = now
            self._beat(now)
        vitals = self._vitals
        if vitals is not None and now - self._told_at_s > _BEAT_S:
            self._tell(vitals)

    def _abandon(self) -> None:
        """The notebook's process has ended, and with it whatever could remove its folder."""
        if self._folder is not None:
            folder.remove(Path(self._folder))
        os._exit(0)

    def _beat(self, now: float) -> None:
        request = self._request
        frame: FrameType | None = None
        if self._main_thread.ident is not None and request is not None:
            frame = sys._current_frames().get(self._main_thread.ident)
        place = {"request": request, **places.place(frame, self._file)}
        del frame
        if place != self._place or now - self._beat_at_s > _BEAT_S:
            self._place, self._beat_at_s = place, now
            self._channel.send(Message("beat", {"busy_s": time.process_time(), **place}))

    def _tell(self, vitals: Vitals) -> None:
        found = vitals.now()
        if found is not None:
            self._told_at_s = time.monotonic()
            self._channel.send(Message("vitals", {"request": self._request, **found}))

    def _flush(self, request: int | None = None) -> None:
        parts = self._output.take()
        if parts:
            self._channel.send(Message("said", {"request": request, "parts": parts}))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Interrupt what was asked to be, once; what the signal finds at any other moment goes on."""
        if self._interruptible and self._request is not None and self._interrupted == self._request:
            self._interruptible = False
            raise KeyboardInterrupt
