from __future__ import annotations

import dataclasses
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deepseek_lab.distributed.channel import Connection
from deepseek_lab.distributed.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Sshd:
    """A server of OpenSSH on this machine, with keys of its own."""

    host: str
    """For ``--hosts``."""
    options: list[str]
    """For ssh."""


@pytest.fixture(scope="package")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that lets in whoever runs the tests, with a key."""
    program = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd on this machine (Debian: openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd(8) of root wants it
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "StrictModes no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    server = subprocess.Popen([program, "-D", "-f", folder / "config", "-E", folder / "log"])
    until = time.monotonic() + 10
    while not listens(port) and time.monotonic() < until:
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    options = ["-F", "/dev/null", "-i", str(folder / "user"), "-o", f"UserKnownHostsFile={folder}/known"]
    yield Sshd(f"{getpass.getuser()}@127.0.0.1:{port}", options)
    server.terminate()
    server.wait()


def listens(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def gone(pids: list[int], limit_s: float = 20) -> bool:
    """Whether processes end within the time."""
    until = time.monotonic() + limit_s
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(psutil.pid_exists(pid) for pid in pids)


def places_of_the_key(ranks: Ranks) -> list[str]:
    """Files of processes and of the ranks' folder that show the secret key, the connection file left out."""
    secret = Connection.read(ranks._folder / "connection.json").secret_key.encode()
    mine = [one for one in psutil.process_iter() if b"deepseek" in _read(Path(f"/proc/{one.pid}/cmdline"))]
    mine += psutil.Process().children(recursive=True)
    paths = [Path(f"/proc/{one.pid}/{name}") for one in mine for name in ("cmdline", "environ")]
    assert any(b"keeper" in _read(path) for path in paths)
    paths += [path for path in ranks._folder.rglob("*") if path.name != "connection.json"]
    return [str(path) for path in paths if secret in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
