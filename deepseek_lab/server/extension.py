"""Studies in a Jupyter server: who may see and change them is decided as for its files, by its own parts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jupyter_server.auth.utils import HTTP_METHOD_TO_AUTH_ACTION
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async, url_path_join
from tornado import web

from deepseek_lab.hpo import places
from deepseek_lab.server.beside import ROOM, Beside
from deepseek_lab.server.messages import METHODS, Answer, Request
from deepseek_lab.server.studies import Studies, is_page

_NUM_THREADS = 8


def load(server: Any) -> None:
    """Add the studies to a server that starts, and tell its kernels."""
    application = server.web_app
    base_url = application.settings["base_url"]
    root = url_path_join(base_url, ROOM)
    options = {
        "root": root,
        "studies": Studies(),
        "pool": ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="studies"),
    }
    application.add_handlers(".*$", [(re.escape(root) + "(?:/.*)?", StudiesHandler, options)])
    if all(importlib.util.find_spec(package) for package in ("optuna", "optuna_dashboard")):
        folder = str(places.folder().resolve())
        Beside(os.getpid(), base_url, folder, getattr(server, "info_file", "")).advertise()


class StudiesHandler(JupyterHandler):
    """Lets in whom the server lets in, by token or cookie; whatever is asked is asked of Optuna in another thread.

    A reader without a token is sent to the login page from pages and refused everywhere else. A request with a cookie
    that writes must carry the server's XSRF token, and none may come from another site.
    """

    SUPPORTED_METHODS = METHODS
    auth_resource = "deepseek_lab"
    """What the server's authoriser is asked for; reading and writing are told apart."""

    def initialize(self, root: str, studies: Studies, pool: ThreadPoolExecutor) -> None:
        """Called by Tornado with what :func:`load` gave."""
        self._root, self._studies, self._pool = root, studies, pool

    @property
    def _path(self) -> str:
        return str(self.request.path).removeprefix(self._root)

    def get_login_url(self) -> str:
        """Where a person may say who they are.

        Raises:
            HTTPError: 403, to what a page asks for.
        """
        if not is_page(self._path):
            raise web.HTTPError(403)
        return super().get_login_url()

    async def prepare(self) -> None:  # type: ignore[override]
        """Check host, user and XSRF token as the server does, then the origin as its API does."""
        await super().prepare()
        if not self._finished and not self.check_origin():
            raise web.HTTPError(404)

    @web.authenticated
    async def answer(self) -> None:
        """Any method at any path."""
        # not by the server's decorator, which keeps the action of the first request for all later ones
        action = HTTP_METHOD_TO_AUTH_ACTION[self.request.method]
        allowed = self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)
        if not await ensure_async(allowed):
            raise web.HTTPError(403)
        if not self._path:
            self._send(Answer.redirect(f"{self._root.rpartition('/')[2]}/"))
            return
        request = Request(
            method=self.request.method,
            path=self._path,
            query=self.request.query,
            body=self.request.body,
            content_type=self.request.headers.get("Content-Type", ""),
            zips="gzip" in self.request.headers.get("Accept-Encoding", ""),
        )
        loop = asyncio.get_running_loop()
        self._send(await loop.run_in_executor(self._pool, self._studies.answer, request))

    get = head = post = put = patch = delete = options = answer

    def _send(self, answer: Answer) -> None:
        self.set_status(answer.status)
        self.clear_header("Content-Type")
        self.set_header("Cache-Control", "no-cache" if "/static/" in self._path else "no-store")
        self.set_header("Referrer-Policy", "same-origin")
        for name, value in answer.headers.items():
            # a second policy beside the server's own: both hold
            put = self.add_header if name == "content-security-policy" else self.set_header
            put(name, value)
        if is_page(self._path):
            self.xsrf_token  # noqa: B018  # sets the cookie that the page's script sends back
        self.finish(answer.body or None)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As the server's pages, or as the dashboard's script understands it."""
        if is_page(self._path):
            super().write_error(status_code, **kwargs)
            return
        self.set_header("Content-Type", "application/json")
        reason = "the server refuses that; log in to it again" if status_code == 403 else self._reason
        self.finish(json.dumps({"reason": reason}))
