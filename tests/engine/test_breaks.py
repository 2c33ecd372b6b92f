"""Where capture stopped: told with its line, whatever stopped it, and not where a call merely ended."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from deepseek_lab.engine.tracing import Tracer
from deepseek_lab.measure.breaks import in_words


def printing(x: Tensor) -> Tensor:
    y = x * 2
    print("here")
    return y + 1


def branching(x: Tensor) -> Tensor:
    y = x * 2
    if y.sum() > 0:  # here
        y = y + 1
    return y.relu()


def printing_first(x: Tensor) -> Tensor:
    print("here")
    return x * 2


def whole(x: Tensor) -> Tensor:
    return (x * 2).relu()


def captured(call: Callable[[Tensor], Tensor]) -> Tracer:
    def backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        return module.forward

    tracer = Tracer(call, backend)
    tracer.capture((torch.ones(3),), {}, dynamic=False)
    return tracer


def line_of(call: Callable[[Tensor], Tensor]) -> int:
    lines, start = inspect.getsourcelines(call)
    return start + next(at for at, line in enumerate(lines) if "here" in line)


@pytest.mark.parametrize(("call", "said"), [(printing, "print"), (branching, "values of a tensor")])
def test_a_break_says_where_and_why(call: Callable[[Tensor], Tensor], said: str) -> None:
    (only,) = captured(call).breaks
    assert (only.file, only.line) == (__file__, line_of(call))
    assert said in only.reason
    assert "\n" not in only.reason


def test_a_break_without_a_graph_before_it_still_says_why() -> None:
    breaks = captured(printing_first).breaks
    assert any("print" in item.reason for item in breaks)


def test_a_call_that_is_captured_whole_has_none() -> None:
    assert captured(whole).breaks == []


def test_each_capture_tells_of_its_own() -> None:
    tracer = captured(printing)
    tracer.capture((torch.ones(3),), {}, dynamic=False)  # captured before
    assert tracer.breaks == []


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "Failed to trace\n  Explanation: print is not traced\n  Hint: none",
            "Failed to trace: print is not traced",
        ),
        ("generic_jump TensorVariable()", "a branch depends on the values of a tensor"),
        ("something else", "something else"),
        ("", ""),
    ],
)
def test_reasons_are_one_line(reason: str, said: str) -> None:
    assert in_words(reason) == said


@functools.lru_cache(None)
def _once(logger: logging.Logger, text: str) -> None:
    logger.warning(text)


def test_a_message_that_is_logged_once_is_no_break(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers tells so at the first loss of GPT-2 what it takes for its loss."""
    monkeypatch.setattr(logging.Logger, "warning_once", _once, raising=False)
    logger: Any = logging.getLogger("deepseek_lab.tests.once")

    def telling(x: Tensor) -> Tensor:
        y = x * 2
        logger.warning_once("said once")
        return y + 1

    tracer = captured(telling)
    assert not tracer.breaks
    for _ in range(2):
        assert torch.equal(tracer.run((torch.ones(3),), {}), torch.full((3,), 3.0))
    telling(torch.ones(3))
    assert [record.message for record in caplog.records if "tests" in record.name] == ["said once"]


def test_a_message_that_each_call_logs_is_a_break(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("deepseek_lab.tests.each")

    def telling(x: Tensor) -> Tensor:
        y = x * 2
        logger.warning("said each time")
        return y + 1

    tracer = captured(telling)
    assert tracer.breaks
    tracer.run((torch.ones(3),), {})
    assert [record.message for record in caplog.records if "tests" in record.name] == ["said each time"] * 2
