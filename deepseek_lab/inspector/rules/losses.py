"""Losses that jump, and losses that do not fall."""

from __future__ import annotations

import math
import statistics

import torch

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import statistics as numbers
from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.rules.look import g
from deepseek_lab.inspector.seen import LossSeen, ModelSeen
from deepseek_lab.inspector.sites import Site


def spike(loss: LossSeen, value: float) -> str:
    """The evidence, if a finite loss that is about to be added is a spike; else empty."""
    if loss.count < at.SPIKE_MIN:
        return ""
    if not loss.num_raised and value <= at.SPIKE_TIMES * min(loss.recent[-1], loss.recent[0]):
        return ""  # in nearly every step
    recent = list(loss.recent)[-at.SPIKE_WINDOW :]
    middle = statistics.median(recent)
    deviation = 1.4826 * statistics.median(abs(one - middle) for one in recent)
    rise, (least, steps) = (value - middle) / max(abs(loss.first[0]), 1e-12), at.SPIKE_LASTS
    stands_out = value - middle > at.SPIKE_DEVIATIONS * deviation and value > at.SPIKE_TIMES * middle
    loss.num_raised = loss.num_raised + 1 if stands_out and rise > least else 0
    if stands_out and (rise > at.SPIKE_OF_FIRST or loss.num_raised >= steps):
        return f"loss {g(value)}, median of the {len(recent)} before it {g(middle)}, deviation {g(deviation)}"
    return ""


def spiked(model: ModelSeen, evidence: str, site: Site) -> Finding:
    """The loss of this step, and whether its batch is unlike the others."""
    more, kind = "", ""
    usual = [one.rms for one in list(model.inputs)[:-1] if one.rms is not None]
    if model.call is not None and usual:
        first = next(
            (
                one
                for one in torch.utils._pytree.tree_leaves((model.call[1], model.call[2]))
                if numbers.readable(one)
            ),
            None,
        )
        if first is not None:
            norm, scale = numbers.rms(numbers.rows_of(first))
            now, before = float(norm) * scale, sorted(usual)[len(usual) // 2]
            if before > 0 and not 0.2 < now / before < 5:
                more, kind = f"; the batch's RMS is {g(now)}, usually {g(before)}", "batch"
    return Finding(
        kind="loss spike",
        module=model.name,
        since=model.step,
        text=f"the loss of {model.name} jumps" + (", with a batch that is unlike the others" if kind else ""),
        evidence=evidence + more,
        fix="look at the batch" if kind else "clip the gradient's norm, or a smaller learning rate",
        code="torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
        file=site[0],
        line=site[1],
        model=model.name,
    )


def not_falling(model: ModelSeen, loss: LossSeen, *, alone: bool) -> Finding | None:
    """A loss that stays where it began, or rises; only where nothing else is trained by another loss."""
    found = loss.ends()
    if found is None or loss.count < at.NOT_FALLING_STEPS or not alone:
        return None
    first, last = found
    if not (first > 0 and math.isfinite(first) and math.isfinite(last) and loss.lowest >= 0):
        return None
    rises = last > at.RISEN * first and last > at.CHANCE * (loss.chance or 0.0)
    if not rises and last < at.NOT_FALLING * first:
        return None
    if loss.chance is not None and last < at.CHANCE * loss.chance:
        return None  # at its plateau, far below chance
    if loss.chance is None and not rises and loss.count < 2 * at.NOT_FALLING_STEPS:
        return None
    chance = f"; always the same prediction would cost {g(loss.chance)}" if loss.chance is not None else ""
    words = "rises" if rises else "does not fall"
    factor = "0.1" if rises else "10"
    return Finding(
        kind="loss not falling",
        module=model.name,
        since=loss.steps[0],
        text=f"the loss of {model.name} {words}",
        evidence=f"{g(first)} at first, {g(last)} after {loss.count:,} steps{chance}",
        fix="the other findings first; then another learning rate, labels that belong to the inputs, or training on "
        "one batch until it is learned by heart",
        code=f"for group in optimizer.param_groups: group['lr'] *= {factor}",
        file=loss.site[0],
        line=loss.site[1],
        model=model.name,
    )
