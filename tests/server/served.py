"""A real Jupyter server, a study to look at, and requests that are sent as they stand."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_lab.hpo import places
from deepseek_lab.hpo.record import Entry, Record, new_config, storage_of
from deepseek_lab.hpo.spaces import Space
from deepseek_lab.server.messages import METHODS

ROOT = Path(__file__).resolve().parents[2]
NUM_TRIALS = 12
SECRET = "narrowest"
"""A parameter of the study: in no answer to whoever may not read it."""


def searched(name: str) -> Path:
    """A study with trials, as a search writes it; returns its file."""
    record = Record(name)
    record.begin("accuracy = train()", "<cell>", ("accuracy",), ("max",))
    record.known(SECRET, Space("log", 1e-4, 1.0, default=0.1))
    for number in range(NUM_TRIALS):
        value = 10 ** (-4 * number / NUM_TRIALS)
        record.add(
            Entry(new_config(), "search", {SECRET: value}, "complete", (1 - abs(value - 0.1),), seconds=1.0)
        )
    return places.file_of(name)


@dataclasses.dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Sender:
    """Sends paths as they are given, each with the headers given here unless it has its own."""

    def __init__(self, port: int, root: str = "", **headers: str) -> None:
        self.port, self.root = port, root
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> Reply:
        """Ask at a path below the root; ``data`` is sent as JSON, and a header of ``""`` is not sent."""
        sent = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if data is None else json.dumps(data).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(method, self.root + path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            response = connection.getresponse()
            names = {name.lower() for name in response.headers}
            found = {name: ", ".join(response.headers.get_all(name) or []) for name in names}
            cookies = response.headers.get_all("Set-Cookie") or []
            return Reply(response.status, found, cookies, response.read())


class Jupyter:
    """A server of its own settings, at a base URL, with the extension as the package configures it."""

    def __init__(self, folder: Path, base_url: str = "/x/y/") -> None:
        self.token, self.base_url = secrets.token_hex(16), base_url
        self.port = 0
        self.runtime = folder / "runtime"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JUPYTER_CONFIG_PATH": str(ROOT / "jupyter-config"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_TOKEN": self.token,
        }
        options = [f"--ServerApp.base_url={base_url}", f"--ServerApp.root_dir={folder}"]
        options.append("--ServerApp.authorizer_class=tests.server.authorizer.ByHeader")
        options += [f"--ServerApp.port={_free_port()}", "--allow-root", "--no-browser"]
        self.log = (folder / "log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *options],
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait()

    def sender(self, root: str = "deepseek-lab/studies", **headers: str) -> Sender:
        """Requests to a part of the server; without further headers nobody is logged in."""
        return Sender(self.port, self.base_url + root, **headers)

    def allowed(self, root: str = "deepseek-lab/studies", **headers: str) -> Sender:
        """Requests with the token."""
        return self.sender(root, Authorization=f"token {self.token}", **headers)

    def said(self) -> str:
        """Its log."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self) -> None:
        """End it and its kernels."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def _wait(self) -> None:
        told = self.runtime / f"jpserver-{self.process.pid}.json"
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                # another one than was asked for, where somebody took that meanwhile
                self.port = json.loads(told.read_text())["port"]
                if self.sender("api")("GET", "").status == 200:
                    return
            time.sleep(0.05)
        said = self.said()
        self.stop()
        raise AssertionError(f"the server does not answer:\n{said}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def routes(name: str) -> Iterator[tuple[str, str]]:
    """Methods and paths, with real numbers in them, of all that optuna-dashboard answers for a study."""
    from optuna_dashboard import wsgi

    storage = storage_of(name, None)
    study = storage.get_study_id_from_name(name)
    trial = storage.get_all_trials(study, deepcopy=False)[0]._trial_id
    known = {
        "study_id": str(study),
        "trial_id": str(trial),
        "history_id": str(uuid.UUID(int=0)),
        "artifact_id": "0-0",
        "plot_type": "contour",
        "filename": "bundle.js",
        "": "/studies/0",
    }
    application = wsgi(storage)
    for route in application.routes:
        path = re.sub(r"<(\w*)(?::[^>]*)?>", lambda found: known[found[1]], route.rule)
        found, _ = application.match({"PATH_INFO": path, "REQUEST_METHOD": route.method})
        assert found is route, f"{path} is not {route.rule}"
        yield route.method, f"/{name}{path}"


def everything(name: str) -> list[tuple[str, str]]:
    """Every method at every path of a study, and at what stands around it."""
    paths = dict.fromkeys(path for _, path in routes(name))
    around = ["", "/", f"/{name}", f"/{name}/", f"/{name}/static/", f"/{name}/nothing", "/nothing/"]
    return [(method, path) for path in [*around, *paths] for method in METHODS]
