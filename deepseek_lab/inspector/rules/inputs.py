"""What the first layer is given."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.rules.look import Look, g
from deepseek_lab.inspector.rules.streaks import Hit


def inputs(look: Look) -> Iterator[Hit]:
    """Inputs that are not scaled, or all alike."""
    if not look.model.inputs or look.model.inputs[-1].step != look.step:
        return
    given = look.model.inputs[-1]
    if given.rms is None:
        return
    if not math.isfinite(given.rms):
        return  # is found where it does harm
    if given.rms > at.UNSCALED_RMS:
        yield Hit(
            look.finding(
                "input",
                given.layer,
                f"the inputs of {given.layer.path} are not scaled",
                f"RMS {g(given.rms)}; layers are initialised for inputs of about 1",
                fix="subtract the mean and divide by the standard deviation, or divide pixels by 255",
                code="x = (x - x_train.mean(0)) / x_train.std(0).clamp(min=1e-6)",
            ),
            persists=2,
        )
    if given.spread == 0.0 and given.num_rows >= 4:
        yield Hit(
            look.finding(
                "input",
                given.layer,
                f"all {given.num_rows} rows of a batch that {given.layer.path} is given are the same",
                f"largest distance between rows 0, RMS {g(given.rms)}",
                fix="look at what the data loader gives",
                code="x = next(iter(loader))[0]; print((x - x[:1]).abs().max())",
            ),
            persists=2,
        )
