"""The report is a fold: what each event adds, and the one line that comes of it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from deepseek_lab.base import events as ev
from deepseek_lab.base.report import OptimizeReport

NODES = tuple(ev.GraphNode(name=f"n{index}", op="linear") for index in range(4))


def _captured(graph: str = "g", **fields: Any) -> ev.GraphCaptured:
    return ev.GraphCaptured(
        **{"run": "r", "target": "model", "graph": graph, "nodes": NODES, "signature": "x", "capture_s": 0.5}
        | fields
    )


def _ended(candidate: str, status: str, graph: str = "g", **fields: Any) -> ev.CandidateEnded:
    return ev.CandidateEnded(run="r", graph=graph, candidate=candidate, status=status, **fields)


def _decided(chosen: str, graph: str = "g", reason: str = "") -> ev.Decided:
    return ev.Decided(run="r", target="model", graph=graph, chosen=chosen, reason=reason)


STARTED = ev.RunStarted(run="r", verb="optimize", targets=("model",))
WON = (
    STARTED,
    _captured(),
    _ended("fast", "won", build_s=5.5, speedup=2.0, speedup_ci95=(1.9, 2.1), max_rel_error=3e-6),
    ev.PlanChosen(run="r", graph="g", candidate="fast", code="plan"),
    ev.LiveMeasured(
        run="r",
        target="model",
        graph="g",
        eager_ms=4.0,
        median_ms=2.5,
        speedup=1.6,
        speedup_ci95=(1.5, 1.7),
        num_rounds=9,
    ),
    _decided("fast"),
)

SUMMARIES: dict[str, tuple[tuple[ev.Event, ...], str]] = {
    "nothing yet": ((STARTED,), "optimize  nothing captured yet"),
    "at work": ((STARTED, _captured()), "optimize  working: 1 of 1 graphs undecided, eager meanwhile"),
    "won": (
        WON,
        (
            "optimize  1.60x (95% 1.50-1.70)  covered 100%  agrees with eager (max rel 3e-06)  fast"
            "  pays off after 4000 calls"
        ),
    ),
    "lost": (
        (
            STARTED,
            _captured(),
            _ended("slow", "lost", speedup=0.98, speedup_ci95=(0.96, 1.01)),
            _decided("eager"),
        ),
        "optimize  kept eager: best 0.98x (95% 0.96-1.01) by slow",
    ),
    "refused": (
        (
            STARTED,
            _captured(),
            _ended("wrong", "refused", reason="differs at output 0 (max rel 0.2)"),
            _decided("eager"),
        ),
        "optimize  refused wrong: differs at output 0 (max rel 0.2)",
    ),
    "cannot": (
        (STARTED, _captured(), _decided("eager", reason="draws random numbers")),
        "optimize  kept eager: draws random numbers",
    ),
    "failed": (
        (STARTED, _captured(), _ended("x", "failed", reason="crashed"), _decided("eager")),
        "optimize  kept eager: no candidate could run this graph",
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_summary(case: str) -> None:
    events, line = SUMMARIES[case]
    assert OptimizeReport.fold(events).summary() == line


def test_fold_is_the_sum_of_its_events() -> None:
    report = OptimizeReport()
    for event in WON:
        report.add(event)
    assert report.to_dict() == OptimizeReport.fold(WON).to_dict()
    assert OptimizeReport.fold(WON).to_dict() == OptimizeReport.fold(iter(WON)).to_dict()


def test_fields_that_are_promised() -> None:
    report = OptimizeReport.fold(WON)
    assert (report.chosen, report.speedup, report.speedup_ci95) == ("fast", 1.6, (1.5, 1.7))
    assert (report.coverage, report.max_rel_error) == (1.0, 3e-6)
    (row,) = report.candidates
    assert (row.name, row.status, row.max_rel_error, row.reason) == ("fast", "won", 3e-6, "")
    assert hasattr(row, "median_ms")


def test_eager_is_one_times_as_fast() -> None:
    report = OptimizeReport.fold((*WON, _decided("eager", reason="in your own calls it was 0.90x")))
    assert (report.chosen, report.speedup, report.speedup_ci95, report.coverage) == (
        "eager",
        1.0,
        (1.0, 1.0),
        0.0,
    )


def test_main_graph_is_the_largest() -> None:
    small = _captured("small", nodes=NODES[:1])
    report = OptimizeReport.fold((STARTED, small, *WON[1:], _decided("eager", "small")))
    assert report.chosen == "fast"
    assert report.coverage == pytest.approx(4 / 5)


def test_undecided_while_any_graph_is() -> None:
    assert OptimizeReport.fold(WON).decided
    assert not OptimizeReport.fold((*WON, _captured("another"))).decided


def test_what_happened_is_kept() -> None:
    report = OptimizeReport.fold(
        (
            *WON,
            ev.FellBack(run="r", target="model", reason="a weight was updated in place"),
            ev.Noted(run="r", text="not remembered"),
            ev.GraphBreak(run="r", target="model", reason="print"),
        )
    )
    assert [fall.reason for fall in report.fallbacks] == ["a weight was updated in place"]
    assert report.notes == ["not remembered"]
    assert [one.reason for one in report.breaks] == ["print"]


def test_report_is_plain_json_even_where_numbers_are_not() -> None:
    odd = _ended("odd", "refused", max_rel_error=math.inf, speedup=math.nan, reason="<b>&\u2028")
    data = OptimizeReport.fold((*WON, odd)).to_dict()
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text) == json.loads(json.dumps(data))
    assert next(row for row in data["candidates"] if row["name"] == "odd")["max_rel_error"] is None


def test_event_of_an_unknown_graph_does_no_harm() -> None:
    plan = ev.PlanChosen(run="r", graph="no", candidate="c", code="")
    assert OptimizeReport.fold((STARTED, _decided("fast", "nowhere"), plan)).graphs == {}
