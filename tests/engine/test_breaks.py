"""Where capture stopped: told with its line, whatever stopped it, and not where a call merely ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from deepseek_lab.engine.tracing import Tracer, in_words


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
