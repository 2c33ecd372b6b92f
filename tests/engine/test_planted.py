"""Candidates of a stranger that break a promise: none of them ever changes a result."""

from __future__ import annotations

import pytest
import torch

import deepseek_lab
from deepseek_lab.engine import candidates
from tests.engine.cases import Tower, decided, equal, installed, pristine, reasons, rows, tower, uses_program

pytestmark = pytest.mark.usefixtures("strangers")


def test_stranger_registers_like_one_of_our_own() -> None:
    known = candidates.registered()
    assert {"openvino", "onnxruntime", "planted-fast"} <= set(known)


def test_stranger_whose_distribution_is_broken_is_left_out() -> None:
    """One entry point of the planted distribution raises on import and one names nothing."""
    assert all(isinstance(one, candidates.Candidate) for one in candidates.registered().values())


def test_honest_stranger_wins() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    fresh = rows()
    with torch.no_grad():
        equal(fast(fresh), pristine(module)(fresh))
    assert uses_program(fast)
    assert fast.report.speedup > 1.02
    assert not fast.report.fallbacks


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("planted-wrong", "differs at output 0"),
        ("planted-forgetful", "differs at output 0"),
        ("planted-scribbler", "changes input 0"),
        ("planted-same-memory", "shares memory"),
    ],
)
def test_wrong_candidate_is_refused(name: str, words: str) -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=(name,))
    (row,) = fast.report.candidates
    assert (row.status, fast.report.chosen) == ("refused", "eager")
    assert words in row.reason
    assert name in fast.report.summary()
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_candidate_that_hands_out_its_input_is_refused() -> None:
    def keep(x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(tower(x.relu()), torch.zeros(()))

    x = rows().abs()
    fast = decided(keep, x, backends=("planted-shares-input",))
    (row,) = fast.report.candidates
    assert row.status == "refused"
    assert "shares memory" in row.reason
    got = fast(x)
    got.zero_()
    assert bool((x != 0).any())


def test_final_race_is_run_again_with_those_that_it_shows_to_be_near() -> None:
    """The one that was fastest by itself is not, beside the other, and the other was left out of the first final."""
    fast = decided(Tower(), rows(), backends=("planted-tiring", "planted-steady"))
    found = {row.name: row for row in fast.report.candidates}
    assert found["planted-steady"].status == "won", fast.report.summary()
    assert fast.report.chosen == "planted-steady"
    assert found["planted-tiring"].speedup < found["planted-steady"].speedup  # type: ignore[operator]


def test_slower_candidate_loses() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-slower",))
    (row,) = fast.report.candidates
    assert row.status == "lost"
    assert row.speedup is not None
    assert row.speedup < 1.0
    assert fast.report.chosen == "eager"
    assert not uses_program(fast)
    assert fast.report.summary().startswith("optimize  kept eager: best 0.")
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_candidate_that_raises_at_its_second_call() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-raises-later",))
    with torch.no_grad():
        for _ in range(4):
            x = rows()
            equal(fast(x), pristine(module)(x))
    assert not uses_program(fast)
    assert "planted-raises-later raised RuntimeError: the second call is one too many" in reasons(fast)
    assert fast.report.chosen == "eager"


def test_candidate_that_raises_is_not_what_the_store_gives_back() -> None:
    """A second kernel may meet it again; the user's calls are right there as well."""
    module, x = Tower(), rows()
    decided(module, x, backends=("planted-raises-later",)).restore()
    fast = decided(module, x, backends=("planted-raises-later",))
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))
        equal(fast(x), pristine(module)(x))


def test_candidate_that_loads_only_in_the_builder() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-unloadable",))
    assert "a library that only the builder has is missing" in reasons(fast)
    assert fast.report.chosen == "eager"
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_many_bad_candidates_do_not_keep_the_good_one_from_winning() -> None:
    module, x = Tower(), rows()
    names = ("planted-wrong", "planted-raising", "planted-slower", "planted-scribbler", "planted-fast")
    fast = installed(module, x, backends=names)
    assert {row.name: row.status for row in fast.report.candidates} == {
        "planted-fast": "won",
        "planted-raising": "failed",
        "planted-scribbler": "refused",
        "planted-slower": "lost",
        "planted-wrong": "refused",
    }


def test_unknown_backend_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(deepseek_lab.UsageError, match=r"planted-fsat(.|\n)*try: --backends planted-fast"):
        deepseek_lab.optimize(Tower(), backends=("planted-fsat",))


def test_candidate_that_does_less_than_one_far_behind_is_not_built() -> None:
    fast = decided(Tower(), rows(), backends=("planted-fast", "planted-slower", "planted-lesser"))
    found = {row.name: row for row in fast.report.candidates}
    assert fast.report.chosen == "planted-fast"
    assert found["planted-slower"].status == "lost"
    assert found["planted-lesser"].status == "skipped"
    assert (
        "not built: planted-slower, which does the same and more, was at 0." in found["planted-lesser"].reason
    )
