"""One callable for the graphs that were captured from one module or function.

This file is copied into every export as it stands, so it knows only the standard library and torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class _Absent:
    """What an argument is that was not given, and a default that there is not."""


REQUIRED = _Absent()


@dataclasses.dataclass(frozen=True)
class Input:
    """One tensor of a call: ``("batch", "x")`` is ``batch["x"]``; a size of None is free."""

    path: tuple[str | int, ...]
    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def fits(self, value: object) -> bool:
        """Whether a value is a tensor of this dtype and shape."""
        return (
            isinstance(value, Tensor)
            and value.dtype == self.dtype
            and value.dim() == len(self.shape)
            and all(want in (None, size) for want, size in zip(self.shape, value.shape, strict=True))
        )

    def __str__(self) -> str:
        sizes = ",".join("*" if size is None else str(size) for size in self.shape)
        inner = "".join(f"[{key!r}]" for key in self.path[1:])
        return f"{self.path[0]}{inner}: {str(self.dtype).removeprefix('torch.')}[{sizes}]"


@dataclasses.dataclass(frozen=True)
class Out:
    """Stands for one of the graph's outputs in the value that the call returns, or for a view of one.

    ``views`` are methods of a tensor with their arguments: ``("select", (1, 0), {})``.
    """

    index: int
    views: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = ()

    def of(self, outputs: Sequence[Tensor]) -> Any:
        """What it stands for."""
        value: Any = outputs[self.index]
        for method, args, kwargs in self.views:
            value = getattr(value, method)(*args, **kwargs)
        return value


class Result(dict[str, Any]):
    """Named outputs, read as ``result["logits"]``, ``result.logits`` or ``result[0]``."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return super().__getitem__(name)
        raise AttributeError(name)


@dataclasses.dataclass(frozen=True)
class Graph:
    """One captured graph: what runs it, the call that it answers and the value that the call returns.

    ``fixed`` are arguments that are no tensors: the graph holds for these values only.
    """

    run: Callable[[list[Tensor]], Sequence[Tensor]]
    inputs: tuple[Input, ...]
    fixed: Mapping[str, object]
    value: object

    def __str__(self) -> str:
        fixed = [f"{name}={value!r}" for name, value in self.fixed.items()]
        return ", ".join([*map(str, self.inputs), *fixed])


class Calls:
    """Answers the captured calls; any other goes to ``eager``, or is a TypeError where there is none.

    Args:
        name: What the code calls it.
        defaults: The parameters in order, with their defaults where these are plain literals, else REQUIRED.
        graphs: What was captured.
        eager: The original module's ``forward`` or the original function.
    """

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, object],
        graphs: Sequence[Graph],
        eager: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self.defaults, self.graphs, self.eager = name, defaults, tuple(graphs), eager

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call with the first graph that was captured for one like it."""
        if len(args) <= len(self.defaults):
            given = {**dict(zip(self.defaults, args, strict=False)), **kwargs}
            for graph in self.graphs:
                tensors = self._tensors(graph, given)
                if tensors is not None:
                    with torch.no_grad():
                        return filled(graph.value, graph.run(tensors))
        if self.eager is not None:
            return self.eager(*args, **kwargs)
        known = "\n  ".join(f"{self.name}({graph})" for graph in self.graphs)
        raise TypeError(f"no graph of {self.name} was captured for this call; there is\n  {known}")

    def _tensors(self, graph: Graph, given: dict[str, Any]) -> list[Tensor] | None:
        """The graph's inputs, or None where it does not answer a call with these arguments."""
        roots = {str(one.path[0]) for one in graph.inputs}
        for name in given.keys() | graph.fixed.keys():
            if name in roots:
                continue
            value, wanted = (
                given.get(name, REQUIRED),
                graph.fixed.get(name, self.defaults.get(name, REQUIRED)),
            )
            if type(value) is not type(wanted) or value != wanted:
                return None
        if not roots <= given.keys():
            return None
        found = []
        for one in graph.inputs:
            value = given[str(one.path[0])]
            for key in one.path[1:]:
                try:
                    value = value[key]
                except (KeyError, IndexError, TypeError):
                    return None
            if not one.fits(value):
                return None
            found.append(value.detach())
        num_leaves = sum(1 for root in roots for _ in _leaves(given[root]))
        return found if num_leaves == len(found) else None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def with_constants(
    run: Callable[[list[Tensor]], Sequence[Tensor]], constants: Mapping[int, Tensor]
) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """``run`` with some of its inputs given: tensors that the code took from outside of its arguments."""

    def run_with_rest(inputs: list[Tensor]) -> Sequence[Tensor]:
        rest = iter(inputs)
        count = len(inputs) + len(constants)
        return run([constants[at] if at in constants else next(rest) for at in range(count)])

    return run_with_rest


def filled(value: Any, outputs: Sequence[Tensor]) -> Any:
    """``value`` with every :class:`Out` replaced by the output that it stands for."""
    match value:
        case Out():
            return value.of(outputs)
        case dict():
            return type(value)({key: filled(item, outputs) for key, item in value.items()})
        case list() | tuple():
            return type(value)(filled(item, outputs) for item in value)
        case _:
            return value


def tensors(value: Any) -> list[Tensor]:
    """The tensors that a call's value holds, in order.

    A cache of keys and values counts as the pairs of its layers.
    """
    if isinstance(value, Tensor):
        return [value]
    layers = getattr(value, "layers", None)
    if isinstance(layers, list) and not isinstance(value, torch.nn.Module):
        return [one for layer in layers for one in tensors((layer.keys, layer.values))]
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping | type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [one for item in _leaves(value) for one in tensors(item)] if _holds(value) else []


def _holds(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)
