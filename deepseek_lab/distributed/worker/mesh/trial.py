"""Passes through a model before it trains, which leave everything as it was."""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Call = Callable[[], Any]
_DROPS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
    torch.dropout_,
    torch.alpha_dropout,
    torch.feature_dropout,
    torch.feature_alpha_dropout,
    torch.native_dropout,
}
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
_LOW = 5e-2
"""Of types of 16 bits."""
_SMALL = 1e-2
"""Gradients that are so much smaller than the largest are compared as if they were that large."""


class _NoDropout(TorchFunctionMode):
    """Has nothing dropped, for what is dropped differs from call to call."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.native_dropout:
            return args[0], torch.ones_like(args[0], dtype=torch.bool)
        if function in _DROPS:
            return args[0] if args else kwargs["input"]
        if function is F.scaled_dot_product_attention:
            args, kwargs = args[:4], {**kwargs, **dict(zip(("is_causal",), args[5:], strict=False))}
            kwargs["dropout_p"] = 0.0
        if function is F.multi_head_attention_forward:
            kwargs["training"] = False
        return function(*args, **kwargs)


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """While it is open, nothing is dropped or printed and passes compute in full; then the module is as it was.

    What is put back are buffers, random numbers, and attributes that are numbers, strings, lists, tuples or dicts.
    """
    attributes = [(part, _attributes(part)) for part in module.modules()]
    names = [(part, set(vars(part))) for part in module.modules()]
    buffers = [
        (part, name, one, None if one is None else one.detach().clone())
        for part in module.modules()
        for name, one in part._buffers.items()
    ]
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    kinds = ["cpu", *(["cuda"] if devices else [])]
    try:
        with (
            torch.random.fork_rng(devices),
            _NoDropout(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.ExitStack() as stack,
        ):
            warnings.simplefilter("ignore")  # what is said comes again, with the cell's own call
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            for part in module.modules():
                if isinstance(part, nn.RNNBase):
                    part.dropout = 0.0
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for part, before in names:
            for name in set(vars(part)) - before:
                del vars(part)[name]
        for part, kept in attributes:
            for name, (value, content) in kept.items():
                if isinstance(value, list):
                    value[:] = content
                elif isinstance(value, dict):
                    value.clear()
                    value.update(content)
                vars(part)[name] = value
        for part, name, one, values in buffers:
            part._buffers[name] = one
            if one is not None and values is not None:
                with torch.no_grad():
                    one.copy_(values)


def _attributes(part: nn.Module) -> dict[str, tuple[Any, Any]]:
    """What may change in a call, with what lists and dicts hold."""
    kinds = (bool, int, float, str, tuple, list, dict, type(None))
    own = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    return {
        name: (value, value.copy() if isinstance(value, list | dict) else None)
        for name, value in own.items()
        if isinstance(value, kinds)
    }


def seeded(call: Call) -> Any:
    """What a call gives that draws the same random numbers each time."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    return call()


def outputs(value: Any) -> list[Tensor]:
    """Tensors of numbers that a call gave."""
    return [one for one in tree_leaves(value) if isinstance(one, Tensor) and one.is_floating_point()]


def passed(call: Call, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    """What a call gives, and gradients of it: of the product with random numbers that are the same each time."""
    made = outputs(seeded(call))
    if any(isinstance(one, DTensor) for one in made):
        raise TypeError("what the model gives is left in parts")
    trained = [one for one in made if one.requires_grad]
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(one.shape, generator=generator).to(one) / max(1, one.numel()) ** 0.5 for one in trained
    ]
    if trained:
        # As it was before somebody counted backward passes.
        inspect.unwrap(torch.autograd.backward)(trained, weights)
    found = [one.grad for one in parameters]
    for one in parameters:
        one.grad = None
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in found]
    return [one.detach() for one in made], whole


def furthest(made: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> list[float]:
    """How far each is from what was expected, where 1 is what is let pass."""
    largest = max((_largest(one) for one in expected if one is not None), default=0.0)
    return [_distance(one, other, largest) for one, other in zip(made, expected, strict=True)]


def _distance(one: Tensor | None, other: Tensor | None, largest: float) -> float:
    if one is None or other is None:
        return 0.0 if (one is None or not one.any()) and (other is None or not other.any()) else float("inf")
    if one.shape != other.shape:
        return float("inf")
    scale = max(_largest(other), _SMALL * largest)
    off = _largest(one.double() - other.double())
    tolerance = _TOLERANCE.get(other.dtype, _LOW)
    if not scale:
        return 0.0 if not off else float("inf")
    return off / (tolerance * scale) if off == off else float("inf")


def _largest(one: Tensor) -> float:
    return float(one.detach().abs().max()) if one.numel() else 0.0
