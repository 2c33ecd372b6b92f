"""Links of a known bandwidth on one machine: a network namespace for each rank, joined by a bridge, shaped by tbf.

Needs root, ``ip`` and ``tc``, and a kernel with network namespaces; says so where one is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator

import psutil

_NAME = f"dsl{os.getpid()}"
_NET = f"10.{96 + os.getpid() // 250 % 32}.{os.getpid() % 250}"
"""Of this process, so that two can emulate links at a time."""


class NoLinks(Exception):
    """This machine cannot emulate links; the message says why."""


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoLinks(f"{words[0]} is not installed (Debian: iproute2)") from None
    if done.returncode:
        raise NoLinks(f"{' '.join(words)}: {done.stderr.strip()}")


def address(rank: int) -> str:
    """Of a rank."""
    return f"{_NET}.{rank + 1}"


HOST = f"{_NET}.254"
"""Of the machine that they are on, which they reach at its full speed less their own."""


def inside(rank: int, words: list[str]) -> list[str]:
    """A command that runs where a rank is."""
    return ["ip", "netns", "exec", f"{_NAME}n{rank}", *words]


@contextlib.contextmanager
def links(num_ranks: int, mbit: float | None) -> Iterator[None]:
    """Ranks that reach each other at ``mbit`` Mbit/s in each direction of each port; None does not shape.

    Raises:
        NoLinks: it cannot be done here.
    """
    try:
        _sweep()
        _run("ip", "link", "add", f"{_NAME}b", "type", "bridge")
        _run("ip", "link", "set", f"{_NAME}b", "up")
        _run("ip", "addr", "add", f"{HOST}/24", "dev", f"{_NAME}b")
        for rank in range(num_ranks):
            space, near, far = f"{_NAME}n{rank}", f"{_NAME}v{rank}", f"{_NAME}e{rank}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
            _run("ip", "link", "set", near, "master", f"{_NAME}b", "up")
            _run("ip", "link", "set", far, "netns", space, "name", "eth0")
            for words in (
                ["ip", "addr", "add", f"{address(rank)}/24", "dev", "eth0"],
                ["ip", "link", "set", "eth0", "up"],
                ["ip", "link", "set", "lo", "up"],
            ):
                _run(*inside(rank, words))
        shape(num_ranks, mbit)
        yield
    finally:
        _remove(_NAME)


def _sweep() -> None:
    """Remove what processes have left behind that were killed: their bridge would get what is meant for ours."""
    found = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
    for pid in set(re.findall(r"\bdsl(\d+)b:", found)):
        if not psutil.pid_exists(int(pid)):
            _remove(f"dsl{pid}")


def _remove(name: str) -> None:
    # A namespace ends some time after it is deleted, and its links with it; these have two ends.
    ends = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
    for end in re.findall(rf"\b({name}v\d+)@", ends):
        subprocess.run(["ip", "link", "del", end], capture_output=True, check=False)
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=False).stdout
    for space in re.findall(rf"^({name}n\d+)\b", spaces, re.MULTILINE):
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", f"{name}b"], capture_output=True, check=False)


def shape(num_ranks: int, mbit: float | None) -> None:
    """Give links that are there another bandwidth; what goes over them goes on."""
    for rank in range(num_ranks):
        for words in (["dev", f"{_NAME}v{rank}"], ["dev", "eth0"]):
            if mbit is None:
                kind = ["pfifo", "limit", "1000"]
            else:
                kind = ["tbf", "rate", f"{mbit:.0f}mbit", "burst", "256kb", "latency", "50ms"]
            command = ["tc", "qdisc", "replace", *words, "root", *kind]
            _run(*(inside(rank, command) if words[1] == "eth0" else command))
