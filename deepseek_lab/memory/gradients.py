"""Who reads gradients: what a loop does with them between its backward pass and its next call of the model."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_gradient: Any = torch._C.TensorBase.grad
_ZEROING = frozenset(
    inspect.unwrap(one).__code__ for one in (torch.optim.Optimizer.zero_grad, nn.Module.zero_grad)
)
"""Who may read a gradient to put it away."""


def gradient_of(weight: Tensor) -> Tensor | None:
    """A parameter's gradient; nobody is told."""
    found: Tensor | None = _gradient.__get__(weight)
    return found


def drop_gradient(weight: Tensor) -> None:
    """Let a parameter's gradient go; nobody is told."""
    _gradient.__set__(weight, None)


class _Watched(nn.Parameter):
    """A parameter that tells who reads its gradient. Each is an ordinary parameter again once nobody watches."""

    @property
    def grad(self) -> Tensor | None:
        _read(self)
        return gradient_of(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        _read(self)
        _gradient.__set__(self, value)

    @grad.deleter
    def grad(self) -> None:
        drop_gradient(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = nn.Parameter(self.data.clone(memory_format=torch.preserve_format), self.requires_grad)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter.__reduce_ex__(self, protocol)


def _read(weight: Tensor) -> None:
    if sys._getframe(2).f_code in _ZEROING:
        return
    watch = _watches.get(id(weight))
    if watch is not None:
        watch.tell()


class GradientWatch:
    """While open, tells when a gradient of these parameters is read or set by name.

    Args:
        parameters: Plain parameters; others are not watched.
        tell: Told of each time.
    """

    def __init__(self, parameters: Iterable[Tensor], tell: Callable[[], None]) -> None:
        self._parameters = [weakref.ref(one) for one in parameters if type(one) is nn.Parameter]
        self.tell, self._open = tell, False

    def open(self) -> None:
        """Watch from now on."""
        if not self._open:
            self._open = True
            for ref in self._parameters:
                one = ref()
                if one is not None and type(one) is nn.Parameter:
                    one.__class__ = _Watched
                    _watches[id(one)] = self

    def close(self) -> None:
        """Parameters as they were."""
        if self._open:
            self._open = False
            for ref in self._parameters:
                one = ref()
                if one is not None and type(one) is _Watched:
                    one.__class__ = nn.Parameter  # type: ignore[assignment]
                    _watches.pop(id(one), None)


_watches: weakref.WeakValueDictionary[int, GradientWatch] = weakref.WeakValueDictionary()
"""By the identity of the parameter."""
