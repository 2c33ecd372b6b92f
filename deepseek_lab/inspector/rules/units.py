"""Units that are never active, and values at the end of their range."""

from __future__ import annotations

from collections.abc import Iterator

from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.rules.look import Look, assign
from deepseek_lab.inspector.rules.streaks import Hit
from deepseek_lab.inspector.seen import ModuleSeen
from deepseek_lab.inspector.sites import as_python


def dead(look: Look) -> Iterator[Hit]:
    """Units that no value has made active in the last samples."""
    cut = False
    for seen in sorted([*look.model.ordered, *look.model.functional.values()], key=lambda one: one.order):
        sample = look.sample_of(seen)
        if sample is None or sample.dead is None or sample.dead <= at.DEAD:
            continue
        if cut:
            continue  # what follows a layer that lets nothing through is given the same whatever comes
        cut = sample.dead > 0.99
        source = seen.source.path if seen.source is not None else ""
        after = f" after {source}" if source and source != seen.path else ""
        name = f"the {seen.kind} after {seen.path}" if seen.is_function else f"{seen.path}{after}"
        code = f"torch.nn.init.kaiming_normal_({as_python(source)}.weight)" if source else ""
        if source and _has_bias(seen.source):
            code += f"; torch.nn.init.zeros_({as_python(source)}.bias)"
        yield Hit(
            look.finding(
                "dead units",
                seen,
                f"{sample.dead:.0%} of the units of {name} are never active",
                f"no value above zero for {sample.dead:.0%} of the units in the last samples",
                affected=(source,) if after else (),
                fix="a smaller learning rate, biases that begin at zero, or an activation that leaks below zero",
                code=code
                if seen.num_parameters or not source
                else f"{code}\n{assign(seen.path, 'torch.nn.LeakyReLU(0.01)')}",
            )
        )


def saturated(look: Look) -> Iterator[Hit]:
    """Activations most of whose values let no gradient through."""
    last = max((one.order for one in look.model.layers), default=-1)
    for seen in [*look.model.ordered, *look.model.functional.values()]:
        sample = look.sample_of(seen)
        limit = at.SATURATED_ROWS if seen.kind == "softmax" else at.SATURATED
        if sample is None or sample.saturated is None or sample.saturated <= limit:
            continue
        if seen.order > last:
            continue  # a last activation is there to be sure of itself
        source = seen.source
        after = f" after {source.path}" if source is not None and source.path != seen.path else ""
        name = f"the {seen.kind} after {seen.path}" if seen.is_function else f"{seen.path}{after}"
        yield Hit(
            look.finding(
                "saturation",
                seen,
                f"{sample.saturated:.0%} of what {name} gives is at the end of its range",
                f"{sample.saturated:.1%} of the values within 1 % of the end, where next to no gradient passes"
                if seen.kind != "softmax"
                else f"the largest of the shares is above {at.SOFTMAX_END} in {sample.saturated:.1%} of the rows",
                affected=(source.path,) if after and source is not None else (),
                fix="smaller weights before it, scaled inputs, or a normalisation before the activation",
                code=f"torch.nn.init.xavier_normal_({as_python(source.path)}.weight)"
                if source is not None
                else "",
            )
        )


def _has_bias(seen: ModuleSeen | None) -> bool:
    module = seen.module() if seen is not None else None
    return getattr(module, "bias", None) is not None
