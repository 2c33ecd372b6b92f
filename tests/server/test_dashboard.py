"""Studies in a real Jupyter server: nothing without the token, everything with it, under a base URL.

``pytest tests/server/test_dashboard.py -s`` prints what was refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepseek_lab.hpo import places
from deepseek_lab.server import frontend
from deepseek_lab.server.studies import is_page
from tests.server.served import NUM_TRIALS, SECRET, Jupyter, Reply, Sender, everything, routes, searched

NAME = "digits"


@pytest.fixture(scope="module")
def study() -> Path:
    return searched(NAME)


@pytest.fixture(scope="module")
def jupyter(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter"))
    yield server
    server.stop()


def refused(reply: Reply) -> str:
    """How a request was refused; an error where it was not."""
    assert SECRET not in reply.text
    if reply.status == 302:
        assert reply.headers["location"].startswith("/x/y/login?next="), reply.headers["location"]
        return "sent to the login page"
    assert reply.status == 403, f"{reply.status} {reply.text[:200]}"
    return "403"


def contents(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Without the token.


def test_every_route_refuses_without_the_token(jupyter: Jupyter, study: Path) -> None:
    before, ask, files = contents(study), jupyter.sender(), jupyter.sender("api/contents")
    tried = everything(NAME)
    assert len(list(routes(NAME))) >= 25
    seen: Counter[tuple[str, str]] = Counter()
    for method, path in tried:
        how = refused(ask(method, path, {"body": "x", "version": 1} if method != "GET" else None))
        page = is_page(path) and method in {"GET", "HEAD"}
        assert how == ("sent to the login page" if page else "403"), f"{method} {path}"
        seen[method, how] += 1
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):  # it has no others that ask who is there
        assert refused(files(method, "")) == "403"
    assert contents(study) == before
    paths = len(tried) // 7
    print(f"\nwithout the token, {paths} paths of the dashboard under {jupyter.base_url}:")
    for (method, how), number in sorted(seen.items()):
        print(f"  {method:<8}{number:>4}  {how}")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "token wrong"},
        {"Authorization": "token "},
        {"Authorization": "Bearer undefined"},
        {"Cookie": 'username-127-0-0-1="2|1:0|10:1|4:none|4:e30=|00"; _xsrf=a', "X_XSRFToken": "a"},
        {"X_Forwarded_User": "root", "X_Forwarded_For": "127.0.0.1"},
    ],
    ids=["wrong", "empty", "bearer", "cookie", "forwarded"],
)
def test_what_is_no_token_is_refused(jupyter: Jupyter, study: Path, headers: dict[str, str]) -> None:
    before, ask = contents(study), jupyter.sender()
    for method, path in routes(NAME):
        refused(ask(method, path, {} if method != "GET" else None, **headers))
        refused(ask(method, f"{path}?token=wrong", {} if method != "GET" else None, **headers))
    assert contents(study) == before


TRICKS = [
    "/{base}/deepseek-lab/studies/{rest}",
    "{base}//deepseek-lab/studies/{rest}",
    "{base}/deepseek-lab//studies/{rest}",
    "{base}/deepseek-lab/studies//{rest}",
    "{base}/deepseek-lab/./studies/{rest}",
    "{base}/deepseek-lab/%2e/studies/{rest}",
    "{base}/login/../deepseek-lab/studies/{rest}",
    "{base}/login/%2e%2e/deepseek-lab/studies/{rest}",
    "{base}/login/..%2fdeepseek-lab/studies/{rest}",
    "{base}/static/..%2f..%2fdeepseek-lab/studies/{rest}",
    "{base}/api/../deepseek-lab/studies/{rest}",
    "{base}/deepseek-lab/studies/x/../{rest}",
    "{base}/deepseek-lab/studies/x/..%2f{rest}",
    "{base}/deepseek-lab/studies/%2e%2e/studies/{rest}",
    "{base}/deepseek-lab/studies%2f{rest}",
    "{base}/deepseek-lab%2fstudies/{rest}",
    "{base}/deepseek%2dlab/studies/{rest}",
    "{base}/DEEPSEEK-LAB/studies/{rest}",
    "{base}/deepseek-lab/studies/{rest};login",
    "{base}/deepseek-lab/studies/{rest}%00",
    "{base}/deepseek-lab/studies/{rest}%ff",
    "{base}/deepseek-lab/studies/static/{rest}",
    "{base}\\deepseek-lab\\studies\\{rest}",
    "/deepseek-lab/studies/{rest}",
    "http://127.0.0.1{base}/deepseek-lab/studies/{rest}",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_other_way_to_write_a_path_gets_in(jupyter: Jupyter, study: Path, trick: str) -> None:
    before, ask = contents(study), Sender(jupyter.port)
    for method, rest in (("GET", "api/studies"), ("GET", "dashboard"), ("PUT", "api/studies/0/note")):
        path = trick.format(base=jupyter.base_url.rstrip("/"), rest=f"{NAME}/{rest}")
        reply = ask(method, path, {"body": "changed", "version": 1} if method == "PUT" else None)
        assert reply.status in {302, 400, 403, 404, 405}, f"{method} {path}: {reply.status}"
        assert SECRET not in reply.text
        assert NAME not in reply.text.replace(rest, "").replace(f"{NAME}/", ""), reply.text[:300]
    assert contents(study) == before


# With the token.


def test_reads_work_with_the_token(jupyter: Jupyter, study: Path) -> None:
    ask = jupyter.allowed()
    (summary,) = ask("GET", f"/{NAME}/api/studies").data["study_summaries"]
    assert summary["study_name"] == NAME
    detail = ask("GET", f"/{NAME}/api/studies/{summary['study_id']}?after=0").data
    assert len(detail["trials"]) == NUM_TRIALS
    assert detail["union_search_space"][0]["name"] == SECRET
    table = ask("GET", f"/{NAME}/csv/{summary['study_id']}")
    assert f"Param {SECRET}" in table.text
    assert "attachment" in table.headers["content-disposition"]
    head = ask("HEAD", f"/{NAME}/api/studies")
    assert (head.status, head.body) == (200, b"")
    unknown = ask("GET", f"/{NAME}/api/studies/77")
    assert (unknown.status, "77" in unknown.data["reason"]) == (404, True)
    assert ask("PATCH", f"/{NAME}/api/studies").status == 405


def test_every_answer_to_a_reader_stays_with_the_reader(jupyter: Jupyter, study: Path) -> None:
    for method, path in routes(NAME):
        if method == "GET":
            headers = jupyter.allowed()(method, path, Origin="http://127.0.0.1").headers
            assert headers.get("access-control-allow-origin") != "*"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            assert "frame-ancestors 'self'" in headers["content-security-policy"]


def test_writes_work_with_the_token(jupyter: Jupyter) -> None:
    searched("written")
    ask = jupyter.allowed("deepseek-lab/studies/written")
    assert ask("PUT", "/api/studies/0/note", {"body": "read *this*", "version": 1}).status == 204
    assert ask("GET", "/api/studies/0").data["note"]["body"] == "read *this*"
    assert ask("PUT", "/api/studies/0/note", {"body": "older", "version": 1}).status == 409
    made = ask("POST", "/api/studies", {"study_name": "another", "directions": ["minimize"]})
    assert made.status == 201
    number = made.data["study_summary"]["study_id"]
    assert ask("POST", f"/api/studies/{number}/rename", {"study_name": "renamed"}).status == 201
    (number,) = [
        one["study_id"]
        for one in ask("GET", "/api/studies").data["study_summaries"]
        if one["study_name"] == "renamed"
    ]
    assert ask("DELETE", f"/api/studies/{number}", {}).status == 204
    assert [one["study_name"] for one in ask("GET", "/api/studies").data["study_summaries"]] == ["written"]
    assert json.loads(places.file_of("written").read_text().splitlines()[-1])


def logged_in(jupyter: Jupyter) -> tuple[str, str]:
    """The cookies of a browser that came with the token once, and the XSRF token among them."""
    reply = jupyter.sender(f"deepseek-lab/studies/{NAME}/dashboard?token={jupyter.token}")("GET", "")
    cookies = [one.partition(";")[0] for one in reply.cookies]
    (xsrf,) = [one.partition("=")[2] for one in cookies if one.startswith("_xsrf=")]
    assert any(one.startswith("username-") for one in cookies)
    return "; ".join(cookies), xsrf


def test_a_browser_reads_with_its_cookie_and_writes_with_the_xsrf_token(jupyter: Jupyter) -> None:
    file = searched("cookies")
    cookies, xsrf = logged_in(jupyter)
    ask = jupyter.sender("deepseek-lab/studies/cookies", Cookie=cookies)
    note = {"body": "by cookie", "version": 1}
    assert ask("GET", "/api/studies/0").status == 200
    before = contents(file)
    for method, path in routes("cookies"):
        if method != "GET":
            reply = ask(method, path.removeprefix("/cookies"), note)
            assert (reply.status, contents(file)) == (403, before), f"{method} {path}"
            wrong = ask(method, path.removeprefix("/cookies"), note, X_XSRFToken="2|wrong")
            assert (wrong.status, contents(file)) == (403, before), f"{method} {path}"
    assert ask("PUT", "/api/studies/0/note", note, X_XSRFToken=xsrf).status == 204
    assert ask("GET", "/api/studies/0").data["note"]["body"] == "by cookie"


def test_hosts_and_origins_are_judged_as_by_the_server(jupyter: Jupyter) -> None:
    cookies, xsrf = logged_in(jupyter)
    own = f"http://127.0.0.1:{jupyter.port}"
    seen = set()
    for who in ({"Cookie": cookies, "X_XSRFToken": xsrf}, {"Authorization": f"token {jupyter.token}"}, {}):
        for about in (
            {},
            {"Origin": own},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Host": "evil.example"},
            {"Host": f"localhost:{jupyter.port}"},
            {"Host": f"evil.example:{jupyter.port}", "Origin": "http://evil.example"},
        ):
            for method in ("GET", "DELETE"):
                files = jupyter.sender("api/contents")(method, "/no/such/file", **who, **about)
                study = jupyter.sender()(method, f"/{NAME}/api/studies/77", **who, **about)
                assert study.status == files.status, f"{method} {who} {about}"
                seen.add(study.status)
    assert {403, 404} <= seen
    evil = jupyter.sender()("GET", f"/{NAME}/api/studies", Cookie=cookies, Origin="http://evil.example")
    assert (evil.status, SECRET in evil.text, NAME in evil.text) == (404, False, False)


def test_the_servers_own_rules_of_reading_and_writing_hold(jupyter: Jupyter) -> None:
    searched("ruled")
    ask, note = jupyter.allowed("deepseek-lab/studies/ruled"), {"body": "x", "version": 1}
    assert ask("GET", "/api/studies/0", X_May="read").status == 200
    assert ask("PUT", "/api/studies/0/note", note, X_May="read").status == 403
    assert ask("DELETE", "/api/studies/0", X_May="read").status == 403
    assert ask("PUT", "/api/studies/0/note", note, X_May="write").status == 204
    assert ask("GET", "/api/studies/0", X_May="write").status == 403


# Names.


def test_the_list_of_studies_shows_names_as_text(jupyter: Jupyter) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    (places.folder() / f"{hostile}.journal").touch()
    searched("größe 1.0 ab")
    ask = jupyter.allowed()
    reply = ask("GET", "/")
    assert reply.headers["content-type"].startswith("text/html")
    assert "onerror" not in reply.text, "what cannot be a study's name is not listed"
    asked = ask("GET", "/%3Cimg%20src=x%20onerror=alert(1)%3E/dashboard")
    assert (asked.status, "<img" in asked.text, "&lt;img" in asked.text) == (404, False, True)
    assert '<a href="gr%C3%B6%C3%9Fe%201.0%20ab/">größe 1.0 ab</a>' in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert ask("GET", "/gr%C3%B6%C3%9Fe%201.0%20ab/api/studies").data["study_summaries"]
    assert ask("GET", "").headers["location"] == "studies/"
    assert ask("GET", f"/{NAME}").headers["location"] == f"{NAME}/"
    assert ask("GET", f"/{NAME}/").headers["location"] == "dashboard/studies/0"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "..%2f..%2fsecret",
        "%2e%2e%2fsecret",
        "%2Fetc%2Fpasswd",
        "..%5csecret",
        ".hidden",
        "secret.journal%00",
        "a%0ab",
        "%ff",
        "%252e%252e%252fsecret",
        "x" * 300,
        "missing",
    ],
)
def test_no_name_leads_out_of_the_folder(jupyter: Jupyter, name: str) -> None:
    outside = places.folder().parent / "secret.journal"
    hidden = places.folder() / ".hidden.journal"
    shutil.copy(places.file_of(NAME), outside)
    shutil.copy(places.file_of(NAME), hidden)
    before = sorted(outside.parent.rglob("*"))
    for path in ("", "/", "/dashboard", "/api/studies", "/api/studies/0", "/static/bundle.js"):
        reply = jupyter.allowed()("GET", f"/{name}{path}")
        assert reply.status in {400, 404}, f"{path}: {reply.status}"
        assert SECRET not in reply.text
    assert sorted(outside.parent.rglob("*")) == before, "looking makes no file"
    outside.unlink()
    hidden.unlink()


@pytest.mark.parametrize(
    "path", ["../../_app.py", "..%2f_app.py", "%2e%2e/_app.py", "....//_app.py", "/_app.py"]
)
def test_static_files_are_those_of_the_dashboard(jupyter: Jupyter, path: str) -> None:
    reply = jupyter.allowed()("GET", f"/{NAME}/static/{path}")
    assert reply.status in {400, 403, 404}
    assert b"create_app" not in reply.body


# The page.


def test_page_and_script_ask_below_the_prefix(jupyter: Jupyter) -> None:
    ask = jupyter.allowed(f"deepseek-lab/studies/{NAME}")
    for path, up in (
        ("/dashboard", "./"),
        ("/dashboard/", "../"),
        ("/dashboard/studies/0/trials", "../../../"),
    ):
        page = ask("GET", path)
        assert f'src="{up}static/bundle.js"' in page.text
        assert not re.search(r'(src|href|action)="/', page.text)
        assert any("script-src 'self'" in one for one in page.headers["content-security-policy"].split(","))
    plain, zipped = ask("GET", "/static/bundle.js"), ask("GET", "/static/bundle.js", Accept_Encoding="gzip")
    assert plain.text.startswith("// Before optuna-dashboard's own script")
    assert zipped.headers["content-encoding"] == "gzip"
    assert len(zipped.body) < len(plain.body) / 2
    again = ask("GET", "/static/bundle.js", Accept_Encoding="gzip", If_None_Match=zipped.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert not re.search(r"[\"'`]/(api|csv|artifacts|static|dashboard)/", plain.text)
    assert "${this.baseURL}/api" not in plain.text


def test_a_dashboard_that_is_written_otherwise_is_refused() -> None:
    with pytest.raises(frontend.TargetError, match=r"optuna-dashboard 9\.9 are written in a way"):
        frontend.script('fetch("/api/studies")', "9.9")


def test_a_browser_shows_the_study_under_the_base_url(jupyter: Jupyter, tmp_path: Path) -> None:
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    address = f"http://127.0.0.1:{jupyter.port}/x/y/deepseek-lab/studies/{NAME}/?token={jupyter.token}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    flags += ["--timeout=30000", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([chromium, *flags, address], capture_output=True, text=True, timeout=90, check=True)
    assert f"{NAME} (id=0)" in done.stdout, done.stdout[-2000:]
    assert SECRET in done.stdout, "in the picture of what matters how much"
    assert f'href="/x/y/deepseek-lab/studies/{NAME}/dashboard/studies/0/trials"' in done.stdout


# Beside everything else.


def test_studies_that_wait_do_not_hold_up_the_server(jupyter: Jupyter, study: Path) -> None:
    number, status = 20, jupyter.allowed("api/status")
    ask = jupyter.allowed(f"deepseek-lab/studies/{NAME}")
    latest = ask("GET", "/api/studies/0").data["note"]["version"]
    done: list[int] = []
    started = threading.Barrier(number + 1)

    def write(turn: int) -> None:
        started.wait()
        done.append(ask("PUT", "/api/studies/0/note", {"body": str(turn), "version": latest + 1}).status)

    with study.with_suffix(".lock").open("w") as lock, ThreadPoolExecutor(number) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nothing can be written to the study
        waiting = [pool.submit(write, turn) for turn in range(number)]
        started.wait()
        for _ in range(20):
            assert status("GET", "").status == 200
        assert not done
        fcntl.flock(lock, fcntl.LOCK_UN)
        for one in waiting:
            one.result()
    assert set(done) <= {204, 409}
    assert 204 in done


def test_the_server_started_without_complaint(jupyter: Jupyter) -> None:
    said = jupyter.said()
    assert "deepseek_lab.server | extension was successfully loaded" in said
    assert not [line for line in said.splitlines() if "deepseek" in line and line.startswith(("[E", "[C"))]
    assert "JupyterServerAuthWarning" not in said
    assert "Traceback" not in said
