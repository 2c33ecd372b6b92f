"""Gradients that fade, grow or jump on their way back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.rules.look import MAX_AFFECTED, Look, assign, g
from deepseek_lab.inspector.rules.streaks import Hit
from deepseek_lab.inspector.seen import ModuleSeen
from deepseek_lab.inspector.sites import as_python

_CLIP: dict[str, str] = {
    "fix": "clip the gradient's norm, a smaller learning rate, smaller initial weights, or a normalisation",
    "code": "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
}


def vanishing(look: Look) -> Iterator[Hit]:
    """Layers whose gradient is far below that of the last one."""
    layers = look.with_gradient()
    if len(layers) < 2:
        return
    last, last_norm, _ = layers[-1]
    if not math.isfinite(last_norm) or last_norm < 1e-12:
        return
    faint = [
        (seen, norm) for seen, norm, _ in layers[:-1] if norm < at.VANISHED * last_norm and norm < at.FAINT
    ]
    if not faint:
        return
    if any(norm == 0.0 for _, norm in faint) and look.is_cut():
        return
    first = faint[0][0]
    where = look.culprit(first, last, -1) or faint[-1][0]
    names = tuple(seen.path for seen, _ in faint)[:MAX_AFFECTED]
    span = names[0] if len(names) == 1 else f"{names[-1]} back to {names[0]}"
    yield Hit(
        look.finding(
            "vanishing gradient",
            where,
            f"the gradient fades at {where.path}: {span} hardly learn{'s' if len(names) == 1 else ''}",
            f"gradient norm {g(faint[0][1])} in {first.path}, {g(last_norm)} in {last.path}",
            affected=names,
            fix="activations that do not end (ReLU, GELU), He initialisation, a normalisation or a residual "
            "connection around these layers",
            code=f"torch.nn.init.kaiming_normal_({as_python(where.path)}.weight)"
            if where.has_weights
            else f"{assign(where.path, 'torch.nn.ReLU()')}",
        )
    )


def exploding(look: Look) -> Iterator[Hit]:
    """Gradients that are out of proportion to the last layer's or to their weights, or that jump."""
    layers = look.with_gradient()
    if not layers:
        return
    last, last_norm, _ = layers[-1]
    large = [
        (norm / max(size, 1e-12), seen, norm, size)
        for seen, norm, size in layers
        if math.isfinite(norm)
        and (
            (_grows(look, seen, last, norm, last_norm) and norm > at.LARGER_THAN_WEIGHTS * size)
            or norm > at.EXPLODED_ALONE * max(size, _least_size(seen))
        )
    ]
    if large:
        _, worst, norm, size = max(large, key=lambda one: one[0])
        where = look.culprit(large[0][1], last, 1) or _grown(look) or worst
        names = tuple(one[1].path for one in large)[:MAX_AFFECTED]
        yield Hit(
            look.finding(
                "exploding gradient",
                where,
                f"the gradient grows on its way back, most at {where.path}",
                f"gradient norm {g(norm)} in {worst.path}, {g(norm / max(size, 1e-12))} times its weights; "
                f"{g(last_norm)} in {last.path}",
                affected=names,
                **_CLIP,
            )
        )
    totals = [value for _, value in list(look.model.totals)[-20:-1] if math.isfinite(value) and value > 0]
    if len(totals) >= 5 and look.model.totals:
        now, before = look.model.totals[-1][1], statistics.median(totals)
        if now > at.JUMPED * before and now > at.LARGER_THAN_WEIGHTS:
            where = max(layers, key=lambda one: one[1])[0]
            yield Hit(
                look.finding(
                    "exploding gradient",
                    where,
                    f"the gradient is suddenly {g(now / before)} times as large, most of it in {where.path}",
                    f"gradient norm {g(now)}, median of earlier steps {g(before)}",
                    **_CLIP,
                ),
                persists=1,
            )


def _grown(look: Look) -> ModuleSeen | None:
    """The layer that makes activations grow most, where they grow out of proportion: gradients of weights are
    products with them.
    """
    sizes = [
        (seen, sample.activation_rms)
        for seen in look.model.layers
        if (sample := look.sample_of(seen)) is not None and sample.activation_rms
    ]
    if not sizes:
        return None
    given = look.model.inputs[-1].rms if look.model.inputs else None
    before = [given or sizes[0][1], *(size for _, size in sizes[:-1])]
    growth = [(size / old, seen) for (seen, size), old in zip(sizes, before, strict=True)]
    if max(size for _, size in sizes) < at.EXPLODED * before[0]:
        return None
    return max(growth, key=lambda one: one[0])[1]


def _grows(look: Look, seen: ModuleSeen, last: ModuleSeen, norm: float, last_norm: float) -> bool:
    """Whether a layer's gradient is out of proportion to the last one's: that of its weights, or by its output,
    since where activations grow too the former are all alike.
    """
    if seen is last:
        return False
    own, others = look.sample_of(seen), look.sample_of(last)
    by_output = (
        own is not None
        and others is not None
        and own.gradient_rms is not None
        and others.gradient_rms is not None
        and own.gradient_rms > at.EXPLODED * others.gradient_rms > 0
    )
    return norm > at.EXPLODED * last_norm or by_output


def _least_size(seen: ModuleSeen) -> float:
    """A size that weights may be compared with although they begin at zero."""
    module = seen.module()
    count = sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1) if module else 0
    return 0.01 * math.sqrt(count)
