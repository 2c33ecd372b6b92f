"""A live run in front ends that have widgets and not our extension: Colab, VS Code, a JupyterLab without it.

The module that draws is sent once per kernel, as a trait of one model; each live run is another model, with its saved
views and the whole run as it stands. So a view that comes late, or after a page was loaded again, needs nothing else.
Such a page can ask a kernel to stop a run only while the kernel listens; a busy one is interrupted by the notebook's
own button.

A batch run, which nobody watches, gets no widget: its notebook would keep the module.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import threading
import zlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from deepseek_lab.views import _page, live

MIME = "application/vnd.jupyter.widget-view+json"


def wanted() -> bool:
    """Whether somebody may watch who has widgets and not our extension."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    # A person can be asked for input; what executes notebooks in a batch says that it cannot.
    return kernel is not None and getattr(kernel, "_allow_stdin", True) and not live.heard_from_page()


@functools.cache
def _script(name: str) -> str | None:
    found = resources.files("deepseek_lab.views") / "_static" / f"{name}.js"
    return found.read_text(encoding="utf-8") if found.is_file() else None


@functools.cache
def _classes() -> tuple[Any, Any] | None:
    """The classes of the two models; None where the front end was not built or there are no widgets."""
    module, loader = _script("widget"), _script("widget-loader")
    try:
        import anywidget
        import ipywidgets
        import traitlets
    except ImportError:
        return None
    if module is None or loader is None:
        return None
    code = base64.b64encode(zlib.compress(module.encode(), 9)).decode("ascii")

    class Library(anywidget.AnyWidget):
        """The module that draws."""

        _esm = "export default {}"
        code = traitlets.Unicode().tag(sync=True)

    class LiveRun(anywidget.AnyWidget):
        """One live run."""

        _esm = loader
        library = traitlets.Instance(Library).tag(sync=True, **ipywidgets.widget_serialization)
        digest = traitlets.Unicode(hashlib.sha256(code.encode()).hexdigest()[:16]).tag(sync=True)
        payload = traitlets.Dict().tag(sync=True)
        packed = traitlets.Unicode().tag(sync=True)
        stopping = traitlets.Bool(False).tag(sync=True)

    return functools.cache(lambda: Library(code=code)), LiveRun


class LiveWidget:
    """A run that a widget follows from now on, until it ends or :meth:`close`.

    Args:
        source: The run.
        payload: What the output shows of it, as data.
    """

    def __init__(self, source: live.Source, payload: Mapping[str, Any]) -> None:
        classes = _classes()
        if classes is None:
            raise RuntimeError("widgets need anywidget and the built front end")
        library, live_run = classes
        self._source = source
        self._model = live_run(library=library(), payload=dict(payload))
        self._model.on_msg(self._heard)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._follow, name="deepseek-widget", daemon=True).start()

    @property
    def data(self) -> dict[str, Any]:
        """What an output needs to show it."""
        return {MIME: {"version_major": 2, "version_minor": 0, "model_id": self._model.model_id}}

    @property
    def metadata(self) -> dict[str, Any]:
        """What Colab needs beside that."""
        made = self._model._repr_mimebundle_()
        return made[1] if isinstance(made, tuple) else {}

    def show(self, bundle: Mapping[str, Any]) -> None:
        """The run has other views now."""
        payload = bundle.get(_page.MIME, {})
        with self._lock, contextlib.suppress(Exception):  # the page or the kernel's sockets may be gone
            if not self._closed.is_set():
                self._model.payload = dict(payload)

    def close(self) -> None:
        """Leave nothing behind that is live; the output was replaced before."""
        self._closed.set()
        with self._lock, contextlib.suppress(Exception):
            self._model.close()

    def _heard(self, _: Any, content: Any, __: Any) -> None:
        if not isinstance(content, dict):
            return
        live.wish(self._source, content)
        if content.get("do") == "stop":
            self._model.stopping = True

    def _follow(self) -> None:
        source, whole = self._source, live.Whole(self._source)
        while not self._closed.wait(live.PERIOD_S) and not source.ended():
            if (packed := whole.news()) is None:
                continue
            with self._lock:
                if self._closed.is_set():
                    return
                try:
                    self._model.packed = packed
                except Exception:  # the kernel's sockets are gone
                    return


def live_widget(source: live.Source, bundle: Mapping[str, Any]) -> LiveWidget | None:
    """A widget for a live run, beside an output's ``bundle``, where somebody may need one; None elsewhere."""
    payload = bundle.get(_page.MIME)
    if payload is None or not wanted() or _classes() is None:
        return None
    return LiveWidget(source, payload)
