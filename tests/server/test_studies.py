"""What is served before Optuna is there, without its dashboard, and of studies that come and go."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from deepseek_lab.base.settings import settings
from deepseek_lab.server import messages, pages, studies
from deepseek_lab.server.messages import Answer, Request
from deepseek_lab.server.studies import Studies
from tests.server.served import searched


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    return tmp_path


def get(path: str) -> Request:
    return Request("GET", path)


def test_a_list_shows_before_optuna_is_loaded_and_a_page_says_why_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched("first")
    may_load, import_ = threading.Event(), importlib.import_module

    def slow(name: str) -> ModuleType:
        if name == "optuna_dashboard":
            assert may_load.wait(60)
        return import_(name)

    monkeypatch.setattr(studies.importlib, "import_module", slow)
    shown = Studies()
    assert b">first</a>" in shown.answer(get("/")).body
    waiting = shown.answer(get("/first/dashboard"))
    assert b'http-equiv="refresh"' in waiting.body
    assert b"is being loaded" in waiting.body
    asked: list[Answer] = []
    thread = threading.Thread(target=lambda: asked.append(shown.answer(get("/first/api/studies"))))
    thread.start()
    assert not asked
    may_load.set()
    thread.join(60)
    assert json.loads(asked[0].body)["study_summaries"][0]["study_name"] == "first"
    assert b"Optuna Dashboard" in shown.answer(get("/first/dashboard")).body


def test_without_the_dashboard_a_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    searched("first")
    import_ = importlib.import_module
    missing = True

    def absent(name: str) -> ModuleType:
        if name == "optuna_dashboard" and missing:
            raise ModuleNotFoundError(name)
        return import_(name)

    monkeypatch.setattr(studies.importlib, "import_module", absent)
    shown = Studies()
    answer = shown.answer(get("/first/dashboard"))
    assert answer.status == 503
    assert "optuna_dashboard" in answer.body.decode()
    assert "pip install &quot;deepseek_lab[hpo]&quot;" in answer.body.decode()
    assert "pip install" in json.loads(shown.answer(get("/first/api/studies")).body)["reason"]
    missing = False  # it was installed meanwhile
    shown.answer(get("/"))
    assert shown.answer(get("/first/api/studies")).status == 200


def test_a_study_that_is_made_again_is_another_one() -> None:
    shown = Studies()
    file = searched("again")
    assert len(json.loads(shown.answer(get("/again/api/studies/0")).body)["trials"]) == 12
    file.unlink()
    assert shown.answer(get("/again/api/studies")).status == 404
    assert not file.exists()
    from deepseek_lab.hpo.record import Record

    Record("again").begin("loss = 0", "<cell>", ("loss",), ("min",))
    assert json.loads(shown.answer(get("/again/api/studies/0")).body)["trials"] == []


def test_a_study_that_was_renamed_is_found_in_its_file() -> None:
    searched("old")
    shown = Studies()
    renamed = Request(
        "POST", "/old/api/studies/0/rename", body=b'{"study_name": "new"}', content_type="application/json"
    )
    assert shown.answer(renamed).status == 201
    assert shown.answer(get("/old/")).headers["location"] == "dashboard"


@pytest.mark.parametrize(
    "path",
    ["/a/../b", "/a/./b", "/a//b", "/a/%2e%2e/b", "/a/b%2fc", "/a/b%5cc", "/a/%00", "/a/%ff", "//a", "/%0a"],
)
def test_a_path_that_could_mean_something_else_is_no_address(path: str) -> None:
    with pytest.raises(messages.NoAddress):
        get(path).parts()
    assert Studies().answer(get(path)).status == 400


def test_a_list_escapes_what_it_is_given(tmp_path: Path) -> None:
    page = pages.listed([('"><script>alert(1)</script>', tmp_path)]).body.decode()
    assert "<script" not in page
    assert '<a href="%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E/">&quot;&gt;&lt;script&gt;' in page


def test_an_application_hears_nothing_of_who_asks() -> None:
    heard: dict[str, object] = {}

    def application(environ: dict[str, object], start: object) -> list[bytes]:
        heard.update(environ)
        start(
            "302 Found",
            [("Location", "http://studies.invalid/dashboard"), ("Access-Control-Allow-Origin", "*")],
        )  # type: ignore[operator]
        return [b"over", b" there"]

    answer = messages.call(
        application, Request("POST", "/ignored", "a=b", b"body", "text/plain"), "/api/größe"
    )
    assert answer == Answer(302, b"over there", {"location": "../dashboard"})
    assert {name for name in heard if name.startswith("HTTP_")} == {"HTTP_HOST", "HTTP_ACCEPT_ENCODING"}
    assert heard["PATH_INFO"] == "/api/größe".encode().decode("latin-1")


def test_neither_torch_nor_optuna_is_loaded_before_somebody_looks() -> None:
    code = (
        "import sys, deepseek_lab.server.extension, deepseek_lab.server.loopback\n"
        "print(sorted({'torch', 'optuna', 'optuna_dashboard', 'bottle', 'numpy'} & set(sys.modules)))\n"
        "import deepseek_lab.hpo.record, optuna_dashboard\n"
        "print('torch' in sys.modules, 'IPython' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "False False"]
