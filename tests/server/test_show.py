"""``%deepseek hpo dashboard``: in a plain kernel, beside a Jupyter server that shows studies, in Colab, in a script."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.hpo import places
from deepseek_lab.notebook import dashboard
from deepseek_lab.notebook.host import ScriptHost
from deepseek_lab.server import beside, loopback
from deepseek_lab.server.beside import Beside
from tests.notebook.kernel import Kernel
from tests.server.served import NUM_TRIALS, Sender, searched

NAME = "shown"
HOST: Any = SimpleNamespace(shell=object())


@pytest.fixture(scope="module", autouse=True)
def study() -> Path:
    return searched(NAME)


@pytest.fixture
def own() -> Iterator[None]:
    """The server of this process ends with the test."""
    yield
    if loopback.loopback.cache_info().currsize:
        loopback.loopback().close()
        loopback.loopback.cache_clear()


def test_a_plain_kernel_serves_its_studies_until_it_ends() -> None:
    kernel = Kernel()
    try:
        kernel.ok("%load_ext deepseek_lab")
        told = kernel.ok(f"%deepseek hpo dashboard {NAME}").result or ""
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/\S+", told)
        place = urlsplit(url)
        assert place.port is not None
        ask = Sender(place.port, place.path.rstrip("/"))
        assert len(ask("GET", "/api/studies/0").data["trials"]) == NUM_TRIALS
        assert Sender(place.port, f"/{NAME}")("GET", "/api/studies/0").status == 403
        again = kernel.ok("%deepseek hpo dashboard").result or ""
        assert url.removesuffix(f"{NAME}/") in again
        assert kernel.ok("print(1)").stdout == "1\n", "requests print nothing"
    finally:
        kernel.stop()
    with pytest.raises(OSError, match="refused"):
        ask("GET", "/api/studies")


def test_a_kernel_beside_a_server_that_shows_studies_links_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "jpserver.json"
    info.write_text(json.dumps({"url": "http://localhost:8899/x/y/", "token": "secret"}))
    folder = str(places.folder().resolve())
    monkeypatch.setenv("JPY_PARENT_PID", "4242")
    monkeypatch.setenv("DEEPSEEK_LAB_JUPYTER", "")
    Beside(4242, "/x/y/", folder, str(info)).advertise()
    shown = dashboard.show(NAME, HOST)
    assert repr(shown) == f"hpo dashboard  {NAME}: http://localhost:8899/x/y/deepseek-lab/studies/{NAME}/"
    text = shown.bundle()["text/html"]
    assert f'<a href="/x/y/deepseek-lab/studies/{NAME}/"' in text
    assert f'data-deepseek-study="{NAME}"' in text
    assert "secret" not in text + repr(shown)
    assert dashboard.show(None, HOST).to_dict()["path"] == "/x/y/deepseek-lab/studies/"


def test_a_server_of_somebody_else_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = places.folder()
    monkeypatch.setenv("DEEPSEEK_LAB_JUPYTER", "")
    for pid, of, parent in ((1, folder, "2"), (2, folder / "other", "2"), (2, folder, "")):
        Beside(pid, "/", str(of.resolve())).advertise()
        monkeypatch.setenv("JPY_PARENT_PID", parent)
        assert beside.found(folder) is None
    for text in ("", "{}", "[]", "null", '{"pid": 2}', "{"):
        monkeypatch.setenv("DEEPSEEK_LAB_JUPYTER", text)
        monkeypatch.setenv("JPY_PARENT_PID", "2")
        assert beside.found(folder) is None


@pytest.mark.usefixtures("own")
def test_in_colab_the_study_stands_in_a_frame_by_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    framed: list[tuple[int, str]] = []

    def serve_kernel_port_as_iframe(
        port: int, path: str = "/", width: str = "100%", height: str = "400", cache_in_notebook: bool = False
    ) -> None:
        json.dumps([path, width, height, cache_in_notebook])  # as the real one does
        framed.append((port, path))

    stand_in = {name: ModuleType(name) for name in ("google", "google.colab", "google.colab.output")}
    stand_in["google.colab.output"].serve_kernel_port_as_iframe = serve_kernel_port_as_iframe  # type: ignore[attr-defined]
    for name, module in stand_in.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getpid()))
    shown = dashboard.show(NAME, HOST)
    ((port, path),) = framed
    assert len(Sender(port, path.rstrip("/"))("GET", "/api/studies/0").data["trials"]) == NUM_TRIALS
    assert Sender(port, f"/{NAME}")("GET", "/api/studies/0").status == 403
    assert loopback.loopback().token not in json.dumps(shown.to_dict()) + repr(shown)


@pytest.mark.usefixtures("own")
def test_something_of_colab_without_its_proxy_is_a_plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.output", ModuleType("google.colab.output"))
    monkeypatch.delenv("DEEPSEEK_LAB_JUPYTER", raising=False)
    assert "http://127.0.0.1:" in repr(dashboard.show(NAME, HOST))


def test_what_cannot_be_shown_says_what_to_type() -> None:
    with pytest.raises(UsageError, match=r"'\.\./x' is no name of a study"):
        dashboard.show("../x", HOST)
    with pytest.raises(TargetError, match=r"there is no study 'shwn'\n  try: %deepseek hpo dashboard shown"):
        dashboard.show("shwn", HOST)
    with pytest.raises(
        TargetError, match=r"lasts as long as a notebook\n  try: optuna-dashboard .*shown\.journal"
    ):
        dashboard.show(NAME, ScriptHost())
