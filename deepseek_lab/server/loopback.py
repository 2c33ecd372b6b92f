"""Studies from a kernel whose Jupyter server does not show them: at 127.0.0.1, behind a token in the address.

The token stands in the path, not in a cookie: it holds on every route, through a forwarded port and inside of a frame
of another site, where browsers send no cookies, and no other page can guess it, whatever it calls this host.
"""

from __future__ import annotations

import functools
import hmac
import logging
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

from deepseek_lab.server import pages
from deepseek_lab.server.messages import LOG, METHODS, Answer, Request
from deepseek_lab.server.studies import Studies

_MAX_BODY_BYTES = 16 * 2**20
_IDLE_S = 60


class Loopback:
    """A server in threads of this process; it ends with the process, or with :meth:`close`."""

    def __init__(self) -> None:
        for log in (LOG, logging.getLogger("optuna_dashboard")):
            log.addHandler(logging.NullHandler())  # without one, errors would be printed into a cell
        self.token = secrets.token_urlsafe(32)
        self._server = _Server(self.token)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="studies", daemon=True).start()

    def path(self, name: str | None) -> str:
        """Of a study, or of the list of studies; whoever knows it may read and change them."""
        return f"/{self.token}/" + (f"{quote(name, safe='')}/" if name else "")

    def url(self, name: str | None) -> str:
        """The same as an address for this machine."""
        return f"http://127.0.0.1:{self.port}{self.path(name)}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@functools.cache
def loopback() -> Loopback:
    """The one of this process."""
    return Loopback()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, token: str) -> None:
        self.token = token
        self.studies = Studies()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is none; nothing may be printed into a cell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: _Server

    def answer(self) -> None:
        """Any method at any path."""
        path, _, query = self.path.partition("?")
        first, slash, rest = path.removeprefix("/").partition("/")
        if not path.startswith("/") or not hmac.compare_digest(first.encode(), self.server.token.encode()):
            self.close_connection = True  # what it has still to say is not read
            hint = "%deepseek hpo dashboard"
            self._send(pages.refusal(403, "the address of the studies has a token in it", hint))
            return
        body = self._body()
        if body is None:
            self.close_connection = True
            self._send(pages.refusal(413, f"more than {_MAX_BODY_BYTES} bytes, or of no stated length"))
            return
        if not slash:
            self._send(Answer.redirect(f"{first}/"))
            return
        request = Request(
            method=self.command,
            path=f"/{rest}",
            query=query,
            body=body,
            content_type=self.headers.get("Content-Type", ""),
            zips="gzip" in self.headers.get("Accept-Encoding", ""),
        )
        self._send(self.server.studies.answer(request))

    def _body(self) -> bytes | None:
        if "Transfer-Encoding" in self.headers:
            return None
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            return None
        return self.rfile.read(int(length))

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        headers = {
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            **answer.headers,
        }
        if self.close_connection:
            headers["connection"] = "close"
        if answer.status != 204:
            headers["content-length"] = str(len(answer.body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and answer.status != 204:
            self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Nothing: it would be printed into a cell."""


for _method in METHODS:
    setattr(_Handler, f"do_{_method}", _Handler.answer)
