"""Ranks on machines that OpenSSH reaches, as the user's own ``ssh`` does: keys, agents and ~/.ssh/config are its.

What a rank needs, keys too, goes over ssh's standard input to its keeper and stays in memory there. That input stays
open: when the notebook ends, however it does, it ends, and with it the rank.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.distributed.channel import Connection
from deepseek_lab.distributed.launchers.launcher import Process, Site, Start, tail
from deepseek_lab.distributed.launchers.remote import Remote, RemoteProcess
from deepseek_lab.distributed.worker.keeper import Task
from deepseek_lab.distributed.worker.network import local_address

_OPTIONS = {
    "BatchMode": "yes",  # a question could not be answered
    "ConnectTimeout": "15",
    "ControlMaster": "no",  # a master outlives the ranks
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "4",
}
_SSH_FAILED = 255
"""Exit status of ssh when it, and not the command, has failed; ssh(1)."""
_SHELL = 'ssh "$@"; s=$?; read -r _ _ _ parent _ </proc/$$/stat; [ "$parent" = "$PPID" ] || rm -rf -- "$0"; exit $s'
"""Removes the folder of the ranks when the notebook has ended and could not do so."""


class SshError(DeepseekError):
    """A host cannot be used."""


class Ssh(Remote):
    """Starts ranks on other machines, one after the other around the hosts.

    Args:
        hosts: ``user@name:port*count`` each; user, port and count may be left out. Names may be those of ssh's
            configuration. With counts, each host takes so many ranks in a row, and no more are added later.
        python: Interpreter on the hosts, with this package; by default the path of this one.
        options: Words for ssh, before those that are used anyway: ``["-i", "key"]``.
        listen: Address of this machine at which the hosts reach it; by default that from which it reaches the first
            host that is not itself.

    Raises:
        SshError: no host was given, or what was given is none.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        python: str | None = None,
        options: Sequence[str] = (),
        listen: str | None = None,
    ) -> None:
        self._hosts = [name for host in hosts for name in _expanded(host)]
        if any("*" in host for host in hosts):
            self.most = len(self._hosts)
        if not self._hosts:
            raise SshError("no hosts were given", hint="%deepseek ranks start --launcher ssh --hosts a,b")
        if shutil.which("ssh") is None:
            raise SshError("ssh is not on this machine", hint="install OpenSSH's client")
        self._python = python or sys.executable
        self._options = list(options)
        name, port = _split(self._hosts[0])
        words = ["ssh", *self._options, *(["-p", port] if port else []), name, self._python]
        self.hint = f"{shlex.join(words)} -c 'import deepseek_lab', in a terminal"
        self.host = listen or self._own_address()

    def open(self, site: Site) -> None:
        """Take note of what the notebook has."""
        super().open(site)
        self._connection = Connection.read(site.connection)
        self._running: list[subprocess.Popen[bytes]] = []

    def launch(self, starts: Sequence[Start]) -> list[Process]:
        """Start an ssh for each rank."""
        return [self._process(start) for start in starts]

    def close(self) -> None:
        """Wait for all ssh to end."""
        super().close()
        for ssh in self._running:
            _close(ssh.stdin)
            try:
                ssh.wait(3)
            except subprocess.TimeoutExpired:  # the network is down
                os.killpg(ssh.pid, 9)
                ssh.wait()

    @property
    def num_places(self) -> int:
        """How many ranks there are before a host has its second turn."""
        return len(self._hosts)

    def _host_of(self, rank: int) -> str:
        return self._hosts[rank % len(self._hosts)]

    def _process(self, start: Start) -> RemoteProcess:
        host = self._host_of(start.rank)
        num_sharing = sum(self._host_of(rank) == host for rank in range(self._site.num_ranks))
        task = Task(self._connection, start.identity, num_sharing, directory=str(Path.cwd()))
        remote = [self._python, "-m", "deepseek_lab.distributed.worker.keeper", "--stdin"]
        words = ["sh", "-c", _SHELL, str(self._site.folder), *self._ssh(host), f"exec {shlex.join(remote)}"]
        log = self._site.folder / f"{start.identity}.log"
        with log.open("wb") as file:
            ssh = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
            )
        self._running.append(ssh)
        assert ssh.stdin is not None
        stdin = ssh.stdin
        process = self._keep(start, end=lambda: _close(stdin))
        with contextlib.suppress(OSError):  # it has ended, which is told below
            stdin.write(task.line())
            stdin.flush()
        threading.Thread(
            target=self._watch, args=(ssh, process, host, log), name=f"deepseek-{start.identity}", daemon=True
        ).start()
        return process

    def _watch(self, ssh: subprocess.Popen[bytes], process: RemoteProcess, host: str, log: Path) -> None:
        status = ssh.wait()
        _close(ssh.stdin)
        if process.spoke and process.wait(2):  # its keeper has told
            return
        words = tail(log.read_bytes()) if log.exists() else ""
        if status == _SSH_FAILED or status > 128:  # a signal to the rank would have been told by its keeper
            what = "lost its connection" if process.spoke else "could not be started: ssh failed"
        else:
            what = f"ended with exit status {status}"
        process.end(what if process.spoke else f"{what} on {host}", words)

    def _ssh(self, host: str) -> list[str]:
        name, port = _split(host)
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        return ["-T", *self._options, *options, *(["-p", port] if port else []), "--", name]

    def _own_address(self) -> str:
        """From which this machine reaches the hosts; that of the loopback only if all are this machine."""
        found = "127.0.0.1"
        for host in dict.fromkeys(self._hosts):
            name, _ = _split(host)
            told = subprocess.run(
                ["ssh", *self._options, "-G", "--", name], capture_output=True, text=True, check=False
            )
            if told.returncode:
                raise SshError(f"ssh does not know what to do with {host}: {told.stderr.strip()}")
            real = next(line.split()[1] for line in told.stdout.splitlines() if line.startswith("hostname "))
            try:
                address = local_address(real, 22)
            except OSError as error:
                raise SshError(
                    f"{real} cannot be found: {error.strerror}", hint="--listen, this machine's address"
                ) from None
            if not address.startswith("127.") and address != "::1":
                return address
        return found


def _expanded(host: str) -> list[str]:
    name, star, count = host.partition("*")
    if not name or name.startswith("-") or (star and not count.isdecimal()):
        raise SshError(f"{host!r} is no host", hint="--hosts user@name:port*2,other")
    return [name] * int(count or 1)


def _split(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdecimal() else (host, "")


def _close(stdin: IO[bytes] | None) -> None:
    with contextlib.suppress(OSError):
        if stdin is not None:
            stdin.close()
