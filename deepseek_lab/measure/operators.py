"""The operators that a node dispatches to: what they count, what they read, and what they would write to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_FORMULAS: Mapping[Any, Any] = {
    # The processor's own attention is computed as the others are, and has no formula of its own.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    **flop_registry,
}
_GATHERS = frozenset([_ATEN.embedding, _ATEN.index_select, _ATEN.gather, _ATEN.index, _ATEN.take])
"""Operators that read of their first operand only what they return."""
_SILENT = frozenset([_ATEN.native_batch_norm, _ATEN.cudnn_batch_norm, _ATEN.miopen_batch_norm])
"""Operators that update running statistics (operands 3 and 4) in training (5) and do not say so."""


class WouldWrite(Exception):
    """An operator was about to write to memory that it must not change; ``positions`` says which arguments have it."""

    def __init__(self, positions: frozenset[int]) -> None:
        super().__init__("an argument would be written to")
        self.positions = positions


def storage(tensor: Tensor) -> int | None:
    """What two tensors that share memory have in common; None where a tensor has no memory of the usual kind."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else None


def distinct_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, elements that share memory counted once."""
    if tensor.layout != torch.strided:
        return int(tensor.numel()) * tensor.element_size()
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size]
    return math.prod(sizes) * tensor.element_size()


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested containers."""
    return [one for one in tree_leaves(value) if isinstance(one, Tensor)]


class Operators(TorchDispatchMode):
    """Adds up what the operators that run under it count and read, and finds out what they write to.

    An operator that is about to write to memory that is protected raises :class:`WouldWrite` before it does.

    Args:
        protected: Memory that must not be written to, and the positions of the arguments that have it.
        copied: The same for memory that may be; ``written`` holds the positions of that which is.
    """

    supports_higher_order_operators = True

    def __init__(self, protected: Mapping[int, frozenset[int]], copied: Mapping[int, frozenset[int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._protected, self._copied = protected, copied
        self.written: frozenset[int] = frozenset()
        self.flops: int | None = None
        self.read_bytes: int | None = 0

    def restart(self) -> None:
        """Begin to count for another node."""
        self.flops, self.read_bytes = None, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            self._writes(tensors_in((args, kwargs)))  # nobody says what a higher-order operator writes to
            self.read_bytes = None
            return func(*args, **kwargs)
        if func is not torch.ops.prim.device.default:
            with self:
                value = func.decompose(*args, **kwargs)
            if value is not NotImplemented:
                return value
        self._writes(_written(func, args, kwargs))
        value = func(*args, **kwargs)
        self._count(func, args, kwargs, value)
        return value

    def _writes(self, tensors: Sequence[Tensor]) -> None:
        for memory in filter(None, map(storage, tensors)):
            if memory in self._protected:
                raise WouldWrite(self._protected[memory])
            self.written |= self._copied.get(memory, frozenset())

    def _count(self, func: Any, args: Any, kwargs: Any, value: Any) -> None:
        packet = func._overloadpacket
        formula = _FORMULAS.get(packet)
        if formula is not None:
            with contextlib.suppress(
                AssertionError, TypeError, ValueError
            ):  # shapes that the formula does not know
                self.flops = (self.flops or 0) + int(formula(*args, **kwargs, out_val=value))
        if self.read_bytes is None:
            return
        operands, results = tensors_in((args, kwargs)), tensors_in(value)
        if packet in _GATHERS:
            self.read_bytes += sum(map(distinct_bytes, (*operands[1:], *results)))
        elif not _is_view(func, operands, results):
            self.read_bytes += sum(map(distinct_bytes, operands))


def _is_view(func: Any, operands: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    if func._schema.is_mutable or not results:
        return False
    known = {storage(one) for one in operands}
    return all(storage(one) in known for one in results)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes to."""
    if func._overloadpacket in _SILENT:
        return tensors_in(args[3:5]) if len(args) > 5 and args[5] else []
    if not func._schema.is_mutable:
        return []
    return [one for value in _by_alias(func, args, kwargs) for one in tensors_in(value)]


def _by_alias(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[index] if index < len(args) else kwargs.get(argument.name)
