"""Studies from a kernel's own server: nothing without the token in the address, everything with it."""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek_lab.server.loopback import Loopback
from tests.server.served import NUM_TRIALS, SECRET, Sender, everything, routes, searched

NAME = "kernel"


@pytest.fixture(scope="module")
def study() -> Path:
    return searched(NAME)


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[Loopback]:
    made = Loopback()
    yield made
    made.close()


def contents(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_route_refuses_without_the_token(server: Loopback, study: Path) -> None:
    before, seen = contents(study), Counter[str]()
    wrong = [
        "",
        "/wrong",
        f"/{server.token[:-1]}",
        f"/{server.token}x",
        f"/{server.token.swapcase()}",
        f"/%{ord(server.token[0]):x}{server.token[1:]}",
        "/../" + server.token,
        "/%2e/" + server.token,
        "/x/%2e%2e/" + server.token,
        f"http://127.0.0.1/{server.token}",
    ]
    for root in wrong:
        ask = Sender(server.port, root)
        for method, path in everything(NAME) if root in {"", "/wrong"} else routes(NAME):
            reply = ask(method, path or "/", {"body": "x", "version": 1} if method != "GET" else None)
            assert reply.status == 403, f"{method} {root}{path}"
            assert SECRET not in reply.text
            seen[method] += 1
    for elsewhere in (
        f"/?token={server.token}",
        f"/{NAME}/api/studies?token={server.token}",
        f"/{NAME}#{server.token}",
    ):
        reply = Sender(server.port)(
            "GET", elsewhere, Authorization=f"token {server.token}", Cookie=server.token
        )
        assert reply.status == 403
    assert contents(study) == before
    print(f"\nwithout the token in its address: {dict(seen)} refused with 403")


def test_reads_and_writes_work_with_the_token(server: Loopback) -> None:
    ask = Sender(server.port, server.path(NAME).rstrip("/"))
    assert len(ask("GET", "/api/studies/0").data["trials"]) == NUM_TRIALS
    assert ask("PUT", "/api/studies/0/note", {"body": "from the kernel", "version": 1}).status == 204
    assert ask("GET", "/api/studies/0").data["note"]["body"] == "from the kernel"
    assert ask("PATCH", "/api/studies/0").status == 405
    head = ask("HEAD", "/api/studies/0")
    assert (head.status, head.body) == (200, b"")
    assert 'src="./static/bundle.js"' in ask("GET", "/dashboard").text
    assert ask("GET", "/static/bundle.js", Accept_Encoding="gzip").headers["content-encoding"] == "gzip"


def test_its_address_does_not_leave_the_page(server: Loopback) -> None:
    for method, path in routes(NAME):
        if method == "GET":
            headers = Sender(server.port, f"/{server.token}")(method, path).headers
            assert headers["referrer-policy"] == "no-referrer"
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers


def test_ways_from_page_to_page_are_relative(server: Loopback) -> None:
    ask = Sender(server.port, f"/{server.token}")
    assert ask("GET", "").headers["location"] == f"{server.token}/"
    assert f'<a href="{NAME}/">{NAME}</a>' in ask("GET", "/").text
    assert ask("GET", f"/{NAME}").headers["location"] == f"{NAME}/"
    assert ask("GET", f"/{NAME}/").headers["location"] == "dashboard/studies/0"
    assert ask("GET", f"/{NAME}/x/..%2f/").status == 400


@pytest.mark.parametrize(
    "header", ["Transfer-Encoding: chunked", "Content-Length: 99999999", "Content-Length: -1"]
)
def test_bodies_without_a_sensible_length_are_refused(server: Loopback, header: str) -> None:
    request = f"PUT {server.path(NAME)}api/studies/0/note HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sent:
        sent.sendall(request.encode())
        assert sent.recv(4096).startswith(b"HTTP/1.1 413")


def test_it_listens_on_this_machine_only_and_ends() -> None:
    server = Loopback()
    assert server._server.server_address[0] == "127.0.0.1"
    assert Sender(server.port)("GET", "/").status == 403
    server.close()
    with pytest.raises(OSError, match="refused"):
        Sender(server.port)("GET", "/")
