"""The form in which a copied optimiser steps in a rehearsal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepseek_lab.engine.training.steps import FusedForm
from deepseek_lab.memory.choice import Choice, NotRehearsed
from deepseek_lab.memory.eight_bit import EightBit
from deepseek_lab.memory.logits import Head
from deepseek_lab.memory.optimizers import update_of, weights_of


class Form:
    """The form in which a copied optimiser steps."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        choice: Choice,
        heads: Sequence[Head],
        *,
        can_eight_bit: bool,
    ) -> None:
        self._optimizer, self._choice, self._heads = optimizer, choice, heads
        self._eight: EightBit | None = None
        if choice.eight_bit and can_eight_bit:
            self._eight = EightBit(optimizer).install()

    def held(self) -> list[Tensor]:
        """Its state."""
        if self._eight is not None:
            return list(self._eight.held())
        return [
            v for state in self._optimizer.state.values() for v in state.values() if isinstance(v, Tensor)
        ]

    @contextlib.contextmanager
    def in_backward(self, *, keeps_results: bool) -> Iterator[None]:
        """A backward pass, with its step in it where that is the choice."""
        if not self._choice.in_backward:
            yield
            return
        groups = {id(one): group for group in self._optimizer.param_groups for one in group["params"]}
        own = update_of(self._optimizer, fused=self._choice.fused)
        update = own if self._eight is None else self._eight.update
        untouched = _Untouched()

        def complete(weight: Tensor) -> None:
            if keeps_results and not untouched.updated:
                for head in self._heads:
                    head.before_update()
            with untouched.ours():
                update(weight, groups[id(weight)])
            untouched.updated.add(weight.untyped_storage()._cdata)
            weight.grad = None

        weights = [one for one in weights_of(self._optimizer) if one.requires_grad]
        handles = [one.register_post_accumulate_grad_hook(complete) for one in weights]
        try:
            with untouched:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def step(self, *, keeps_results: bool) -> None:
        """The step that the loop asks for."""
        for head in self._heads if keeps_results and not self._choice.in_backward else ():
            head.before_update()
        if self._eight is not None:
            self._eight.step_begins()
            self._eight.step_ended()
            return
        form = FusedForm()
        if self._choice.fused:
            form.take(self._optimizer)
        with torch.no_grad():
            type(self._optimizer).step(self._optimizer)
        form.put_back()


class _Untouched(TorchDispatchMode):
    """Sees that nothing reads a weight that has taken its step: a recomputation would not compute the same."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.updated: set[int] = set()
        self._ours = False

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """An update is under way."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if self.updated and not self._ours:
            for one in tree_leaves((args, kwargs)):
                if isinstance(one, Tensor) and one.untyped_storage()._cdata in self.updated:
                    raise NotRehearsed("the backward pass uses a weight whose gradient is complete")
        return func(*args, **(kwargs or {}))
