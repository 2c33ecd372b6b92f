"""Steps from configurations that are known to be good: the defaults first, whoever is the best later.

Whoever writes a cell writes defaults that are roughly right, so a search that knows little looks near them as often as
anywhere (as FLAML's local search does, arXiv 2005.01571), and one that knows more looks near the best.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from deepseek_lab.hpo.spaces import Plain, Space

NARROW, WIDE = 0.04, 0.35
"""Standard deviations of a step, as parts of a range; each step has its own between them."""
CHANGED = 0.4
"""Part of the values that a step changes."""


def step(params: Mapping[str, Plain], spaces: Mapping[str, Space], draw: random.Random) -> dict[str, Plain]:
    """A configuration near this one; it differs in one value at least where a range has more than one."""
    found = {name: value for name, value in params.items() if name in spaces}
    names = list(found)
    changed = [name for name in names if draw.random() < CHANGED] or draw.sample(names, min(1, len(names)))
    width = math.exp(draw.uniform(math.log(NARROW), math.log(WIDE)))
    for name in changed:
        found[name] = _moved(found[name], spaces[name], width, draw)
    return found


def _moved(value: Plain, space: Space, width: float, draw: random.Random) -> Plain:
    if space.kind == "choice":
        return _other(str(value), space.labels, draw)
    low, high = space.low, space.high
    if low >= high:
        return value
    log = space.kind in ("log", "log-integer")
    low, high, at = (math.log(one) if log else one for one in (low, high, float(value)))
    at = low + (high - low) * _reflected((at - low) / (high - low) + draw.gauss(0.0, width))
    at = math.exp(at) if log else at
    if "integer" not in space.kind:
        if space.step:
            at = space.low + round((at - space.low) / space.step) * space.step
        return min(space.high, max(space.low, at))
    step = space.step or 1
    steps = round((at - space.low) / step)
    if steps == round((float(value) - space.low) / step):
        steps += draw.choice((-1, 1))
    steps = min(int((space.high - space.low) // step), max(0, steps))
    return int(space.low + steps * step)


def _reflected(at: float) -> float:
    """Back from beyond an end of 0 to 1."""
    at = abs(at) % 2.0
    return 2.0 - at if at > 1.0 else at


def _other(label: str, labels: Sequence[str], draw: random.Random) -> str:
    """Another one; where they are numbers in order, one beside it."""
    if len(labels) < 2:
        return label
    index = labels.index(label)
    if _in_order(labels):
        return labels[draw.choice([one for one in (index - 1, index + 1) if 0 <= one < len(labels)])]
    return draw.choice([one for one in labels if one != label])


def _in_order(labels: Sequence[str]) -> bool:
    try:
        numbers = [float(one) for one in labels]
    except ValueError:
        return False
    return len(labels) > 2 and numbers in (sorted(numbers), sorted(numbers, reverse=True))
