"""The training loop of the line form: how a batch and a loss function of the notebook go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from deepseek_lab.base.errors import TargetError

LOSS = "__deepseek_loss__"
"""What :func:`loss_of` is called in the loop."""
_TARGETS = ("labels", "label", "targets", "target", "y")
_OWN = "%%deepseek limits above your own training loop"


def source_of(model: str, optimizer: str, loss: str | None, data: str) -> str:
    """A training loop over names of the notebook."""
    return (
        f"for __batch in {data}:\n"
        f"    {optimizer}.zero_grad()\n"
        f"    {LOSS}({model}, {loss}, __batch).backward()\n"
        f"    {optimizer}.step()\n"
    )


def loss_of(model: nn.Module, loss: Callable[..., Any] | None, batch: Any) -> torch.Tensor:
    """The loss of a batch on the model's device.

    A mapping gives the model its items by name, but for the labels where there is a loss function; of a tuple or list
    the last item is the target. Without a loss function the model gives the loss itself, as models of transformers do.

    Raises:
        TargetError: the parts do not go together.
    """
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    batch = _moved(batch, device)
    if loss is None:
        return _own_loss(_called(model, batch), model)
    if isinstance(batch, Mapping):
        name = next((one for one in _TARGETS if one in batch), None)
        if name is None:
            raise TargetError(
                f"a batch has {', '.join(map(str, batch))}, and no labels among them", hint=_OWN
            )
        rest = {key: value for key, value in batch.items() if key != name}
        return _checked(loss(_output(model(**rest)), batch[name]))
    if isinstance(batch, list | tuple) and len(batch) > 1:
        *inputs, target = batch
        return _checked(loss(_output(model(*inputs)), target))
    raise TargetError(f"a batch is a {type(batch).__name__} without a target", hint=_OWN)


def _called(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, list | tuple) else model(batch)


def _output(made: Any) -> Any:
    """What a loss function takes of what a model gives."""
    if isinstance(made, Mapping) and "logits" in made:
        return made["logits"]
    return getattr(made, "logits", made)


def _own_loss(made: Any, model: nn.Module) -> torch.Tensor:
    found = made.get("loss") if isinstance(made, Mapping) else getattr(made, "loss", made)
    if isinstance(found, torch.Tensor) and found.numel() == 1:
        return found
    raise TargetError(f"{type(model).__name__} gives no loss of its own", hint="--loss NAME, a loss function")


def _checked(made: Any) -> torch.Tensor:
    if isinstance(made, torch.Tensor) and made.numel() == 1:
        return made
    shape = f" of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else ""
    raise TargetError(f"the loss is a {type(made).__name__}{shape}, not one number", hint=_OWN)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(one, device) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(one, device) for one in value]
    return value
