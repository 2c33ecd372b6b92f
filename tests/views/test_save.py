"""Saved reports: three endings, whole files, clear refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import _save, save
from tests.views import samples

REPORT = samples.report(samples.mlp(), hostile="|<script>`x`\n# y")


def test_html_is_a_complete_page(tmp_path: Path) -> None:
    save(REPORT, tmp_path / "r.HTML")
    text = (tmp_path / "r.HTML").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert '<svg class="dsg"' in text
    assert "<script" not in text
    assert "http" not in text


def test_json_is_the_report_as_data(tmp_path: Path) -> None:
    save(REPORT, str(tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(REPORT.to_dict())
    )


def test_markdown_tables_keep_their_columns(tmp_path: Path) -> None:
    save(REPORT, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 5 + 1
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}
    assert "<" not in text
    assert "\n# y" not in text


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.htm", ".html", ""])
def test_other_endings_are_refused_with_the_allowed_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.html, \.json, \.md") as refusal:
        save(REPORT, f"{tmp_path}/{name}")
    assert refusal.value.hint.endswith((".html", ".json", ".md"))
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the folder '{tmp_path}/no' does not exist"):
        save(REPORT, tmp_path / "no" / "r.html")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        save(REPORT, tmp_path / "r.html")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.md").write_text("before")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(_save.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(REPORT, tmp_path / "r.md")
    assert [path.name for path in tmp_path.iterdir()] == ["r.md"]
    assert (tmp_path / "r.md").read_text() == "before"


def test_a_link_stays_a_link_and_the_mode_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "r.json").symlink_to(tmp_path / "real" / "r.json")
    save(REPORT, tmp_path / "r.json")
    assert (tmp_path / "r.json").is_symlink()
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (tmp_path / "real" / "r.json").stat().st_mode == plain.stat().st_mode
