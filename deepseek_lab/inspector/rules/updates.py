"""Steps that are too large or too small for the weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.rules.look import MAX_AFFECTED, Look, g
from deepseek_lab.inspector.rules.streaks import Hit
from deepseek_lab.inspector.seen import LossSeen, ModelSeen, Sample


def stopped(look: Look) -> Iterator[Hit]:
    """Layers that have a gradient and are hardly changed; notes sizes of updates for :func:`updates`."""
    ratios = {}
    for seen in look.model.layers:
        sample = look.sample_of(seen)
        if sample is not None and sample.update_ratio is not None and math.isfinite(sample.update_ratio):
            ratios[seen.path] = (seen, sample.update_ratio, sample)
    if not ratios:
        return
    middle = statistics.median(ratio for _, ratio, _ in ratios.values())
    beyond = [path for path, (_, ratio, _) in ratios.items() if ratio > at.LARGE_UPDATE]
    look.model.num_updates += 1
    if 2 * len(beyond) > len(ratios):
        look.model.large_updates.append((look.step, middle, tuple(beyond)))
    small = [path for path, (_, ratio, _) in ratios.items() if ratio < at.SMALL_UPDATE]
    if 2 * len(small) > len(ratios) and not look.is_cut():
        look.model.small_updates.append((look.step, middle, tuple(small)))
    if middle > 1e-7:
        for seen, ratio, sample in ratios.values():
            if (
                ratio < at.STOPPED * middle
                and (sample.weight_gradient or 0.0) > 0.0
                and not _is_faint(look, sample)
            ):
                yield Hit(
                    look.finding(
                        "update ratio",
                        seen,
                        f"{seen.path} has a gradient and is hardly changed",
                        f"update {g(ratio)} of the weights, median of the layers {g(middle)}",
                        fix="the learning rate of its parameter group",
                        code="for group in optimizer.param_groups: print(group['lr'], len(group['params']))",
                    )
                )


def _is_faint(look: Look, sample: Sample) -> bool:
    layers = look.with_gradient()
    return bool(layers) and (sample.weight_gradient or 0.0) < at.VANISHED * layers[-1][1]


def updates(model: ModelSeen, losses: Sequence[LossSeen]) -> list[Finding]:
    """Steps that are too large or too small for most layers, while no loss falls.

    Large ones count although they were a while ago: the weights that they made are so large that later ones are small
    beside them. Small ones are most of all, or it is a warm-up.
    """
    falling = [loss.is_falling for loss in losses]
    if not falling or any(one is not False for one in falling):
        return []
    large, small = model.large_updates, model.small_updates
    few = 2 * len(small) <= model.num_updates
    for words, found in (("large", large), ("small", [] if few else small)):
        if len(found) >= at.PERSISTS:
            ratio = statistics.median(one[1] for one in found)
            factor = 10.0 ** round(math.log10(1e-3 / ratio)) if ratio > 0 else None
            return [
                Finding(
                    kind="update ratio",
                    module=model.name,
                    since=found[0][0],
                    text=f"steps are too {words} for the weights, and the loss is not falling",
                    evidence=f"update {g(ratio)} of the weights in the median layer; about 1e-3 is usual",
                    affected=tuple(found[-1][2])[:MAX_AFFECTED],
                    fix=f"a learning rate {factor:g} times the one in use"
                    if factor
                    else "a learning rate above zero",
                    code=f"for group in optimizer.param_groups: group['lr'] *= {factor:g}" if factor else "",
                    file=model.site[0],
                    line=model.site[1],
                    model=model.name,
                )
            ]
    return []
