"""Messages between a notebook and its ranks, over connections on which both ends prove that they hold a key.

A message is a header of plain JSON and any number of byte strings. Connections are ZeroMQ's with CurveZMQ
(https://rfc.zeromq.org/spec/26/): encrypted, and refused to whoever does not hold the secret key that stands in the
connection file, which only its owner may read.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq
import zmq.auth.thread
import zmq.utils.monitor

from deepseek_lab.base.errors import DeepseekError


class AddressError(DeepseekError):
    """Nothing can listen at an address."""


@dataclasses.dataclass(frozen=True)
class Message:
    """What is said: a kind, plain data, and bytes."""

    kind: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    payload: Sequence[Any] = ()
    """Bytes, or buffers of them."""

    def frames(self) -> list[Any]:
        """As it goes over the connection."""
        return [json.dumps({"kind": self.kind, **self.fields}).encode(), *self.payload]

    @classmethod
    def of(cls, frames: Sequence[Any]) -> Message:
        """What came over the connection."""
        fields = json.loads(bytes(frames[0]))
        return cls(fields.pop("kind"), fields, tuple(frames[1:]))


@dataclasses.dataclass(frozen=True)
class Connection:
    """Where the notebook listens, and the keys of both ends. ``repr`` shows no key."""

    address: str
    server_key: str = dataclasses.field(repr=False)
    """Public."""
    public_key: str = dataclasses.field(repr=False)
    """Of the ranks."""
    secret_key: str = dataclasses.field(repr=False)
    """Of the ranks."""

    def write(self, path: Path) -> None:
        """Write the connection file, which its owner alone may read."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(dataclasses.asdict(self), file)

    @classmethod
    def read(cls, path: Path) -> Connection:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text()))


class Channel:
    """A socket and the thread that owns it: anybody may send, what comes is heard in the thread.

    Args:
        context: Closed with the channel.
        socket: Ready to use, and not connected yet where ``lost`` is given; a ROUTER's messages go to an identity and
            come from one.
        heard: Called with the identity of the sender (empty where the socket is no ROUTER) and the message.
        tick: Called about every ``tick_s`` seconds.
        ended: Called when the socket is closed.
        lost: Called once when the other end has been away for ``lost_s`` seconds.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        socket: zmq.Socket[Any],
        heard: Callable[[bytes, Message], None],
        *,
        tick: Callable[[], None] | None = None,
        tick_s: float = 0.05,
        ended: Callable[[], None] | None = None,
        lost: Callable[[], None] | None = None,
        lost_s: float = 0.0,
    ) -> None:
        self._context, self._socket, self._heard = context, socket, heard
        self._routes = socket.type == zmq.ROUTER
        self._tick, self._tick_s, self._ended = tick, tick_s, ended
        self._lost, self._lost_s = lost, lost_s
        self._away_since_s: float | None = time.monotonic()
        self._events: zmq.Socket[Any] | None = None
        if lost is not None:
            self._events = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._out: collections.deque[tuple[bytes, Message]] = collections.deque()
        self._wake_reads, self._wake_writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="deepseek-channel", daemon=True)

    def open(self) -> Channel:
        """Begin to listen."""
        self._thread.start()
        return self

    def send(self, message: Message, to: bytes = b"") -> None:
        """Send; returns at once."""
        self._out.append((to, message))
        self._wake()

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits to be sent, for so long at most, and end."""
        self._closing = True
        self._wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s + 1)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_writes, b"x")

    def _work(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_reads, zmq.POLLIN)
        looks = self._tick is not None or self._lost is not None
        wait_ms = int(1000 * self._tick_s) if looks else None
        due = time.monotonic() + self._tick_s
        events = self._events
        if events is not None:
            poller.register(events, zmq.POLLIN)
        while True:
            closing = self._closing
            poller.poll(0 if closing else wait_ms)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reads, 4096)
            while self._out:
                to, message = self._out.popleft()
                frames = [to, *message.frames()] if self._routes else message.frames()
                with contextlib.suppress(zmq.ZMQError):  # nobody of that identity is there any more
                    self._socket.send_multipart(frames, copy=False)
            if closing:
                break
            self._receive()
            if events is not None:
                self._look_away(events)
            if self._tick is not None and time.monotonic() >= due:
                self._guarded(self._tick)
                due = time.monotonic() + self._tick_s
        if events is not None:
            self._socket.disable_monitor()
            events.close(linger=0)  # else the context waits for it
        self._socket.close(linger=1000)
        if self._ended is not None:
            self._ended()
        self._context.term()
        os.close(self._wake_reads)
        os.close(self._wake_writes)

    def _look_away(self, events: zmq.Socket[Any]) -> None:
        """Whether the other end is there: connections are made anew for as long as it takes, so nobody else tells."""
        while events.poll(0):
            is_there = zmq.utils.monitor.recv_monitor_message(events)["event"] != zmq.EVENT_DISCONNECTED
            self._away_since_s = None if is_there else time.monotonic()
        away_s = 0.0 if self._away_since_s is None else time.monotonic() - self._away_since_s
        if self._lost is not None and away_s > self._lost_s:
            lost, self._lost = self._lost, None
            lost()

    def _receive(self) -> None:
        while True:
            try:
                frames: list[Any] = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            buffers = [frame.buffer for frame in frames]
            sender = bytes(buffers.pop(0)) if self._routes else b""
            self._guarded(lambda: self._heard(sender, Message.of(buffers)))  # noqa: B023 - called at once

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something whose failure is told, and costs whoever waits neither the next message nor the next tick."""
        try:
            action()
        except Exception:
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))


class _Allowed:
    """Who may connect: whoever holds the secret key of the connection file."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public_key


def listen(
    host: str, path: Path, heard: Callable[[bytes, Message], None], *, tick: Callable[[], None] | None = None
) -> Channel:
    """Listen at an address of this machine, at a port that is free, and write the connection file for the ranks.

    Raises:
        AddressError: it is no address of this machine.
    """
    context: zmq.Context[Any] = zmq.Context()
    authenticator = zmq.auth.thread.ThreadAuthenticator(context)
    authenticator.start()
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    authenticator.configure_curve_callback(credentials_provider=_Allowed(public))
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.curve_secretkey, socket.curve_publickey, socket.curve_server = server_secret, server_public, True
    place = f"tcp://[{host}]" if ":" in host else f"tcp://{host}"
    socket.setsockopt(zmq.IPV6, int(":" in host))
    try:
        port = socket.bind_to_random_port(place)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        authenticator.stop()
        context.term()
        raise AddressError(
            f"nothing can listen at {host}: {error.strerror}", hint="--listen, an address of this machine"
        ) from None
    Connection(f"{place}:{port}", server_public.decode(), public.decode(), secret.decode()).write(path)
    return Channel(context, socket, heard, tick=tick, ended=authenticator.stop).open()


def connect(
    connection: Connection,
    identity: bytes,
    heard: Callable[[bytes, Message], None],
    *,
    tick: Callable[[], None] | None = None,
    tick_s: float = 0.05,
    lost: Callable[[], None] | None = None,
    lost_s: float = 0.0,
) -> Channel:
    """Connect to a notebook; the other arguments are those of :class:`Channel`."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    if lost is not None:  # of a machine that is gone no system tells that its connections are
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
    socket.curve_serverkey = connection.server_key.encode()
    socket.curve_publickey = connection.public_key.encode()
    socket.curve_secretkey = connection.secret_key.encode()
    socket.setsockopt(zmq.IPV6, int("[" in connection.address))
    channel = Channel(context, socket, heard, tick=tick, tick_s=tick_s, lost=lost, lost_s=lost_s)
    socket.connect(connection.address)  # last: the channel has to see that it succeeds
    return channel
