"""How a configuration stands beside the defaults."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from deepseek_lab.base.events import Compared

_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, two-sided 95 %, by degrees of freedom from 1."""


def beside(config: str, pairs: Sequence[tuple[float, float]], unseen: bool) -> Compared | None:
    """Compare what the defaults and a configuration gave on the same seeds; None without any.

    Args:
        config: Name of the configuration.
        pairs: By seed, of the defaults and of the configuration.
        unseen: Whether it was measured on data that the search never saw.
    """
    if not pairs:
        return None
    differences = [found - defaults for defaults, found in pairs]
    mean = statistics.mean(differences)
    interval = None
    if len(differences) > 1:
        t = _T95[len(differences) - 2] if len(differences) - 2 < len(_T95) else 1.96
        half = t * statistics.stdev(differences) / math.sqrt(len(differences))
        interval = (mean - half, mean + half)
    return Compared(
        config=config,
        defaults=tuple(one for one, _ in pairs),
        found=tuple(one for _, one in pairs),
        difference=mean,
        ci95=interval,
        unseen=unseen,
    )
