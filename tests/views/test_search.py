"""Searches as text, as static HTML and as outputs. What the view does in a browser is tested in ``js/tests``."""

from __future__ import annotations

import base64
import doctest
import itertools
import json
import math
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deepseek_lab import views
from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport
from deepseek_lab.views import _bundle, _page, _search, _search_line, _search_packed
from tests.views.hostile import WORDS
from tests.views.searches import Made
from tests.views.test_page import unpacked


def line(made: Made) -> str:
    return views.search_text(made.report).splitlines()[0]


def pictures(html: str) -> list[str]:
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return [base64.b64decode(one).decode() for one in found]


def of_frame(bundle: dict[str, Any]) -> dict[str, Any]:
    (view,) = bundle[_page.MIME]["views"]
    return unpacked(view["packed"])[0]


@pytest.mark.parametrize("module", [_search, _search_line])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_the_line_of_a_search_that_beat_the_defaults() -> None:
    made = Made().begin().search(40).compare().end()
    words = line(made).split("  ")
    assert words[:3] == [
        "hpo",
        "accuracy 0.897 -> 0.921",
        "+2.4 points (95% +1.9..+2.9, 3 seeds, data the search never saw)",
    ]
    assert words[3] == f"{len(made.report.rows) - 2} trials ({made.report.cost:.1f} whole)"
    assert words[5] == "2 workers"
    best = made.report.best
    assert best is not None
    assert words[6].startswith(f"lr={_search_line.said(best.params['lr'])} width={best.params['width']:.0f} ")
    assert words[6].endswith("+2 more")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Made(), "nothing was tried yet"),
        (Made().begin(), r"hpo  running  accuracy 0\.\d{3}: so far the defaults are the best"),
        (Made().begin().end(), r"accuracy 0\.\d{3}: the defaults were not beaten  1 trial \(1\.0 whole\)"),
        (Made().begin().search(30), r"hpo  running  accuracy 0\.\d+ -> 0\.\d+ \(so far, one run each\)"),
        (Made().begin().search(30).end("interrupted"), r"hpo  interrupted  accuracy .* \(one run each\)"),
        (Made().begin().search(30).end("CellFails"), "hpo  ended by CellFails  "),
        (Made().begin().search(30).compare(0.002).end(), "not told apart from the defaults"),
        (Made().begin().search(30).compare(-0.01).end(), r"-1\.0 points \(.*\)  the defaults were not beaten"),
        (Made().begin().search(30).compare(0.01, None).end(), r"\+1\.0 points \(1 seed, data"),
        (Made().begin().search(30).compare(unseen=False).end(), r"\+2\.4 points \(95% \+1\.9\.\.\+2\.9, 3 seeds\)"),
        (Made(num_workers=0).begin().search(9).end(), r"whole\)  \d+s of trials  lr="),
        (Made(("loss",), ("min",)).begin().search(30).compare(-0.03).end(),
         r"loss 0\.897 -> 0\.867  -0\.030 \(95% -0\.035\.\.-0\.025, 3 seeds"),
        (Made(("accuracy", "ms"), ("max", "min")).begin().search(30, small=False).end(),
         r"hpo  accuracy 0\.\d+ -> 0\.\d+, ms \d\.\d+ -> 0\.\d+  \d+ trials on the Pareto front \(one run each\)  "),
    ],
)  # fmt: skip
def test_the_line_in_every_state(made: Made, says: str) -> None:
    assert re.search(says, line(made)), line(made)


def test_the_line_says_that_the_defaults_held_when_the_best_few_were_run_again() -> None:
    made = Made().begin().search(30)
    for config in ("defaults", "config 1-0"):
        made.trial(config, made.draw(), purpose="repeat")
    made.end()
    assert made.report.best is not made.report.defaults
    assert "the defaults were not beaten" in line(made)
    assert "lr=" not in line(made)


def test_a_search_in_which_the_cell_failed_says_so() -> None:
    made = Made()
    made.log.emit(
        ev.SearchStarted(run="r", study="s", metrics=("accuracy",), directions=("max",), num_trials=9, limit_s=None,
                         num_workers=2, sampler="tpe")
    )  # fmt: skip
    made.trial("defaults", made.draw(), purpose="defaults", status="failed", error="NameError: name 'x'")
    made.end("CellFails")
    assert "ended by CellFails  no whole trial gave accuracy  1 trial" in line(made)
    assert "NameError: name 'x'" in views.search_text(made.report)
    assert pictures(views.search_html(made.report))


def test_text_has_the_best_the_failed_and_what_small_trials_tell() -> None:
    made = Made().begin().search(80).compare().end()
    text = views.search_text(made.report)
    table = text.split("\n\n")[1].splitlines()
    assert re.fullmatch(r"best of \d+ configurations", table[0])
    assert table[1].split()[:4] == ["trial", "size", "accuracy", "took"]
    values = [float(row.split()[2]) for row in table[2:]]
    assert values == sorted(values, reverse=True)
    assert len(values) == _search.MAX_TEXT_ROWS
    assert re.search(r"\d+ failed trials\n  failed  error +trials\n", text)
    assert re.search(r" 2  OutOfMemoryError: 512 MiB +\d+, \d+", text)
    assert re.search(r" 2  ValueError: loss is nan after 18 steps", text)
    assert "  1/9 " in text
    assert "importance (PED-ANOVA): lr 60%, width 15%" in text
    assert text.endswith("note: back in the notebook, of the best: model")


def test_failures_differ_by_more_than_numbers() -> None:
    made = Made().begin()
    for error in ("E: 1.5 GiB of 7", "E: 12 GiB of 8", "F: 1.5 GiB of 7", ""):
        made.trial("c", made.draw(), status="failed", error=error)
    found = _search.failures(made.report)
    assert [(one.error, one.trials) for one in found] == [
        ("E: 1.5 GiB of 7", (1, 2)),
        ("F: 1.5 GiB of 7", (3,)),
        ("no error was told", (4,)),
    ]


def test_html_has_pictures_that_stand_by_themselves() -> None:
    html = views.search_html(Made().begin().search(60).compare().end().report)
    assert "<script" not in html
    found = pictures(html)
    named = [ET.fromstring(one).attrib["aria-label"] for one in found]
    assert named == ["history", "importances", "parallel coordinates", "slices", "curves"]
    for one in found:
        assert "prefers-color-scheme:dark" in one
        assert not re.search(r"(href|url)\s*[=(]|NaN|inf", one)


def test_two_metrics_have_their_pareto_front() -> None:
    made = Made(("accuracy", "ms"), ("max", "min")).begin().search(80, small=False).end()
    html = views.search_html(made.report)
    named = [ET.fromstring(one).attrib["aria-label"] for one in pictures(html)]
    assert named == ["history", "Pareto front", "parallel coordinates", "slices", "curves"]


def test_the_front_is_what_no_other_trial_beats() -> None:
    made = Made(("accuracy", "ms"), ("max", "min")).begin().search(120, small=False)
    report = made.report
    rows = report.whole()

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1]

    slow = [row.trial for row in rows if not any(beats(other.values, row.values) for other in rows)]
    assert [row.trial for row in report.front()] == slow
    assert 1 < len(slow) < len(rows)


@pytest.mark.parametrize("what", ["enormous", "enormous and wide", "enormous markup", "lone surrogate"])
def test_hostile_words_stay_within_a_notebook(what: str) -> None:
    """That they stay data is tested in ``test_hostile.py``."""
    word = WORDS[what]
    made = Made(word=word).begin().search(24).compare().end(word)
    bundle = views.search_bundle("r", made.log, title=word)
    assert _bundle.size(bundle) <= _bundle.LIMIT_BYTES
    assert json.dumps(bundle, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def large() -> Made:
    return Made().begin(10_000).search(10_000).compare().end()


def test_ten_thousand_trials_stay_within_a_notebook(large: Made) -> None:
    for live in (False, True):
        bundle = views.search_bundle("r", large.log, live=live)
        assert 100_000 < _bundle.size(bundle) <= _bundle.LIMIT_BYTES
        header = of_frame(bundle)
        report = large.report
        assert header["meta"]["totals"]["cost"] == pytest.approx(report.cost)
        assert header["meta"]["cut"]["shown"] == header["rows"] > 300
        assert header["meta"]["cut"]["total"] == len(report.rows)
        assert ("iframe" in str(bundle["text/html"])) is not live
    assert len(views.search_text(large.report)) < 6_000


def test_what_is_kept_has_the_best_and_each_kind_of_end(large: Made) -> None:
    report = large.report
    kept = _search_packed.kept_first(report)
    assert sorted(kept) == sorted(report.rows)
    first = [report.rows[trial] for trial in kept[:400]]
    assert report.best in first
    assert report.defaults in first
    assert {row.status for row in first} == {"complete", "failed"}
    assert {row.purpose for row in first} == {"search", "defaults", "repeat"}
    small = sorted(row.trial for row in first if not row.whole and row.status == "complete")
    gaps = [after - before for before, after in itertools.pairwise(small)]
    assert max(gaps) < 8 * sum(gaps) / len(gaps)  # spread over the whole search


def test_a_long_choice_and_many_ranges_stay_within_a_notebook() -> None:
    made = Made().begin()
    labels = tuple(f"option {at} " * 30 for at in range(2_000))
    for number in range(300):
        made.log.emit(ev.SpaceFound(run="r", name=f"range {number}", space="choice", labels=labels))
    for number in range(60):
        made.log.emit(ev.Noted(run="r", text=f"note {number} " * 500))
    made.search(50).end()
    assert _bundle.size(views.search_bundle("r", made.log)) <= _bundle.LIMIT_BYTES


def test_numbers_of_any_size_are_drawn() -> None:
    made = Made().begin()
    for number, value in enumerate((math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, 0.0)):
        made.log.emit(
            ev.TrialEnded(run="r", trial=50 + number, config=f"c{number}", purpose="search", cost=1.0,
                          status="complete", numbers={"lr": value, "width": value}, labels={}, values=(value,),
                          curve=((0, value), (1, value), (10**15, 0.1)), seconds=value)
        )  # fmt: skip
    bundle = views.search_bundle("r", made.end().log)
    for one in pictures(str(bundle["text/html"])):
        assert not re.search(r"\bnan\b|\binf\b", one)
        ET.fromstring(one)


def test_a_search_that_is_told_in_parts_adds_up_to_the_whole() -> None:
    made = Made().begin().search(30).running().compare().end()
    events = made.log.since()
    whole = unpacked(_search_packed.SearchPacking().packed(events))[0]
    packing = _search_packed.SearchPacking()
    parts = [unpacked(packing.packed(events[at : at + 7]))[0] for at in range(0, len(events), 7)]
    assert sum(len(one["meta"]["events"]) for one in parts) == len(whole["meta"]["events"])
    assert {one["meta"]["start_s"] for one in parts[3:]} == {whole["meta"]["start_s"]}
    assert parts[-1]["meta"]["params"] == whole["meta"]["params"]
    assert whole["rows"] == len(made.report.rows)
    assert SearchReport.fold(events).num_configs == made.report.num_configs
