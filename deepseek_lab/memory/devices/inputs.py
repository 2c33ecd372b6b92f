"""What a model is called with, and what its loss is: found from the model, or from an example in the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.memory.devices.anatomy import skeleton
from deepseek_lab.memory.devices.footprint import Inputs, fake
from deepseek_lab.memory.devices.grow import PLACES
from deepseek_lab.memory.devices.runtime.loss import scores_of

LONGEST = 2048
"""Tokens a sequence where nothing is said and the model allows more."""


def find_inputs(
    model: nn.Module, *, batch: int | None = None, sequence: int | None = None, example: Any = None
) -> Inputs:
    """One rank's inputs of a step, as tensors without content.

    ``example`` is a tensor, a tuple of arguments or a mapping of them; ``batch`` then replaces its first dimension.
    Without it, a configuration in the manner of transformers or an embedding says what goes in.

    Raises:
        UsageError: nothing says what the model takes.
        TargetError: the model cannot be called with it.
    """
    args, kwargs = _arguments(model, batch, sequence, example)
    labels = kwargs.pop("labels", None)
    if hasattr(getattr(model, "config", None), "use_cache"):
        kwargs.setdefault("use_cache", False)
    return _with_loss(model, args, kwargs, labels)


def _arguments(
    model: nn.Module, batch: int | None, sequence: int | None, example: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example is not None:
        if isinstance(example, Mapping):
            return (), {name: _resized(value, batch, sequence) for name, value in example.items()}
        values = example if isinstance(example, tuple | list) else (example,)
        if not any(isinstance(value, torch.Tensor) for value in values):
            raise UsageError(
                f"a {type(example).__name__} is no input of a model",
                hint="--inputs NAME, where NAME is a tensor, a tuple of arguments or a dict of them",
            )
        return tuple(_resized(value, batch, sequence) for value in values), {}
    rows, config = batch or 1, getattr(model, "config", None)
    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values" and getattr(config, "image_size", None):
        size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2  # type: ignore[union-attr]
        shape = (rows, getattr(config, "num_channels", 3), *size)
        return (), {name: torch.empty(shape, device="meta")}
    if getattr(config, "vocab_size", None) and name == "input_ids":
        places = next(
            (getattr(config, one) for one in PLACES if isinstance(getattr(config, one, None), int)), LONGEST
        )
        if sequence is not None and sequence > places:
            raise UsageError(
                f"--sequence {sequence} is longer than the {places} positions of {type(model).__name__}",
                hint=f"--sequence {places}",
            )
        ids = torch.empty(rows, sequence or min(places, LONGEST), dtype=torch.long, device="meta")
        encoder = getattr(config, "is_encoder_decoder", False)
        return (), {"input_ids": ids} | ({"decoder_input_ids": ids} if encoder else {})
    first = next(
        (each for each in model.modules() if not list(each.children()) and list(each.parameters())), None
    )
    if isinstance(first, nn.Embedding) and sequence:
        return (torch.empty(rows, sequence, dtype=torch.long, device="meta"),), {}
    if isinstance(first, nn.Embedding):
        raise UsageError(
            f"{type(model).__name__} takes tokens, but nothing says how many", hint="--sequence 2048"
        )
    raise UsageError(
        f"nothing says what {type(model).__name__} takes",
        hint="--inputs NAME, where NAME is an example that it can be called with",
    )


def _resized(value: Any, batch: int | None, sequence: int | None) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    shape = list(value.shape)
    if batch is not None and shape:
        shape[0] = batch
    if sequence is not None and len(shape) > 1 and not value.is_floating_point():
        shape[1] = sequence
    return torch.empty(shape, dtype=value.dtype, device="meta")


def _with_loss(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Any) -> Inputs:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made, _ = skeleton(model, mode)
    outputs: list[tuple[str, int]] = []

    def keep(name: str) -> Any:
        return lambda _, __, output: outputs.append((name, output.untyped_storage()._cdata))

    linears = [
        (name, each)
        for name, each in made.named_modules()
        if isinstance(each, nn.Linear) and each.bias is None
    ]
    handles = [each.register_forward_hook(keep(name)) for name, each in linears]
    try:
        with mode:
            result = made(*fake(args, mode), **fake(kwargs, mode))
            scores = scores_of(result)
    except Exception as error:
        shapes = ", ".join(
            f"{name} {tuple(value.shape)}"
            for name, value in (*enumerate(args), *kwargs.items())
            if isinstance(value, torch.Tensor)
        )
        raise TargetError(
            f"{type(model).__name__} cannot be called with {shapes}: {type(error).__name__}: {str(error)[:200]}",
            hint="--inputs NAME, where NAME is an example that it can be called with",
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    tokens = next(
        (v for v in (*kwargs.values(), *args) if isinstance(v, torch.Tensor) and v.dtype == torch.long), None
    )
    if tokens is not None and tokens.ndim == 2 and scores.ndim == 3 and scores.shape[:2] == tokens.shape:
        sizes = {each.num_embeddings for each in made.modules() if isinstance(each, nn.Embedding)}
        head = next((name for name, key in reversed(outputs) if key == scores.untyped_storage()._cdata), "")
        if head or scores.shape[-1] in sizes:
            return Inputs(
                kwargs, torch.empty(tokens.shape, dtype=torch.long, device="meta"), "next-token", head, args
            )
    if scores.ndim == 2 and scores.shape[-1] > 1:
        return Inputs(
            kwargs, torch.empty(scores.shape[0], dtype=torch.long, device="meta"), "classes", "", args
        )
    return Inputs(kwargs, None, "mean", "", args)


def in_words(inputs: Inputs) -> str:
    """Names and shapes: ``input_ids 4×128``."""
    shapes = [
        f"{name} {'×'.join(map(str, value.shape))}".strip()
        for name, value in (*(("", value) for value in inputs.args), *inputs.kwargs.items())
        if isinstance(value, torch.Tensor)
    ]
    return ", ".join(shapes)


def loss_in_words(inputs: Inputs) -> str:
    """What the loss is."""
    return {
        "next-token": "cross-entropy of the next token",
        "classes": "cross-entropy of one class a sample",
        "own": "the model's own",
        "mean": "the mean of the output's squares, because the output does not say more",
    }[inputs.kind]
