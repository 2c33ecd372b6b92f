"""Which interface of this machine reaches the notebook, and which machine it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
"""Gives an interface's IPv4 address, netdevice(7)."""


def host_id() -> str:
    """The same for processes that reach each other without a network: those of one machine in one network namespace.

    ``DEEPSEEK_LAB_HOST`` in the environment says it instead.
    """
    if given := os.environ.get("DEEPSEEK_LAB_HOST"):
        return given
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/net").readlink()))
    return " ".join(parts)


def local_address(host: str, port: int) -> str:
    """The address from which this machine would reach another one; nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as one:
        one.connect(address)
        return str(one.getsockname()[0])


def interface(address: str) -> str:
    """Name of the interface that has an address of this machine; empty where none is found."""
    if ":" in address:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        return next((line.split()[-1] for line in lines if line.split()[0] == wanted), "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(one.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return "lo" if address.startswith("127.") else ""
