"""A loop that is watched: what it calls, differentiates and steps, while it runs as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from deepseek_lab.base.inspection import Curve, Finding, Inspection
from deepseek_lab.inspector import blame, failures, rules
from deepseek_lab.inspector.budget import SHARE, Budget
from deepseek_lab.inspector.calls import ModuleCalls, Returned
from deepseek_lab.inspector.collector import Collector
from deepseek_lab.inspector.curves import Curves
from deepseek_lab.inspector.ledger import Ledger
from deepseek_lab.inspector.losses import LossCall, LossCalls
from deepseek_lab.inspector.models import Models
from deepseek_lab.inspector.optimizers import Optimizers, note_gradients
from deepseek_lab.inspector.probes import Probes
from deepseek_lab.inspector.records import gradient_curves, record
from deepseek_lab.inspector.seen import ModelSeen
from deepseek_lab.inspector.sites import NOWHERE, Site, own_site

if TYPE_CHECKING:
    from deepseek_lab.inspector.trial import Trials

_MAX_ERRORS = 3

Found = Callable[[Finding], None]


class Watch:
    """Watches what trains between :meth:`open` and :meth:`close`.

    Args:
        namespace: Where models have their names.
        only: Modules to watch; empty watches every one that is called.
        found: Told of each finding when it first appears, in the middle of the loop.
        share: Of the loop's time that looking may take.
        trials: Keeps what is needed to try fixes.

    Nothing of it is on a model, a parameter or an optimiser; patches of PyTorch's functions are undone by
    :meth:`close`.
    An error of ours is a note, never an error of the loop.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        *,
        only: Sequence[nn.Module] = (),
        found: Found = lambda finding: None,
        share: float = SHARE,
        trials: Trials | None = None,
    ) -> None:
        self._trials = trials
        self._budget = Budget(share)
        self._calls = ModuleCalls(self)
        self._losses = LossCalls(self)
        self._notes: dict[str, None] = {}
        self._models = Models(namespace, only, self._notes.setdefault)
        self._all = self._models.all
        self._recent: list[ModelSeen] = []
        """Models that were called since the last backward pass."""
        self._open: dict[int, Collector] = {}
        self._streaks: dict[int, rules.Streaks] = {}
        self._optimizers = Optimizers(self._all)
        self._last_loss: weakref.ref[Tensor] | None = None
        self._last_site: Site = NOWHERE
        self._ledger = Ledger(found)
        self._curves = Curves(self._all, self._ledger, self._budget)
        self._probes = Probes(self._budget)
        self._quiet = 0
        """Steps of the optimiser before which nothing is looked at, where there is only one."""
        self._num_steps = 0
        self._in_backward = False
        self._errors = 0
        self._opened = False
        self._off = True
        """Whether nothing is looked at: it is closed, or too much of ours went wrong."""
        self._hooks: list[Any] = []
        self._wall_s = 0.0

    # -- opening and closing --------------------------------------------------------------------------

    def open(self) -> Watch:
        """Start watching."""
        self._budget.start_s = time.perf_counter()
        self._hooks = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self.step_begins(optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self.step_ended(optimizer)),
        ]
        self._calls.open()
        self._losses.open()
        self._opened, self._off = True, False
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Stop watching; what was seen is still to be read.

        Args:
            error: What ended the loop.
        """
        if not self._opened:
            return
        self._opened, self._off = False, True
        self._losses.close()
        self._calls.close()
        for hook in self._hooks:
            hook.remove()
        if self._trials is not None:
            self._trials.stop_recording()
        self._wall_s = time.perf_counter() - self._budget.start_s
        with self._safely():
            if error is not None:
                recent = self._recent[-1] if self._recent else None
                self._ledger.add_all(failures.of_error(error, self._all, recent))
            for model in list(self._all):
                self._finish(model)
                model.call = None
            self._curves.judge()
            for model in self._all:
                self._ledger.add_all(rules.unreached(model))
            self._ledger.add_all(self._optimizers.strangers())

    def __enter__(self) -> Watch:
        return self.open()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        """An error of ours must not become one of the user's."""
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._notes.setdefault(f"something was not looked at ({type(error).__name__}: {error})")
        self._errors += 1
        self._off |= self._errors >= _MAX_ERRORS

    # What follows is in the way of every step. A ``with`` statement would be a tenth of what it costs.

    # -- calls of modules -----------------------------------------------------------------------------

    def begins(self, module: nn.Module, args: Any, kwargs: Any) -> Returned | None:
        """A model is called by the loop."""
        if self._off or self._in_backward or not torch.is_grad_enabled():
            return None
        try:
            model = self._models.find(module)
            return self._begin(model, module, args, kwargs) if model is not None else None
        except Exception as error:
            self._fail(error)
            return None

    def _begin(self, model: ModelSeen, module: nn.Module, args: Any, kwargs: Any) -> Returned | None:
        if model.stepped or (model.differentiated and not model.optimizers):
            self._next_step(model)
        model.call = (module, args, kwargs)
        model.num_calls += 1
        if model not in self._recent:
            self._recent.append(model)
        if model.random:
            model.random_state = torch.get_rng_state()
        collector = self._open.get(id(model))
        if self._trials is not None:
            self._trials.begins(model, module, args, kwargs)
        if collector is not None:
            return collector if collector.again() else None
        budget = self._budget
        if budget.rest:
            budget.rest -= 1
            return None
        if not budget.allows() or _has_mode():
            return None
        start = time.perf_counter()
        model.site = own_site(3)
        model.random_state = torch.get_rng_state()
        collector = self._open[id(model)] = Collector(model, self._fail)
        collector.spent_s += time.perf_counter() - start
        return collector

    def _next_step(self, model: ModelSeen) -> None:
        self._finish(model)
        if not model.optimizers:
            model.step += 1
            self._num_steps = max(self._num_steps, model.step)
        model.stepped = model.differentiated = False

    def ended(self, module: nn.Module, result: Any) -> None:
        """That call has returned."""
        model = self._models.find(module)
        if model is None or self._off:
            return
        collector = self._open.get(id(model))
        if collector is not None:
            collector.forget()
        if collector is not None and not model.random and model.random_state is not None:
            with self._safely():
                model.random = not torch.equal(model.random_state, torch.get_rng_state())
        if self._trials is not None and torch.is_grad_enabled():
            with self._safely():
                self._trials.returned(model, result)

    # -- losses and backward passes ---------------------------------------------------------------------

    @property
    def wants_results(self) -> bool:
        """Fixes are tried on steps that were not looked at too."""
        return self._trials is not None

    @property
    def wants_calls(self) -> bool:
        """Labels are looked at in a sampled step; if a loss is not finite its graph tells what it was made of."""
        return bool(self._open)

    def loss_called(self, call: LossCall) -> None:
        """A loss function has returned."""
        if self._off or self._in_backward or not torch.is_grad_enabled():
            return
        self._curves.called(call)
        if not self._open:
            return
        start = time.perf_counter()
        try:
            recent = self._recent[-1] if self._recent else None
            self._curves.look_at_labels(dataclasses.replace(call, site=own_site(2)), recent)
        except Exception as error:
            self._fail(error)
        next(iter(self._open.values())).spent_s += time.perf_counter() - start

    def differentiates(self, loss: Any, site: Site) -> None:
        """``backward`` is about to run."""
        self._in_backward = True
        if self._off:
            return
        try:
            self._differentiates(loss, site)
        except Exception as error:
            self._fail(error)

    def _differentiates(self, loss: Any, site: Site) -> None:
        recent = self._recent
        if not recent or not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if not loss.is_cpu and (loss.is_meta or not self._open):
            return  # reading it would wait for the device
        self._curves.add(recent[-1], loss, site, sampled=bool(self._open))
        if not self._quiet or self._open:  # else no gradient is looked at, which is what it is for
            self._last_loss, self._last_site = weakref.ref(loss), site

    def differentiated(self) -> None:
        """``backward`` has run."""
        self._in_backward = False
        self._curves.differentiated()
        for model in self._recent:
            model.differentiated = True
            if not model.optimizers and model.step > 2:
                with self._safely():
                    self._probe(model)
        self._recent = []

    def _probe(self, model: ModelSeen) -> None:
        """Look at a few gradients, and say where one comes from that is not finite."""
        if id(model) in self._curves.blamed or model.call is None:
            return
        if not self._probes.are_finite(model):
            self._curves.blamed.add(id(model))
            self._ledger.add(blame.of_gradient(model, self._last_site, self._last_loss))
        elif len(self._optimizers) == 1 and len(self._all) == 1 and self._trials is None:
            self._quiet = self._probes.rest

    # -- steps of optimisers ------------------------------------------------------------------------------

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step."""
        if self._off:
            return
        if self._quiet > 0 and not self._open:
            self._quiet -= 1
            return
        try:
            for model in self._optimizers.trained_by(optimizer):
                self._probe(model)
                collector = self._open.get(id(model)) if self._open else None
                if collector is not None:
                    collector.before(optimizer)
                    note_gradients(model, optimizer)
                if self._trials is not None:
                    self._trials.step_begins(model, optimizer)
        except Exception as error:
            self._fail(error)

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped."""
        if self._off:
            return
        try:
            for model in self._optimizers.stepped(optimizer):
                collector = self._open.get(id(model)) if self._open else None
                if collector is not None:
                    collector.after()
                    note_gradients(model, optimizer)
                model.stepped = True
                model.call = None
                if model.optimizers[0]() is optimizer:
                    model.step += 1
                    if model.step > self._num_steps:
                        self._num_steps = model.step
                    if self._curves.may_judge(model.step):
                        self._curves.judge()
        except Exception as error:
            self._fail(error)

    # -- what is made of it -------------------------------------------------------------------------------

    def _finish(self, model: ModelSeen) -> None:
        """The sampled step is over: read it, and look for what is wrong."""
        collector = self._open.pop(id(model), None)
        if collector is None:
            return
        start = time.perf_counter()
        collector.finish()
        spent = collector.spent_s
        if id(model) not in self._curves.blamed:  # of what follows NaN everything may be said
            streaks = self._streaks.setdefault(id(model), rules.Streaks())
            hits = rules.hits_of(model, collector.step)
            self._ledger.add_all(streaks.persisting(collector.step, hits))
            self._ledger.add_all(rules.unreached(model))
        self._budget.add(spent + time.perf_counter() - start)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far: causes before what they cause."""
        return self._ledger.findings

    def report(self, *, error: str = "") -> Inspection:
        """Everything that was seen, as records."""
        findings = self.findings
        if self._trials is not None and not self._opened:
            findings = self._trials.tried(findings, self._all)
        return Inspection(
            findings=tuple(findings),
            modules=tuple(
                record(model, seen)
                for model in self._all
                for seen in [*model.ordered, *model.functional.values()]
                if seen.samples
            ),
            losses=tuple(
                Curve(f"{one.model}, line {one.site[1]}", tuple(one.steps), tuple(one.values))
                for one in self._curves.series.values()
            ),
            gradients=tuple(gradient_curves(self._all)),
            num_steps=self._num_steps,
            num_samples=self._budget.num_samples,
            wall_s=self._wall_s or time.perf_counter() - self._budget.start_s,
            spent_s=self._budget.spent_s,
            error=error,
            notes=(*self._notes, *self._what_was_not_seen()),
        )

    def _what_was_not_seen(self) -> Iterator[str]:
        if not self._all:
            yield "no module with parameters was called with gradients on"
        elif not self._curves.series:
            yield "nothing was differentiated by backward()"
        elif not any(model.optimizers for model in self._all) and not self._optimizers.any_strange:
            yield "no optimiser of PyTorch's stepped: updates were not seen, and a step is a call after a backward pass"


def _has_mode() -> bool:
    """Whether a mode of the user's would see what we compute."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
    )
