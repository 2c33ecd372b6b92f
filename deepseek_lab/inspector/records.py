"""What was seen of modules, as records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from deepseek_lab.base.inspection import Curve, ModuleRecord
from deepseek_lab.inspector.seen import ModelSeen, ModuleSeen

_MAX_CURVES = 24


def gradient_curves(models: Sequence[ModelSeen]) -> Iterator[Curve]:
    """The gradient by what modules return, over the sampled steps."""
    count = 0
    for model in models:
        for seen in model.ordered:
            points = [(one.step, one.gradient_rms) for one in seen.samples if one.gradient_rms is not None]
            if seen.is_leaf and len(points) > 1 and count < _MAX_CURVES:
                count += 1
                yield Curve(seen.path, tuple(step for step, _ in points), tuple(value for _, value in points))


def record(model: ModelSeen, seen: ModuleSeen) -> ModuleRecord:
    """The newest numbers of a module."""

    def last(name: str) -> float | None:
        return next(
            (value for one in reversed(seen.samples) if (value := getattr(one, name)) is not None), None
        )

    norm, module = last("weight_norm"), seen.module()
    count = (
        sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1)
        if module is not None
        else 0
    )
    return ModuleRecord(
        path=seen.path,
        type_name=seen.type_name,
        model=model.name,
        file=seen.site[0],
        line=seen.site[1],
        activation_rms=last("activation_rms"),
        gradient_rms=last("gradient_rms"),
        weight_rms=norm / math.sqrt(count) if norm is not None and count else None,
        weight_gradient=last("own_gradient"),
        update_ratio=last("update_ratio"),
        dead_share=last("dead"),
        saturated_share=last("saturated"),
    )
