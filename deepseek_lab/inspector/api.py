"""``deepseek_lab.inspect``: a loop of the user's own, watched without a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import nn

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.inspection import Finding, Inspection
from deepseek_lab.inspector.budget import SHARE
from deepseek_lab.inspector.trial import Trials
from deepseek_lab.inspector.watch import Watch


def say(finding: Finding) -> None:
    """One line on stderr."""
    sys.stderr.write(f"inspect: step {finding.since}: {finding.text} ({finding.evidence})\n")


class Inspect:
    """A ``with`` block that watches what trains inside of it; ``report`` is what was seen so far, or in all."""

    def __init__(
        self,
        models: tuple[nn.Module, ...],
        found: Callable[[Finding], None],
        trials: Trials | None,
        share: float,
        namespace: Mapping[str, Any] | None,
    ) -> None:
        self._models, self._found, self._trials, self._share = models, found, trials, share
        self._namespace = namespace
        self._watch: Watch | None = None
        self._error = ""
        self._report: Inspection | None = None

    def __enter__(self) -> Inspect:
        frame = sys._getframe(1)
        names = self._namespace if self._namespace is not None else {**frame.f_globals, **frame.f_locals}
        self._watch = Watch(
            names, only=self._models, found=self._found, share=self._share, trials=self._trials
        ).open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watch is not None
        self._error = kind.__name__ if kind is not None else ""
        self._watch.close(error)
        self._report = self._watch.report(error=self._error)

    @property
    def report(self) -> Inspection:
        """What was seen."""
        if self._report is not None:
            return self._report
        return self._watch.report() if self._watch is not None else Inspection()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, causes first."""
        return self.report.findings


def inspect(
    *models: nn.Module,
    found: Callable[[Finding], None] = say,
    try_fixes: bool = False,
    share: float = SHARE,
    namespace: Mapping[str, Any] | None = None,
) -> Inspect:
    """Watch a training loop: activations, gradients, parameters and updates, module by module.

    Args:
        models: What to watch; without any, every model that is called.
        found: Told of each finding when it first appears; by default it is a line on stderr.
        try_fixes: Also try the fixes on copies when the block ends; keeps a copy of the model and of eight batches.
        share: Of the loop's time that looking may take.
        namespace: Where models have their names; by default the names around the block.

    The loop computes the same numbers as without it, bit by bit.

    Raises:
        TargetError: something that is no module.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> with inspect(model) as seen:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(8, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> seen.report.num_steps
    3
    """
    for model in models:
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"inspect watches modules, and this is a {type(model).__name__}",
                hint="with deepseek_lab.inspect(model):",
            )
    return Inspect(models, found, Trials() if try_fixes else None, share, namespace)
