"""The last projection and the cross-entropy in chunks: the scores of all tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``hidden @ weight.T`` against labels, ``chunk`` tokens at a time.

    Labels of -100 do not count.

    Gradients are made in the forward pass, as Hsu et al. do (arXiv:2410.10989), so that no scores are kept. It is
    ``torch.nn.functional.linear_cross_entropy`` with a loss in float32 and nothing hidden from a memory tracker.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        """``hidden`` [tokens, features], ``weight`` [classes, features], ``labels`` [tokens]; a float32 scalar."""
        num_counted = (labels != -100).sum().clamp_min(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            some, targets = hidden[part], labels[part]
            scores = (some @ weight.T).float()
            logs = scores.log_softmax(-1)
            del scores
            total += F.nll_loss(logs, targets, ignore_index=-100, reduction="sum")
            counted = targets != -100
            slopes = logs.exp_()
            rows = torch.arange(len(targets), device=targets.device)
            slopes[rows, targets.clamp_min(0)] -= 1.0
            slopes.mul_((counted / num_counted)[:, None])
            low = slopes.to(hidden.dtype)
            del slopes, logs
            hidden_gradient[part] = low @ weight
            weight_gradient.addmm_(low.T, some)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total / num_counted

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        (outer,) = gradients
        return hidden_gradient.mul_(outer), weight_gradient.mul_(outer), None, None


class WithLoss(nn.Module):
    """A model and its loss as one module, which is what gets sharded.

    ``kind`` says what the loss is:

    - ``next-token``: labels are the inputs' own next tokens; ``chunk`` > 0 needs ``head``, the name of the last
      projection, which then only lends its weight;
    - ``classes``: cross-entropy of one row of scores a sample;
    - ``own``: the model returns an object with a ``loss``;
    - ``mean``: the mean of the output's squares, where nothing better is known.
    """

    def __init__(self, model: nn.Module, kind: str, head: str = "", chunk: int = 0) -> None:
        super().__init__()
        self.model, self.kind, self.chunk = model, kind, chunk
        self._head = [model.get_submodule(head)] if head else []
        if chunk:
            self._head[0].forward = lambda hidden: hidden

    def forward(self, labels: torch.Tensor | None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss."""
        made = self.model(*args, **kwargs)
        if self.kind == "own":
            own: torch.Tensor = made.loss
            return own
        output = scores_of(made)
        if self.kind == "mean" or labels is None:
            return output.float().square().mean()
        if self.kind == "next-token":
            output, labels = output[:, :-1], labels[:, 1:]
        if self.chunk:
            hidden = output.reshape(-1, output.shape[-1])
            weight = self._head[0].get_parameter("weight")
            loss: torch.Tensor = LinearCrossEntropy.apply(hidden, weight, labels.reshape(-1), self.chunk)  # type: ignore[no-untyped-call]
            return loss
        return F.cross_entropy(output.reshape(-1, output.shape[-1]).float(), labels.reshape(-1))


def scores_of(made: Any) -> torch.Tensor:
    """The tensor that a model's result is mainly about."""
    found = getattr(made, "logits", None)
    if found is None:
        found = made.get("logits") if isinstance(made, dict) else made
    while isinstance(found, tuple | list):
        found = found[0]
    if not isinstance(found, torch.Tensor):
        found = next(value for value in vars(made).values() if isinstance(value, torch.Tensor))
    return found
