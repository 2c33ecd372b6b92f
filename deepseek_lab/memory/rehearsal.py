"""A training step on tensors without values: what it will hold at most, before anything big has run.

The model and its optimisers are copied with fake tensors in place of real ones (``torch._subclasses.fake_tensor``),
and the step runs through PyTorch's own autograd, so that what is saved for the backward pass, and when it is let go,
is what the real step does. Nothing is allocated, and the user's own objects are not touched.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from deepseek_lab.capture.observe import ModuleObserver
from deepseek_lab.engine.training.tape import Loss
from deepseek_lab.memory.choice import Choice, NotRehearsed
from deepseek_lab.memory.copies import as_parameter, copied, is_pytorchs, without_hooks
from deepseek_lab.memory.forms import Form
from deepseek_lab.memory.logits import Deferred, Head, linear_cross_entropy
from deepseek_lab.memory.meter import Meter, block_bytes
from deepseek_lab.memory.operations import Operation, Operations
from deepseek_lab.memory.optimizers import not_eight_bit
from deepseek_lab.memory.recompute import Recomputed
from deepseek_lab.memory.units import Unit

_IGNORED = -100
"""What PyTorch's losses, and those of transformers, take for no label unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Habits:
    """How a loop goes about a step, as far as it matters to memory."""

    gradients_in_forward: bool = False
    """Whether gradients of the last step are still there when the model is called."""
    gradients_in_backward: bool = False
    """Whether they are still there when the backward pass begins."""
    keeps_results: bool = False
    """Whether the last step's results are still there when the model is called."""
    holds_results: bool = False
    """Whether a step's own results are still there in its backward pass."""
    autocast: torch.dtype | None = None


@dataclasses.dataclass
class Part:
    """What a part of the model holds and does when nothing is recomputed."""

    path: str
    operations: list[Operation]
    bytes: int
    result_bytes: int = 0
    num_again: int = 1 << 30
    """How many of the operations are computed again: what follows the last one that something is saved of is not."""
    inputs: list[tuple[Tensor, int]] = dataclasses.field(default_factory=list)
    """What it was given, with its version then; empty once the step has ended."""
    written: bool = False
    """Whether somebody wrote to that after the part had run."""


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """What a step will hold."""

    peak_bytes: int
    lasting_bytes: int
    """Parameters, buffers and optimiser state: what is there between two steps."""
    phase: str
    """In which part of the step the most is held: ``forward``, ``backward`` or ``update``."""
    parts: tuple[Part, ...] = ()


class Rehearsal:
    """A step, ready to be rehearsed. Make it in the thread that trains; it can then run in any.

    Args:
        model: What the loop calls.
        args: A call's arguments.
        kwargs: And keywords.
        loss: How the loop computes its loss from the results; without it their sum stands for it.
        loss_index: Which of the results is the loss itself, where one is.
        optimizers: Those that train the model.
        habits: See :class:`Habits`.
        recomputed: The real model's parts, as far as they can be recomputed.
        heads: The real model's layers that can be deferred.
        others_bytes: What is held throughout beside model and optimisers.

    Raises:
        NotRehearsed: The model can't be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        loss: Loss | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        habits: Habits | None = None,
        recomputed: Sequence[Recomputed] = (),
        heads: Sequence[Head] = (),
        others_bytes: int = 0,
    ) -> None:
        self._mode = FakeTensorMode()
        self._loss = loss
        self._habits = habits if habits is not None else Habits()
        memo: dict[int, Any] = {}
        with torch.no_grad():
            for one in (*model.parameters(), *model.buffers()):
                memo[id(one)] = as_parameter(one, self._mode.from_tensor(one.detach()))
            try:
                with self._mode:
                    self._model = copy.deepcopy(model, memo)
            except Exception as error:
                raise NotRehearsed(f"the model can't be copied: {_words(error)}") from error
            self._args, self._kwargs, self._extras = tree_map(
                lambda one: self._fake(one, memo), (tuple(args), dict(kwargs), loss.extras if loss else ())
            )
        without_hooks(self._model)
        self._optimizers = [copied(one, memo, self._mode) for one in optimizers if is_pytorchs(one)]
        self._can_eight_bit = [not not_eight_bit(one) for one in optimizers if is_pytorchs(one)]
        odd = [one for one in optimizers if not is_pytorchs(one)]
        self._odd_state = others_bytes + sum(
            block_bytes(value)
            for one in odd
            for state in one.state.values()
            for value in tree_leaves(state)
            if isinstance(value, Tensor)
        )
        self._recomputed = [
            Recomputed(
                Unit(one.unit.path, self._model.get_submodule(one.unit.path)),
                lambda reason: None,
                trusted=one,
            )
            for one in recomputed
        ]
        self._heads: list[Head] = []
        for real in heads:
            layer = self._model.get_submodule(real.path)
            assert isinstance(layer, nn.Linear)
            head = Head(real.path, layer)
            head.num_labelled = real.most_labelled if real.num_rows else _num_labelled(args, kwargs)
            self._heads.append(head)

    def _fake(self, value: Any, memo: Mapping[int, Any]) -> Any:
        if not isinstance(value, Tensor):
            return value
        return memo.get(id(value)) if id(value) in memo else self._mode.from_tensor(value.detach())

    def run(self, choice: Choice, *, look: bool = False) -> Rehearsed:
        """Rehearse two steps one after the other; the second is what lasts.

        Args:
            choice: How the model runs.
            look: Also say what each part does.

        Raises:
            NotRehearsed: The step asks for a value, or does what fake tensors can't.
        """
        for one in self._recomputed:
            one.keep = choice.keeps.get(one.unit.path)
        for head in self._heads:
            head.on = choice.defers
        patches: list[Recomputed | Head] = [*self._recomputed, *self._heads]
        for patch in patches:
            patch.install()
        states = [dict(one.state) for one in self._optimizers]
        states = [{weight: dict(state) for weight, state in one.items()} for one in states]
        meter = Meter()
        parts: list[Part] = []
        try:
            with ModuleObserver.unseen(), self._mode:
                forms = [
                    Form(one, choice, self._heads, can_eight_bit=can)
                    for one, can in zip(self._optimizers, self._can_eight_bit, strict=True)
                ]
                old: list[Any] = []
                for last in (False, True):
                    if last and look:
                        for one in self._recomputed:
                            one.watch = _looking(one.unit.path, meter, parts)
                    result = self._step(meter, forms, old, parts)
            return dataclasses.replace(result, parts=tuple(parts))
        except Exception as error:
            raise NotRehearsed(_words(error)) from error
        finally:
            for patch in patches:
                patch.remove()
            for one in self._recomputed:
                one.watch = None
            meter.release()
            for weight in self._model.parameters():
                weight.grad = None
            for optimizer, state in zip(self._optimizers, states, strict=True):
                optimizer.state = collections.defaultdict(dict, state)

    def _step(self, meter: Meter, forms: Sequence[Form], old: list[Any], parts: Sequence[Part]) -> Rehearsed:
        habits = self._habits
        meter.hold(self._model.parameters())
        meter.hold(self._model.buffers())
        for form in forms:
            meter.hold(form.held())
        meter.hold(
            one for one in tree_leaves((self._args, self._kwargs, self._extras)) if isinstance(one, Tensor)
        )
        lasting = meter.now_bytes + self._odd_state
        meter.peak_bytes = meter.now_bytes
        if not habits.gradients_in_forward:
            self._clear()
        with meter:
            with self._precision():
                results = self._model(*self._args, **self._kwargs)
                old.clear()  # what the loop's name held is let go when the call returns
                if not habits.gradients_in_backward:
                    self._clear()
                forward = meter.peak_bytes
                found = [one for one in tree_leaves(results) if isinstance(one, Tensor)]
                if habits.keeps_results:
                    old.append(results)
                if not habits.holds_results:
                    del results
                loss = self._loss_of(found)
            for part in parts:
                part.written = any(one._version != version for one, version in part.inputs)
                part.inputs = []
            with contextlib.ExitStack() as stack:
                for form in forms:
                    stack.enter_context(form.in_backward(keeps_results=habits.keeps_results))
                loss.backward()
            del loss
            backward = meter.peak_bytes
            for form in forms:
                form.step(keeps_results=habits.keeps_results)
        peak = meter.peak_bytes + self._odd_state
        phase = "forward" if peak == forward else "backward" if peak == backward else "update"
        return Rehearsed(peak, lasting, phase)

    def _clear(self) -> None:
        for weight in self._model.parameters():
            weight.grad = None

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        dtype = self._habits.autocast
        if dtype is None:
            return contextlib.nullcontext()
        kind = next((one.device.type for one in self._model.parameters()), "cpu")
        return torch.autocast(kind, dtype)

    def _loss_of(self, results: list[Tensor]) -> Tensor:
        """The loss; the list is emptied, so that a result is let go when it was used for the last time."""
        if self._loss is not None:
            taken = [results[index] for index in self._loss.used]
            results.clear()
            taken += self._extras
            loss = fx.Interpreter(self._loss.graph).boxed_run(taken)
            assert isinstance(loss, Tensor)
            return loss
        own = loss_among(results)
        if own is not None:
            loss = results[own]
            results.clear()
            return loss
        losses = [_stand_in(one) for one in results if one.requires_grad]
        if not losses:
            raise NotRehearsed("no result can be differentiated")
        results.clear()
        return torch.stack(losses).sum()


def _num_labelled(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """How many tokens have a label, as far as a call's own arguments say it."""
    counts = [
        int((one != _IGNORED).sum())
        for one in tree_leaves((args, kwargs))
        if isinstance(one, Tensor) and one.dtype == torch.int64
    ]
    return min(counts, default=1 << 60)


def _stand_in(result: Tensor) -> Tensor:
    """A loss of a result whose own loss is not known yet; logits are taken to be classes' before a cross entropy."""
    if type(result) is Deferred:
        rows = result._rows.flatten(0, -2)
        weight, bias = result._source.weights()
        labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        return linear_cross_entropy(rows, weight, bias, labels, head=result._source.head).float()
    return result.float().sum()


def loss_among(results: Sequence[Tensor]) -> int | None:
    """Which of a model's results is a loss: the first scalar that can be differentiated."""
    return next((i for i, one in enumerate(results) if one.requires_grad and one.dim() == 0), None)


def _looking(path: str, meter: Meter, parts: list[Part]) -> Callable[..., Any]:
    def watch(before: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        held = meter.now_bytes
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        versions = [(one, one._version) for one in given]
        operations, reached = Operations(), [0]

        def saved(one: Tensor) -> Tensor:
            reached[0] = len(operations.found)
            return one

        with operations, torch.autograd.graph.saved_tensors_hooks(saved, lambda one: one):
            result = before(*args, **kwargs)
        inputs = {one.untyped_storage()._cdata for one in given}
        made = {
            one.untyped_storage()._cdata: block_bytes(one)
            for one in tree_leaves(result)
            if isinstance(one, Tensor) and type(one) is not Deferred
        }
        own = sum(size for key, size in made.items() if key not in inputs)
        held = max(meter.now_bytes - held - own, 0)
        parts.append(Part(path, operations.found, held, own, reached[0], versions))
        return result

    return watch


def _words(error: BaseException) -> str:
    if isinstance(error, NotRehearsed):
        return str(error)
    words = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
