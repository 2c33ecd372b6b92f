"""Fixes tried on copies of the model and its optimiser, on batches that the loop itself gave; the loop's own state is
not touched.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from deepseek_lab.base.inspection import Finding, Trial
from deepseek_lab.engine.training.tape import Loss, LossTape
from deepseek_lab.inspector.copies import apart, copied, copy_of, optimizer_of
from deepseek_lab.inspector.remedies import REMEDIES, Copies
from deepseek_lab.inspector.seen import ModelSeen

NUM_BATCHES = 8
NUM_STEPS = 40
"""Steps that each fix is given, on the recorded batches in turn."""
BUDGET_S = 20.0
"""Time for all fixes together; what does not fit is said to be untried."""
MAX_BYTES = 1 << 29


@dataclasses.dataclass
class _Batch:
    args: Any
    kwargs: Any
    random_state: Tensor
    loss: Loss | None = None


@dataclasses.dataclass
class _Recorded:
    """What is kept of one model: how it and its optimiser were at the first step, and the first batches."""

    start: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    state: Any = None
    batches: list[_Batch] = dataclasses.field(default_factory=list)
    failed: str = ""


class Trials:
    """Records what trials need while the loop runs, and makes them when it has ended."""

    def __init__(self) -> None:
        self._of: dict[int, _Recorded] = {}
        self._tape: LossTape | None = None
        self._done: list[Finding] | None = None

    # -- while the loop runs --------------------------------------------------------------------------

    def begins(self, model: ModelSeen, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A model is called."""
        self.stop_recording()
        one = self._of.setdefault(id(model), _Recorded())
        if one.failed or len(one.batches) >= NUM_BATCHES or module is not model.module():
            return
        try:
            if one.start is None:
                one.start = copy_of(module, share=False)
            batch = _Batch(copied(args), copied(kwargs), torch.get_rng_state())
        except Exception as error:
            one.failed = f"the model or its inputs cannot be copied ({type(error).__name__}: {error})"
            return
        size = sum(
            leaf.nbytes for leaf in tree_leaves((batch.args, batch.kwargs)) if isinstance(leaf, Tensor)
        )
        if size * NUM_BATCHES > MAX_BYTES:
            one.failed = f"its batches are too large to keep ({size >> 20} MiB each)"
            return
        one.batches.append(batch)

    def returned(self, model: ModelSeen, result: Any) -> None:
        """It has returned: record what the loop makes of it, up to the loss."""
        one = self._of.get(id(model))
        if one is None or one.failed or not one.batches or one.batches[-1].loss is not None:
            return
        batch = one.batches[-1]
        tensors = [leaf for leaf in tree_leaves(_opened(result)) if isinstance(leaf, Tensor)]

        def ended(loss: Loss | None) -> None:
            batch.loss = loss

        tape = LossTape(tensors, ended)
        self._tape = tape if tape.start() else None

    def stop_recording(self) -> None:
        """Be off the stack of function modes."""
        if self._tape is not None:
            self._tape.stop()
            self._tape = None

    def step_begins(self, model: ModelSeen, optimizer: torch.optim.Optimizer) -> None:
        """The first step of its optimiser is about to be made."""
        self.stop_recording()
        one = self._of.get(id(model))
        if one is not None and one.optimizer is None and one.start is not None and not one.failed:
            # The state is a copy; which parameters are in which group is the optimiser's own, and is kept as it is.
            one.optimizer, one.state = optimizer, tree_map(_cloned, optimizer.state_dict())

    # -- afterwards -----------------------------------------------------------------------------------

    def tried(self, findings: Sequence[Finding], models: Sequence[ModelSeen]) -> list[Finding]:
        """The findings with what their fixes did; made once."""
        if self._done is None:
            self.stop_recording()
            until = time.perf_counter() + BUDGET_S
            self._done = [self._tried(one, models, until) for one in findings]
            self._of.clear()
        return self._done

    def _tried(self, finding: Finding, models: Sequence[ModelSeen], until: float) -> Finding:
        if finding.kind not in REMEDIES:
            return finding
        model = next((one for one in models if one.name == finding.model), None)
        recorded = self._of.get(id(model)) if model is not None else None
        if model is None or recorded is None:
            return finding
        try:
            trial = self._trial(finding, model, recorded, until)
        except Exception as error:
            trial = Trial(failed=f"{type(error).__name__}: {error}")
        return dataclasses.replace(finding, trial=trial)

    def _trial(self, finding: Finding, model: ModelSeen, recorded: _Recorded, until: float) -> Trial:
        batches = [one for one in recorded.batches if one.loss is not None]
        source = model.module()
        if recorded.failed:
            return Trial(failed=recorded.failed)
        if not batches or recorded.start is None or recorded.optimizer is None or source is None:
            return Trial(failed="how the loss is computed from the model's results could not be recorded")
        outcomes = []
        for with_fix in (False, True):
            if time.perf_counter() > until:
                return Trial(failed=f"no time was left of {BUDGET_S:.0f} s")
            copies = self._copies(recorded, source, model.name)
            with apart():
                torch.manual_seed(0)
                if with_fix and not REMEDIES[finding.kind](finding, copies):
                    return Trial(failed="there is nothing in the model that the fix could change by itself")
                outcomes.append(_trained(copies, batches, finding, until))
        (before, without, old, count), (_, with_it, new, _) = outcomes
        return Trial(count, before, without, with_it, old, new)

    @staticmethod
    def _copies(recorded: _Recorded, source: nn.Module, name: str) -> Copies:
        assert recorded.start is not None
        assert recorded.optimizer is not None
        made = copy_of(recorded.start, share=False)
        made.train(recorded.start.training)
        return Copies(made, optimizer_of(recorded.optimizer, source, made, recorded.state), name)


def _cloned(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _opened(result: Any) -> Any:
    return list(result.values()) if isinstance(result, dict) else result


def _trained(
    copies: Copies, batches: Sequence[_Batch], finding: Finding, until: float
) -> tuple[float, float, float | None, int]:
    """Mean loss of the first and the last round over the batches, the module's gradient, and the number of steps."""
    losses: list[float] = []
    gradient: float | None = None
    parameters = [one for one in copies.model.parameters() if one.requires_grad]
    for number in range(max(NUM_STEPS, 2 * len(batches))):
        batch = batches[number % len(batches)]
        args, kwargs = copied(batch.args), copied(batch.kwargs)
        if copies.change_inputs is not None:
            args, kwargs = tree_map(copies.change_inputs, (args, kwargs))
        torch.set_rng_state(batch.random_state)
        results = [
            leaf for leaf in tree_leaves(_opened(copies.model(*args, **kwargs))) if isinstance(leaf, Tensor)
        ]
        assert batch.loss is not None
        loss = batch.loss.of(results, batch.loss.extras)
        copies.optimizer.zero_grad()
        loss.backward()
        if copies.clip is not None:
            nn.utils.clip_grad_norm_(parameters, copies.clip)
        copies.optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]) or time.perf_counter() > until:
            break
    path = finding.affected[0] if finding.affected else finding.module
    module = copies.module(path) or copies.module(finding.module)
    if module is not None:
        norms = [one.grad.norm() for one in module.parameters() if one.grad is not None]
        gradient = float(torch.stack(norms).norm()) if norms else 0.0
    width = min(len(batches), max(1, len(losses) // 2))
    return (
        sum(losses[:width]) / width,
        sum(losses[-width:]) / width if math.isfinite(losses[-1]) else math.nan,
        gradient,
        len(losses),
    )
