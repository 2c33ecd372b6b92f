"""What every kernel promises, as data: its meaning, its operator, its tolerance, the inputs it is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sample:
    """One call: `args` in the operator's order, and what is special about it in words."""

    label: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Contract:
    """The promise of one kernel.

    name: the operator's name under `torch.ops.deepseek`.
    schema: its arguments in PyTorch's schema language, without the name.
    meaning: the same function in plain PyTorch; it runs when no kernel does, and its float64 result is the
    reference. check: raises ValueError when the shapes do not fit together.
    sample: arguments for `rows` rows of `k` features and `n` outputs, in a dtype, from a seeded generator.
    tolerances: per dtype, the largest `error` a kernel may have.
    weight: position of the weight [n, k] among the arguments; None when the result has x's shape.
    """

    name: str
    schema: str
    meaning: Callable[..., Tensor]
    check: Callable[..., None]
    sample: Callable[[int, int, int, torch.dtype, torch.Generator], tuple[Any, ...]]
    tolerances: Mapping[torch.dtype, float]
    weight: int | None = None

    @property
    def op(self) -> Any:
        """The registered operator (an `OpOverload`); call `load()` first."""
        return getattr(torch.ops.deepseek, self.name).default

    def result_shape(self, *args: Any) -> tuple[int, ...]:
        """Shape of the result for these arguments."""
        x: Tensor = args[0]
        return tuple(x.shape) if self.weight is None else (*x.shape[:-1], args[self.weight].shape[0])

    def tolerance(self, dtype: torch.dtype) -> float:
        """Largest accepted `error` for results of `dtype`."""
        return self.tolerances[dtype]

    def error(self, got: Tensor, reference: Tensor) -> float:
        """Max |got - reference| / max |reference|, in float64; 0.0 for empty results."""
        if got.shape != reference.shape:
            raise ValueError(
                f"{self.name}: result has shape {tuple(got.shape)}, reference {tuple(reference.shape)}"
            )
        if got.numel() == 0:
            return 0.0
        scale = reference.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        return float((got.double() - reference.double()).abs().max() / scale)

    def reference(self, *args: Any) -> Tensor:
        """The meaning in float64 on the same values."""
        return self.meaning(*(to_double(arg) for arg in args))

    def samples(self, dtype: torch.dtype, seed: int = 0) -> Iterator[Sample]:
        """The shape sweep: decoding rows and long ones, odd sizes, empty sizes, strided inputs."""
        generator = torch.Generator().manual_seed(seed)
        for rows, k, n in SHAPES:
            yield Sample(f"{rows} rows, k={k}, n={n}", self.sample(rows, k, n, dtype, generator))
        for rows, k, n in ((3, 40, 24), (70, 33, 17)):
            args = self.sample(rows, k, n, dtype, generator)
            yield Sample(f"{rows} rows, every other element, k={k}, n={n}", tuple(map(every_other, args)))
            yield Sample(
                f"{rows} rows, transposed storage, k={k}, n={n}", tuple(map(transposed_storage, args))
            )
            batched = (args[0].reshape(1, rows, 1, k).expand(2, rows, 1, k), *args[1:])
            yield Sample(f"[2, {rows}, 1, {k}] expanded, n={n}", batched)
            yield Sample(f"vector, k={k}, n={n}", (args[0][0], *args[1:]))


SHAPES = (
    (1, 768, 129),
    (1, 64, 2304),
    (2, 576, 65),
    (3, 31, 7),
    (4, 100, 100),
    (5, 1, 1),
    (7, 17, 513),
    (8, 1023, 35),
    (9, 48, 1030),
    (13, 15, 16),
    (65, 130, 67),
    (0, 16, 8),
    (4, 0, 8),
    (4, 16, 0),
)


def normal(generator: torch.Generator, dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
    """Seeded normal numbers, drawn in float32 so that every dtype sees the same ones, rounded."""
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def to_double(value: Any) -> Any:
    """Floating tensors in float64; everything else as it is."""
    return (
        value.double()
        if isinstance(value, Tensor) and value.dtype not in (torch.int8, torch.uint8)
        else value
    )


def every_other(value: Any) -> Any:
    """The same values in a tensor whose last stride is 2."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    wide = value.new_zeros((*value.shape[:-1], 2 * value.shape[-1]))
    wide[..., ::2] = value
    return wide[..., ::2]


def transposed_storage(value: Any) -> Any:
    """The same values with the last two dimensions stored the other way round (GPT-2's Conv1D)."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    return value.transpose(-1, -2).contiguous().transpose(-1, -2)


def check_linear(name: str, x: Tensor, weight: Tensor, **vectors: tuple[Tensor | None, int]) -> None:
    """Raise ValueError unless weight is [n, k] for x [..., k] and every vector has its length."""
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; "
            "expected x [..., k] and weight [n, k]. For a weight stored [k, n] pass weight.t()."
        )
    check_vectors(name, **vectors)


def check_vectors(name: str, **vectors: tuple[Tensor | None, int]) -> None:
    """Raise ValueError unless every vector that is there has its length."""
    for label, (vector, length) in vectors.items():
        if vector is not None and (vector.dim() != 1 or vector.shape[0] != length):
            raise ValueError(f"{name}: {label} has shape {tuple(vector.shape)}; expected ({length},).")
