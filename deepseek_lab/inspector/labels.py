"""What loss functions are given: labels that cannot be, and what a constant prediction would cost."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.losses import LossCall

_MAX_CLASSES = 100_000


@dataclasses.dataclass
class LabelsSeen:
    """Labels of one loss function at one line, over the calls that were looked at."""

    counts: Tensor | None = None
    total: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    num_calls: int = 0

    def add(self, call: LossCall) -> None:
        """Count the labels of a call."""
        target = call.target()
        if target is None:
            return
        self.num_calls += 1
        target = target.detach()
        if call.is_classes:
            prediction = call.prediction()
            kept = target[target != call.ignore_index]
            if prediction is None or not kept.numel():
                return
            classes = prediction.shape[1] if prediction.dim() > 1 else prediction.shape[0]
            if classes > _MAX_CLASSES or int(kept.min()) < 0 or int(kept.max()) >= classes:
                return
            counts = torch.bincount(kept.reshape(-1), minlength=classes).cpu()
            self.counts = (
                counts if self.counts is None or len(self.counts) != classes else self.counts + counts
            )
        elif target.is_floating_point() and target.numel():
            values = target.float()
            self.total += target.numel()
            self.mean += float(values.sum())
            self.square += float(values.square().sum())

    def chance(self, name: str) -> float | None:
        """Mean loss of the best prediction that is always the same; None where that is not known.

        Of classes the entropy of their shares, of values their variance.
        """
        if self.counts is not None:
            shares = self.counts.double() / self.counts.sum().clamp(min=1)
            shares = shares[shares > 0]
            return float(-(shares * shares.log()).sum())
        if not self.total:
            return None
        mean = self.mean / self.total
        if name == "mse_loss":
            return max(0.0, self.square / self.total - mean * mean)
        if name.startswith("binary") and 0 < mean < 1:
            return -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
        return None

    def only(self) -> int | None:
        """The class that all labels are of, once there are enough of them; None where there are several."""
        if self.counts is None or self.num_calls < at.PERSISTS:
            return None
        enough = at.MIN_LABELS if len(self.counts) > 2 else at.MIN_BINARY_LABELS
        there = self.counts.nonzero().reshape(-1)
        return (
            int(there[0])
            if len(there) == 1 and int(self.counts.sum()) >= enough and len(self.counts) > 1
            else None
        )


def check(call: LossCall, step: int, model: str) -> Finding | None:
    """A label that its loss function has no meaning for; None where all have one. Looks at every label."""
    prediction, target = call.prediction(), call.target()
    if prediction is None or target is None or not target.numel():
        return None

    def made(text: str, evidence: str, fix: str, code: str, kind: str = "label") -> Finding:
        return Finding(
            kind=kind,
            module=model,
            since=step,
            text=text,
            evidence=evidence,
            fix=fix,
            code=code,
            file=call.site[0],
            line=call.site[1],
            model=model,
        )

    target = target.detach()
    if call.is_classes:
        classes = prediction.shape[1] if prediction.dim() > 1 else prediction.shape[0]
        kept = target[target != call.ignore_index]
        if not kept.numel():
            return made(
                f"every label of a batch is ignored, and {call.name} is a mean of nothing",
                f"{target.numel():,} labels, all of them {call.ignore_index}",
                "leave such batches out, or count on at least one label",
                f"if (y != {call.ignore_index}).any(): loss.backward()",
            )
        low, high = int(kept.min()), int(kept.max())
        if low < 0 or high >= classes:
            shift = f"y - {low}" if low > 0 and high - low < classes else ""
            return made(
                f"labels from {low} to {high} where the model has {classes} classes",
                f"{int(((kept < 0) | (kept >= classes)).sum()):,} of {kept.numel():,} labels are not within "
                f"0 to {classes - 1}",
                "labels that begin at 0"
                if shift
                else f"a last layer with {high + 1} outputs, or labels that are right",
                f"loss = torch.nn.functional.{call.name}(logits, {shift})"
                if shift
                else "print(y.min(), y.max())",
            )
        if call.name == "cross_entropy" and _is_probabilities(prediction):
            return made(
                "cross_entropy is given probabilities, and takes their softmax once more",
                "every row of what it is given is between 0 and 1 and sums to 1",
                "hand it the logits: leave the softmax before it out",
                "loss = torch.nn.functional.cross_entropy(logits, y)",
            )
        return None
    if not target.is_floating_point():
        return None
    if not bool(torch.isfinite(target).all()):
        bad = int((~torch.isfinite(target)).sum())
        return made(
            f"{bad:,} of {target.numel():,} targets are NaN or infinite",
            f"targets of {call.name} at step {step}",
            "leave these rows out, or fill them",
            "keep = torch.isfinite(y); loss = loss_function(prediction[keep], y[keep])",
        )
    if call.name.startswith("binary"):
        low_value, high_value = float(target.min()), float(target.max())
        if low_value < 0 or high_value > 1:
            return made(
                f"targets from {low_value:g} to {high_value:g} where {call.name} takes 0 to 1",
                f"{int(((target < 0) | (target > 1)).sum()):,} of {target.numel():,} targets are outside",
                "scale the targets",
                f"y = y / {high_value:g}",
            )
    return None


def all_the_same(label: int, seen: LabelsSeen, call: LossCall, step: int, model: str) -> Finding:
    """All labels so far are of one class."""
    count = int(seen.counts.sum()) if seen.counts is not None else 0
    return Finding(
        kind="label",
        module=model,
        since=step,
        text=f"all labels are {label}",
        evidence=f"{count:,} labels of {seen.num_calls} batches",
        fix="shuffle the data; look at how labels are made",
        code="loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)",
        file=call.site[0],
        line=call.site[1],
        model=model,
    )


def _is_probabilities(value: Tensor) -> bool:
    if value.dim() < 2 or value.shape[1] < 2 or value.shape[0] < 4:
        return False
    rows = value.detach()[:64].float()
    sums = rows.sum(1)
    return bool((rows >= 0).all() and (rows <= 1).all() and (sums - 1).abs().max() < 1e-3)
