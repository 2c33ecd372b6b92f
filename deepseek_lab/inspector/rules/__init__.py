"""From numbers to findings. A rule looks at one sampled step; that it persists is counted by :class:`Streaks`."""

from __future__ import annotations

from deepseek_lab.inspector.rules.gradients import exploding, vanishing
from deepseek_lab.inspector.rules.inputs import inputs
from deepseek_lab.inspector.rules.look import Look, g
from deepseek_lab.inspector.rules.losses import not_falling, spike, spiked
from deepseek_lab.inspector.rules.parameters import NO_GRADIENT_LOOKS, unreached
from deepseek_lab.inspector.rules.streaks import Hit, Key, Streaks, key_of
from deepseek_lab.inspector.rules.units import dead, saturated
from deepseek_lab.inspector.rules.updates import stopped, updates
from deepseek_lab.inspector.seen import ModelSeen

__all__ = [
    "NO_GRADIENT_LOOKS",
    "Hit",
    "Key",
    "Streaks",
    "g",
    "hits_of",
    "key_of",
    "not_falling",
    "spike",
    "spiked",
    "unreached",
    "updates",
]

_RULES = (vanishing, exploding, dead, saturated, stopped, inputs)


def hits_of(model: ModelSeen, step: int) -> list[Hit]:
    """Everything that holds in this sampled step of a model."""
    samples = {
        id(seen): seen.samples[-1]
        for seen in [*model.ordered, *model.functional.values()]
        if seen.samples and seen.samples[-1].step == step
    }
    look = Look(model, step, samples)
    return [hit for rule in _RULES for hit in rule(look)]
