"""What a captured call looked like from outside: its arguments, and how its value is made of the outputs.

Dynamo keeps where it found each input. The value's structure is found by making the call once more, in
eager mode, and recognising the graph's outputs in what it returns.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.engine import tracing
from deepseek_lab.engine.verify import relative_error
from deepseek_lab.export.calls import Out, Result

Path = tuple[str | int, ...]
_STEP = re.compile(r"\[(?P<index>\d+)\]|\['(?P<key>[^']*)'\]|\.(?P<name>\w+)")
SAME = 1e-4
"""Relative difference up to which an output is recognised: two eager runs of the same operations."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where each live input of a graph comes from: a path into the call's arguments, or a constant tensor."""

    paths: tuple[Path | None, ...]
    constants: tuple[Tensor | None, ...]
    flat: bool
    """Whether the paths are made-up names, because the call's own arguments hold objects."""

    def build(self, live: Sequence[Tensor], parameters: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of a call with these inputs."""
        tree: dict[Any, Any] = {}
        for path, tensor in zip(self.paths, live, strict=True):
            if path is None:
                continue
            node = tree
            for step in path[:-1]:
                node = node.setdefault(step, {})
            node[path[-1]] = tensor
        made = {name: _containers(value) for name, value in tree.items()}
        positional = []
        for name in parameters:
            if name not in made:
                break
            positional.append(made.pop(name))
        return positional, made


def _containers(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _containers(item) for key, item in value.items()}
    if items and set(items) == set(range(len(items))):
        return [items[index] for index in range(len(items))]
    return items


def parameters(call: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that can be given by position, with their defaults (``Parameter.empty`` where none)."""
    owner = getattr(call, "__self__", None)
    function = owner.forward if isinstance(owner, torch.nn.Module) else call
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {one.name: one.default for one in found if one.kind not in rest}


def arguments(sources: Sequence[Any], call: Callable[..., Any], names: Sequence[str]) -> Arguments:
    """Read Dynamo's sources.

    Raises:
        CaptureError: an input was found neither in the call's arguments nor anywhere that can be read now.
    """
    paths: list[Path | None] = []
    constants: list[Tensor | None] = []
    flat = False
    for source in sources:
        text = _text(source)
        steps = [_step(match) for match in _STEP.finditer(text)]
        if text.startswith("L['") and steps[0] in names and steps[0] not in ("args", "kwargs"):
            steps.insert(0, "kwargs")  # after a graph break Dynamo starts inside of the target itself
        is_argument = bool(steps) and steps[0] in ("args", "kwargs") and text.startswith("L['")
        constants.append(None if is_argument else _constant(text, call))
        if not is_argument:
            paths.append(None)
            continue
        inside = steps[2:]
        root = steps[1] if len(steps) > 1 else "input"
        if steps and steps[0] == "args" and isinstance(root, int):
            root = names[root] if root < len(names) else f"arg{root}"
        flat = flat or any(isinstance(step, str) and step.startswith(".") for step in inside)
        paths.append((str(root), *inside))
    if flat:
        paths = [p and ("_".join(str(step).lstrip(".") for step in p),) for p in paths]
    return Arguments(tuple(paths), tuple(constants), flat)


def _step(match: re.Match[str]) -> str | int:
    if (index := match["index"]) is not None:
        return int(index)
    return match["key"] if match["key"] is not None else f".{match['name']}"


def _text(source: Any) -> str:
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def _constant(text: str, call: Callable[..., Any]) -> Tensor:
    """The tensor that the code took from somewhere else, such as a global of the notebook."""
    try:
        value = eval(text, {"G": vars(tracing), "L": {"call": call}})  # Dynamo's own expression
    except Exception as error:  # whatever evaluating the user's attributes raises
        raise CaptureError(f"an input of the graph cannot be read again: {error}") from error
    if not isinstance(value, Tensor):
        raise CaptureError("an input of the graph is no longer a tensor")
    return value.detach().clone()


def quiet_call(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Make a call without gradients and without drawing from the user's random stream."""
    random = torch.get_rng_state()
    try:
        with torch.no_grad():
            return call(*args, **kwargs)
    finally:
        torch.set_rng_state(random)


class UnknownStructureError(Exception):
    """A value holds something else than containers, tensors and plain literals."""


def structure(value: Any, outputs: Sequence[tuple[Out, Tensor]]) -> Any:
    """``value`` with every tensor replaced by what stands for the output that it is.

    Raises:
        UnknownStructureError: a tensor is no output of the graph, or an object cannot be written down.
    """
    if isinstance(value, Tensor):
        for place, output in outputs:
            same = output.shape == value.shape and output.dtype == value.dtype
            if same and relative_error(value, output) <= SAME:
                return place
        raise UnknownStructureError("a tensor of the value is no output of the graph")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is dict:
        return {key: structure(item, outputs) for key, item in value.items()}
    if isinstance(value, Mapping):
        return Result({str(key): structure(item, outputs) for key, item in value.items()})
    if isinstance(value, list):
        return [structure(item, outputs) for item in value]
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        parts = [structure(item, outputs) for item in value]
        return Result(zip(names, parts, strict=True)) if names else tuple(parts)
    layers = getattr(value, "layers", None)
    if isinstance(layers, list):  # a cache of keys and values
        return tuple((structure(one.keys, outputs), structure(one.values, outputs)) for one in layers)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Result({f.name: structure(getattr(value, f.name), outputs) for f in dataclasses.fields(value)})
    raise UnknownStructureError(f"the value holds a {type(value).__name__}")
