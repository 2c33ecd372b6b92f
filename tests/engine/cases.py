"""Modules that an honest candidate makes much faster, and what a test asks of an optimised one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.engine.api import Optimized

NUM_NEGATIONS = 200
WIDTH = 64
FAST = ("planted-fast",)


def tower(h: Tensor) -> Tensor:
    """``h`` by a long way: an even number of negations, which are exact and which one candidate cancels."""
    for _ in range(NUM_NEGATIONS):
        h = -h
    return h


class Tower(nn.Module):
    """Two linear layers with a tower between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(tower(self.first(x))))


def rows(count: int = 64) -> Tensor:
    """A batch of inputs for a tower."""
    return torch.randn(count, WIDTH)


def decided(
    target: Any, *inputs: Any, backends: Sequence[str] = FAST, grad: bool = False, **kwargs: Any
) -> Optimized:
    """Optimise a target, call it once and wait until everything is decided."""
    fast: Optimized = deepseek_lab.optimize(target, backends=tuple(backends))
    with torch.set_grad_enabled(grad):
        fast(*inputs, **kwargs)
        assert deepseek_lab.wait(120)
    return fast


def installed(target: Any, *inputs: Any, **options: Any) -> Optimized:
    """Like :func:`decided`, and a planted candidate must have won."""
    fast = decided(target, *inputs, **options)
    assert fast.report.chosen.startswith("planted"), fast.report.summary()
    return fast


def uses_program(fast: Optimized) -> bool:
    """Whether a program is installed on any graph of the target now."""
    return any(runner.installed for one in fast.run.dispatchers.values() for runner in one.runners)


def reasons(fast: Optimized) -> str:
    """Everything the report says about what went otherwise than hoped."""
    report = fast.report
    said = [row.reason for row in report.candidates] + [record.reason for record in report.graphs.values()]
    said += [fall.reason for fall in report.fallbacks] + report.notes
    return " | ".join(filter(None, said))


def equal(got: Any, wanted: Any) -> None:
    """The same structure with the same values, to what float32 can promise."""
    torch.testing.assert_close(got, wanted)


def pristine(module: nn.Module) -> Callable[..., Any]:
    """A deep copy that has never been touched by the engine."""
    twin = copy.deepcopy(module)
    assert twin._compiled_call_impl is None
    return twin
