"""Fused kernels behind `torch.ops.deepseek`: contracts in plain PyTorch, C++ for the CPU, Triton for the GPU.

Importing this package neither imports torch nor compiles anything. `load()` registers the operators; where no
compiled library is found they run the contract's PyTorch meaning, and the returned `LibraryStatus` says why.

>>> from deepseek_lab import _kernels
>>> status = _kernels.load()
>>> sorted(_kernels.CONTRACTS)
['compact_linear', 'gelu_linear', 'int8_linear', 'layer_norm', 'layer_norm_linear', 'linear']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from deepseek_lab._kernels.contracts import (
        CONTRACTS,
        CompactWeight,
        Contract,
        Sample,
        compact_weight,
        quantize_weight,
        side_by_side,
    )
    from deepseek_lab._kernels.cpu.library import LibraryStatus, force_isa, isas
    from deepseek_lab._kernels.cpu.ops import bound_compact_linear, few_rows_linear

__all__ = [
    "CONTRACTS",
    "CompactWeight",
    "Contract",
    "LibraryStatus",
    "Sample",
    "bound_compact_linear",
    "compact_weight",
    "direct",
    "few_rows_linear",
    "force_isa",
    "isas",
    "load",
    "quantize_weight",
    "side_by_side",
]


_OF_CONTRACTS = frozenset(
    {
        "CONTRACTS",
        "CompactWeight",
        "Contract",
        "Sample",
        "compact_weight",
        "quantize_weight",
        "side_by_side",
    }
)


def load() -> LibraryStatus:
    """Register the operators of `torch.ops.deepseek` and open the compiled library, both once per process.

    Returns the library's status; a missing or unusable library is a status, never an exception.
    """
    from deepseek_lab._kernels import ops
    from deepseek_lab._kernels.cpu import library

    ops.register()
    return library.status()


def direct(name: str) -> Callable[..., Tensor]:
    """The CPU implementation of operator `name` without PyTorch's dispatcher, for graphs that are captured
    already.

    It takes the operator's arguments on CPU tensors, records no gradients and is invisible to compilers; it
    saves about ten microseconds a call. Call `load()` first. Raises KeyError when there is no such operator.
    """
    from deepseek_lab._kernels.cpu.ops import IMPLEMENTATIONS

    return IMPLEMENTATIONS[name]


def __getattr__(name: str) -> Any:
    if name in _OF_CONTRACTS:
        from deepseek_lab._kernels import contracts

        return getattr(contracts, name)
    if name in {"bound_compact_linear", "few_rows_linear"}:
        from deepseek_lab._kernels.cpu import ops

        return getattr(ops, name)
    if name in {"LibraryStatus", "direct", "force_isa", "isas"}:
        from deepseek_lab._kernels.cpu import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
