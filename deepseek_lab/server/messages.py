"""What comes in and goes out, whichever server carries it, and an application that is called with it."""

from __future__ import annotations

import dataclasses
import gzip
import io
import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""WSGI, PEP 3333."""
_KEPT = {
    "allow",
    "content-disposition",
    "content-encoding",
    "content-security-policy",
    "content-type",
    "location",
}
"""Headers of an application that go on: who may read an answer is for the server to say, not for it."""
_HOST = "studies.invalid"
"""What an application is told that it is called: nothing that a browser says can get into its answers."""
_SMALL = 1024
LOG = logging.getLogger("deepseek_lab.server")


class NoAddress(ValueError):
    """A path that could mean something else to another part of the way."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request whose sender has been let in."""

    method: str
    path: str
    """As it was sent, without what stands before the list of studies: ``/digits/api/studies/0``."""
    query: str = ""
    body: bytes = b""
    content_type: str = ""
    zips: bool = False
    """Whether the answer may be compressed."""

    def parts(self) -> list[str]:
        """The path, decoded once: ``["digits", "api", "studies", "0"]``; an empty last part is a slash at its end.

        Raises:
            NoAddress: a part is empty, a dot or two, or hides a slash.
        """
        parts = []
        *middle, last = self.path.removeprefix("/").split("/")
        for raw in (*middle, last):
            try:
                part = unquote(raw, errors="strict")
            except UnicodeDecodeError:
                raise NoAddress(self.path) from None
            if part in {".", ".."} or any(one in "/\\" or ord(one) < 32 for one in part):
                raise NoAddress(self.path)
            parts.append(part)
        if "" in parts[:-1]:
            raise NoAddress(self.path)
        return parts


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes back; names of headers are in small letters."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def redirect(cls, place: str) -> Answer:
        """Go to a place given relative to where the request went: only the browser knows what stands before that."""
        return cls(302, headers={"location": place})

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip()

    def zipped(self, request: Request) -> Answer:
        """Compressed where that is understood and worth it."""
        textual = self.content_type.startswith("text/") or self.content_type.endswith(("json", "javascript"))
        if not request.zips or not textual or len(self.body) < _SMALL or "content-encoding" in self.headers:
            return self
        return dataclasses.replace(
            self,
            body=gzip.compress(self.body, compresslevel=5, mtime=0),
            headers=self.headers | {"content-encoding": "gzip", "vary": "Accept-Encoding"},
        )


def call(application: Application, request: Request, path: str) -> Answer:
    """What a WSGI application answers; it takes as long as the application does.

    Args:
        application: Such as optuna-dashboard.
        request: What is asked. HEAD is asked as GET, as only so its headers are right.
        path: Where, decoded, as the application knows it.
    """
    errors = io.StringIO()
    environ = {
        "REQUEST_METHOD": "GET" if request.method == "HEAD" else request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
        "CONTENT_TYPE": request.content_type,
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": _HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": _HOST,
        "HTTP_ACCEPT_ENCODING": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": errors,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    body: list[bytes] = []
    status, headers = 500, {}

    def start(line: str, listed: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
        nonlocal status, headers
        status = int(line.split()[0])
        headers = {name.lower(): value for name, value in listed if name.lower() in _KEPT}
        return body.append

    given = application(environ, start)
    try:
        body.extend(given)
    finally:
        if (close := getattr(given, "close", None)) is not None:
            close()
    if said := errors.getvalue():
        LOG.error("%s %s: %s", request.method, path, said)
    if "location" in headers:
        headers["location"] = _relative(headers["location"], path)
    return Answer(status, b"".join(body), headers)


def _relative(location: str, path: str) -> str:
    """A place within an application, seen from a path within it."""
    place = location.removeprefix(f"http://{_HOST}").removeprefix("/")
    return up(path) + place


def up(path: str) -> str:
    """The way from a path within an application to its top: ``./`` from ``/a``, ``../`` from ``/a/b`` and ``/a/``."""
    return "../" * (path.count("/") - 1) or "./"
