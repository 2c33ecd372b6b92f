"""From what was typed to what starts ranks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook.parse import Command

if TYPE_CHECKING:
    from deepseek_lab.distributed.launchers import Batch, Launcher

_ELSEWHERE = ("python", "listen")
_TAKES = {
    "local": (),
    "ssh": (*_ELSEWHERE, "hosts", "ssh-options"),
    "slurm": (*_ELSEWHERE, "profile", "wait", "folder"),
    "pbs": (*_ELSEWHERE, "profile", "wait", "folder"),
    "kubernetes": (*_ELSEWHERE, "profile", "wait"),
}
"""Flags of each launcher."""


def launcher_of(command: Command) -> Launcher:
    """What is to start ranks.

    Raises:
        UsageError: a flag belongs to another launcher.
        DeepseekError: it cannot be used here.
    """
    from deepseek_lab.distributed.launchers import Local, Ssh

    name = _name(command)
    if name == "local":
        return Local()
    if name == "ssh":
        hosts = command.get("hosts")
        options = shlex.split(command.text("ssh-options") or "")
        return Ssh(hosts if isinstance(hosts, tuple) else (), options=options, **_elsewhere(command))
    return _batch(name, command)


def script(command: Command) -> str:
    """What a batch system would be given.

    Raises:
        UsageError: no batch system was named, or not how many ranks.
    """
    name = _name(command)
    num = command.number("num")
    if name in {"local", "ssh"} or num is None:
        raise UsageError(
            "a script is for a batch system and a number of ranks",
            hint="%deepseek ranks script --launcher slurm -n 16",
        )
    return _batch(name, command).script(int(num))


def default_num(command: Command) -> int | None:
    """As many ranks as hosts were named; None where something else says how many.

    Raises:
        UsageError: a batch system was named, which has no number of its own.
    """
    from deepseek_lab.distributed.launchers import Ssh

    name = _name(command)
    if name == "ssh":
        made = launcher_of(command)
        assert isinstance(made, Ssh)
        return made.num_places
    if name != "local":
        raise UsageError(
            f"{name} needs to know how many ranks", hint=f"%deepseek ranks start --launcher {name} -n 4"
        )
    return None


def _name(command: Command) -> str:
    name = command.text("launcher") or ("ssh" if command.has("hosts") else "local")
    for flag in {flag for flags in _TAKES.values() for flag in flags}:
        if command.has(flag) and flag not in _TAKES[name]:
            takes = " or ".join(one for one, flags in _TAKES.items() if flag in flags)
            raise UsageError(f"--{flag} is not for {name} ranks", hint=f"--launcher {takes} --{flag} ...")
    return name


def _elsewhere(command: Command) -> dict[str, Any]:
    return {name: command.text(name) for name in _ELSEWHERE}


def _batch(name: str, command: Command) -> Batch:
    from deepseek_lab.distributed.launchers import Kubernetes, Pbs, Slurm

    options = _elsewhere(command)
    for flag in ("profile", "folder"):
        if (text := command.text(flag)) is not None:
            options[flag] = Path(text).expanduser()
    if (wait_s := command.number("wait")) is not None:
        options["wait_s"] = wait_s
    kinds: dict[str, type[Batch]] = {one.name: one for one in (Slurm, Pbs, Kubernetes)}
    return kinds[name](**options)
