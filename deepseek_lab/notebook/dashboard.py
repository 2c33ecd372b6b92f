"""``%deepseek hpo dashboard``: where the studies can be looked at, from wherever this notebook runs."""

from __future__ import annotations

import html
import importlib
import importlib.util
import sys
from typing import Any
from urllib.parse import quote

from deepseek_lab.base.errors import MissingPackageError, TargetError, nearest
from deepseek_lab.hpo import places
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.show import Shown

_FRAME_HEIGHT = "800"


def show(name: str | None, host: Host) -> Shown:
    """A link to a study in optuna-dashboard, or to the list of studies.

    In Colab it is a frame, by its proxy. Where the Jupyter server that started this kernel shows studies, the link goes
    there, behind the server's own authentication. Elsewhere a server begins in this process, at this machine's own
    address and behind a token in it, which ends with the kernel.

    Raises:
        UsageError: what was typed is no name of a study.
        TargetError: there is no such study, or there is no notebook to show it beside.
        MissingPackageError: optuna-dashboard is not installed.
    """
    if name is not None:
        _check(name)
    if host.shell is None:
        file = places.file_of(name) if name else places.folder() / "NAME.journal"
        raise TargetError("the dashboard lasts as long as a notebook", hint=f"optuna-dashboard {file}")
    if (colab := _colab()) is not None:
        return _framed(name, colab)
    from deepseek_lab.server import beside

    if (server := beside.found(places.folder())) is not None:
        return _linked(name, server.path + _part(name), server.url)
    return _served(name)


def _check(name: str) -> None:
    places.check_name(name)
    if not places.file_of(name).is_file():
        near = nearest(name, places.names())
        hint = f"%deepseek hpo dashboard {near}" if near else "%deepseek hpo list"
        raise TargetError(f"there is no study {name!r}", hint=hint)


def _colab() -> Any:
    """What shows a port of this machine in Colab's page, if this is Colab."""
    if "google.colab" not in sys.modules:
        return None
    try:
        found = importlib.import_module("google.colab.output")
    except ImportError:
        return None
    return getattr(found, "serve_kernel_port_as_iframe", None)


def _framed(name: str | None, frame: Any) -> Shown:
    """In a frame of the output. Colab's links to a new tab do not work any more: its browsers keep cookies of the proxy
    from it (https://github.com/googlecolab/colabtools/issues/4738).
    """
    server = _loopback()
    frame(server.port, path=server.path(name), height=_FRAME_HEIGHT)
    text = f"hpo dashboard  {name or 'all studies'}: in the frame, as long as this runtime runs"
    return Shown(text, data={"study": name, "port": server.port})


def _linked(name: str | None, path: str, url: str | None) -> Shown:
    """At the server that started this kernel. In JupyterLab our own extension opens the link in a tab."""
    title = name or "all studies"
    elsewhere = url + _part(name) if url else ""
    mark = f' data-deepseek-study="{html.escape(name or "")}"'
    body = f"{_link(path, title, mark)}, for whoever is logged in to this server"
    if elsewhere:
        body += f"<br><small>outside of JupyterLab: {_link(elsewhere, elsewhere)}</small>"
    return Shown(
        f"hpo dashboard  {title}: {elsewhere or path}",
        html_text=f"<div>hpo dashboard&ensp;{body}</div>",
        data={"study": name, "path": path, "url": elsewhere or None},
    )


def _served(name: str | None) -> Shown:
    """By this process."""
    server = _loopback()
    url, title = server.url(name), name or "all studies"
    note = (
        "as long as this kernel runs, on its machine; whoever has the address can read and change the studies"
    )
    return Shown(
        f"hpo dashboard  {title}: {url}\n  {note}",
        html_text=f"<div>hpo dashboard&ensp;{_link(url, title)}<br><small>{note}</small></div>",
        data={"study": name, "url": url},
    )


def _loopback() -> Any:
    for package in ("optuna", "optuna_dashboard"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, extra="hpo", needed_for="hpo dashboard")
    from deepseek_lab.server.loopback import loopback

    return loopback()


def _part(name: str | None) -> str:
    return f"{quote(name, safe='')}/" if name else ""


def _link(address: str, title: str, mark: str = "") -> str:
    return f'<a href="{html.escape(address)}" target="_blank" rel="noopener"{mark}>{html.escape(title)}</a>'
