"""The moments of a user's AdamW in a byte a value, quantised block by block (Dettmers et al. 2021, arXiv:2110.02861).

The optimiser stays the user's, with its groups, hooks and schedulers; whoever looks into its state, copies or saves it
finds ordinary tensors, made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.memory.gradients import drop_gradient, gradient_of
from deepseek_lab.memory.interrupts import uninterrupted
from deepseek_lab.memory.optimizers import own, weights_of

SLABS, MIN_SLAB, MAX_SLAB = 64, 1 << 14, 1 << 18
"""Share of all values that are updated at once, in room of some float32 values each, and its bounds."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class QuantisedState(dict[str, Any]):
    """A parameter's state: its moments are made when they are asked for, the rest is as it was."""

    def __init__(self, source: EightBit, weight: Tensor, rest: Mapping[str, Any]) -> None:
        super().__init__({name: value for name, value in rest.items() if name not in MOMENTS})
        self._source, self.weight = source, weight

    def __missing__(self, name: str) -> Tensor:
        if name not in MOMENTS:
            raise KeyError(name)
        return self._source.moment(self.weight, name)

    def __contains__(self, name: object) -> bool:
        return name in MOMENTS or super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from MOMENTS

    def __len__(self) -> int:
        return super().__len__() + len(MOMENTS)

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def get(self, name: str, default: Any = None) -> Any:
        known = name in self  # a dict's own would not ask __missing__
        return self[name] if known else default

    def ordinary(self) -> dict[str, Any]:
        """As PyTorch's own optimiser has it."""
        return dict(self.items())

    def __reduce__(self) -> Any:
        return dict, (self.ordinary(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in self.items()}


class EightBit:
    """Keeps an AdamW's moments quantised, and makes its steps, until :meth:`restore`."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        # Not before somebody asks for it: PyTorch's distributed tensors come with it.
        from deepseek_lab.memory.devices.runtime.adamw8bit import AdamW8bit

        self.optimizer = optimizer
        weights = weights_of(optimizer)
        count = sum(one.numel() for one in weights)
        self._inner = AdamW8bit(weights, slab=min(max(count // SLABS, MIN_SLAB), MAX_SLAB))
        own.add(self._inner)
        self._hooks: list[Any] = []
        self._hidden: list[tuple[Tensor, Tensor]] = []

    def install(self) -> EightBit:
        """Quantise what is there."""
        for weight in weights_of(self.optimizer):
            self._inner._map(weight.device, MOMENTS[0])  # made now, and not in the middle of a step
        self._adopt()
        self._hooks = [
            self.optimizer.register_state_dict_post_hook(_ordinary),
            self.optimizer.register_load_state_dict_post_hook(lambda optimizer: self._adopt()),
        ]
        return self

    def restore(self) -> None:
        """The state in ordinary tensors again."""
        self.step_ended()
        self._ordinary()

    def _ordinary(self) -> None:
        for one in self._hooks:
            one.remove()
        self._hooks = []
        for weight, state in list(self.optimizer.state.items()):
            if isinstance(state, QuantisedState):
                self.optimizer.state[weight] = state.ordinary()
                self._inner.state.pop(weight, None)

    def held(self) -> Iterator[Tensor]:
        """What it keeps beside the optimiser's own state."""
        for state in self._inner.state.values():
            yield from (one for one in state.values() if isinstance(one, Tensor))
        for state in self.optimizer.state.values():
            if isinstance(state, QuantisedState):
                yield from (one for one in dict.values(state) if isinstance(one, Tensor))
        yield from (one for maps in self._inner._maps.values() for one in maps)

    def update(self, weight: Tensor, group: Mapping[str, Any]) -> None:
        """One parameter's step."""
        state: Any = self.optimizer.state[weight]
        if not isinstance(state, QuantisedState):
            if "step" not in state:
                state["step"] = torch.tensor(0.0)
            state = self._adopt_one(weight, state)
        values = {name: group[name] for name in ("betas", "eps", "weight_decay")}
        rate = group["lr"]
        values["lr"] = float(rate) if isinstance(rate, Tensor) else rate
        with torch.no_grad():
            self._inner._update(weight, values)
        state["step"] += 1

    def step_begins(self) -> None:
        """Make the step that the loop asks for; its own then finds no gradients."""
        done: list[tuple[Tensor, Tensor]] = []
        with uninterrupted():
            try:
                for group in self.optimizer.param_groups:
                    for weight in group["params"]:
                        gradient = gradient_of(weight)
                        if gradient is not None:
                            self.update(weight, group)
                            done.append((weight, gradient))
            except Exception:
                self._ordinary()  # the optimiser's own step does the rest
                raise
            finally:
                for weight, _ in done:
                    drop_gradient(weight)
                self._hidden = done

    def step_ended(self) -> None:
        """Gradients are there again, until the loop lets them go."""
        hidden, self._hidden = self._hidden, []
        for weight, gradient in hidden:
            if gradient_of(weight) is None:
                weight.grad = gradient

    def moment(self, weight: Tensor, name: str) -> Tensor:
        """A moment as an ordinary tensor."""
        state, count = self._inner.state[weight], weight.numel()
        made = torch.empty_like(weight, dtype=torch.float32, requires_grad=False)
        flat = made.as_strided((count,), (1,))
        for part in self._slabs(count):
            flat[part].copy_(self._inner._read(state, name, part))
        return made

    def _adopt(self) -> None:
        with torch.no_grad():
            for weight in weights_of(self.optimizer):
                state = self.optimizer.state.get(weight)
                if state and not isinstance(state, QuantisedState):
                    self._adopt_one(weight, state)

    def _adopt_one(self, weight: Tensor, state: dict[str, Any]) -> QuantisedState:
        inner, count = self._inner.state[weight], weight.numel()
        inner.clear()
        self._inner._begin(inner, count, weight.device)
        inner["step"] = int(state.get("step", 0))
        for name in MOMENTS:
            if name not in state:
                continue
            like = torch.empty_like(weight, dtype=torch.float32)
            flat = like.copy_(state.pop(name)).as_strided((count,), (1,))
            for part in self._slabs(count):
                self._inner._write(inner, name, part, flat[part])
            del like, flat
        made = self.optimizer.state[weight] = QuantisedState(self, weight, state)
        return made

    def _slabs(self, count: int) -> Iterator[slice]:
        size = self._inner.slab
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))


def _ordinary(optimizer: torch.optim.Optimizer, found: dict[str, Any]) -> None:
    """A saved state in ordinary tensors."""
    found["state"] = {
        index: state.ordinary() if isinstance(state, QuantisedState) else state
        for index, state in found["state"].items()
    }
