"""The studies of the store, each an optuna-dashboard of its own, as answers to requests.

Whoever asks has been let in before; nothing here looks at who it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import threading
import weakref
from typing import Any, BinaryIO

from deepseek_lab.base.errors import DeepseekError, MissingPackageError, TargetError
from deepseek_lab.hpo import places
from deepseek_lab.server import frontend, pages
from deepseek_lab.server.messages import Answer, Application, NoAddress, Request, call

_AT_ONCE_S = 0.3
"""How long a page may keep its reader waiting before it says why."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study that has been looked at."""

    file: BinaryIO
    """Held open, so that no other file gets its number: another file of the same name is another study."""
    storage: Any
    application: Application


class Studies:
    """Answers by study; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[str, Opened] = {}
        self._scripts: dict[bool, Answer] = {}
        """By whether it is compressed."""
        self._loading: threading.Thread | None = None
        self._loaded = threading.Event()
        self._failed: DeepseekError | None = None

    def answer(self, request: Request) -> Answer:
        """What is to be sent back; takes as long as Optuna does."""
        try:
            found = self._answer(request)
        except NoAddress:
            found = _refused(request, 400, "this is no address of a study")
        except DeepseekError as error:
            found = _refused(request, 503, error.message, error.hint)
        return found.zipped(request)

    def _answer(self, request: Request) -> Answer:
        name, *rest = request.parts()
        self._load()
        if not name:
            return pages.listed([(one, places.file_of(one)) for one in places.names() if places.is_name(one)])
        if not places.is_name(name) or not places.file_of(name).is_file():
            return _refused(request, 404, f"there is no study {name!r}", "%deepseek hpo list")
        if not rest:
            return Answer.redirect(f"{request.path.rpartition('/')[2]}/")
        if is_page(request.path) and not self._loaded.wait(_AT_ONCE_S):
            return pages.waiting()
        self._loaded.wait()
        if self._failed is not None:
            raise self._failed
        opened = self._open(name)
        if rest == [""]:
            return Answer.redirect(_first(opened, name))
        return self._dashboard(opened, request, "/".join(["", *rest]))

    def _dashboard(self, opened: Opened, request: Request, path: str) -> Answer:
        if path == f"/{frontend.SCRIPT}" and request.method in {"GET", "HEAD"}:
            return self._script(opened, request)
        found = call(opened.application, request, path)
        if found.content_type == "text/html":
            return dataclasses.replace(found, body=frontend.page(found.body.decode(), path).encode())
        return found

    def _script(self, opened: Opened, request: Request) -> Answer:
        """The dashboard's script; it is large and the same for all studies."""
        with self._lock:
            if request.zips not in self._scripts:
                found = call(opened.application, request, f"/{frontend.SCRIPT}")
                version = importlib.import_module("optuna_dashboard").__version__
                text = frontend.script(found.body.decode(), version)
                self._scripts[request.zips] = dataclasses.replace(found, body=text.encode()).zipped(request)
            return self._scripts[request.zips]

    def _open(self, name: str) -> Opened:
        with self._lock:
            try:
                file = places.file_of(name).open("rb")
            except OSError:
                self._opened.pop(name, None)
                raise TargetError(f"there is no study {name!r}", hint="%deepseek hpo list") from None
            known = self._opened.get(name)
            if known is not None and os.path.sameopenfile(known.file.fileno(), file.fileno()):
                file.close()
                return known
            with contextlib.ExitStack() as failed:
                failed.callback(file.close)
                from optuna_dashboard import wsgi

                from deepseek_lab.hpo.record import storage_of

                storage = storage_of(name, None)
                opened = Opened(file, storage, wsgi(storage))
                failed.pop_all()
            weakref.finalize(opened, file.close)
            self._opened[name] = opened
            return opened

    def _load(self) -> None:
        """Import Optuna and its dashboard beside everything else, if that has not begun."""
        with self._lock:
            if self._loading is not None and (self._failed is None or self._loading.is_alive()):
                return
            self._failed = None
            self._loaded.clear()
            self._loading = threading.Thread(target=self._import, name="studies", daemon=True)
            self._loading.start()

    def _import(self) -> None:
        try:
            for package in ("optuna", "optuna_dashboard"):
                try:
                    importlib.import_module(package)
                except ImportError:
                    raise MissingPackageError(package, extra="hpo", needed_for="a page of studies") from None
            importlib.import_module("deepseek_lab.hpo.record")
        except DeepseekError as error:
            self._failed = error
        finally:
            self._loaded.set()


def is_page(path: str) -> bool:
    """Whether a person looks at what is there, who can be sent elsewhere; all else is asked for by a page."""
    parts = path.split("/")[2:]
    return not parts or parts[0] in {"", "dashboard"}


def _first(opened: Opened, name: str) -> str:
    """The page of the study itself, or the list of what its file has where it was renamed."""
    try:
        return f"dashboard/studies/{opened.storage.get_study_id_from_name(name)}"
    except KeyError:
        return "dashboard"


def _refused(request: Request, status: int, message: str, hint: str = "") -> Answer:
    """As a page for a person, and in the way that the dashboard's script understands."""
    if is_page(request.path):
        return pages.refusal(status, message, hint)
    reason = f"{message}; try: {hint}" if hint else message
    return Answer(status, json.dumps({"reason": reason}).encode(), {"content-type": "application/json"})
