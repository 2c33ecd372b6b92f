"""The operations of a part of a model: what each one's result takes, and how long it takes to compute."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import SAC_IGNORED_OPS

from deepseek_lab.memory.meter import block_bytes


@dataclasses.dataclass
class Operation:
    """One operation of a forward pass."""

    name: str
    bytes: int
    """What its result takes beyond what was there."""
    keepable: bool
    """Whether its result can be kept: it is nobody else's memory, no random number, and is not written to later."""
    seconds: float = 0.0


class Operations(TorchDispatchMode):
    """Records operations in the order in which a policy of ``torch.utils.checkpoint`` is asked about them."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, *, timed: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []
        self._timed = timed
        self._made_by: dict[int, Operation] = {}
        self._alive: list[Any] = []

    def __exit__(self, *error: Any) -> None:
        self._alive, self._made_by = [], {}
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SAC_IGNORED_OPS:
            return func(*args, **kwargs)
        if not self._timed:
            inputs = {
                one.untyped_storage()._cdata for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)
            }
        start = time.perf_counter()
        result = func(*args, **kwargs)
        if self._timed:
            _finish(result)
            self.found.append(Operation(str(func), 0, False, time.perf_counter() - start))
            return result
        self._note(func, inputs, args, kwargs, result)
        return result

    def _note(self, func: Any, inputs: set[int], args: Any, kwargs: Any, result: Any) -> None:
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            for one in tree_iter(value):
                if isinstance(one, Tensor) and (made := self._made_by.get(one.untyped_storage()._cdata)):
                    made.keepable = False
        operation = Operation(str(func), 0, not _draws(func, args, kwargs))
        for one in tree_iter(result):
            if not isinstance(one, Tensor):
                continue
            storage = one.untyped_storage()
            if storage._cdata in inputs:
                operation.keepable = False
            elif storage._cdata not in self._made_by:
                operation.bytes += block_bytes(one)
                self._made_by[storage._cdata] = operation
                self._alive.append(storage)  # its address must not become another one's meanwhile
        operation.keepable = operation.keepable and operation.bytes > 0
        self.found.append(operation)


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws random numbers; attention does for its dropout alone."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
            return bool(given != 0.0)
    return True


def _finish(result: Any) -> None:
    if torch.cuda.is_initialized():
        for one in tree_iter(result):
            if isinstance(one, Tensor) and one.device.type == "cuda":
                torch.cuda.synchronize(one.device)
                return
