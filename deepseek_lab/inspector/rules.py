"""From numbers to findings. Each rule looks at one sampled step; that it persists is counted by :class:`Streaks`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import thresholds as at
from deepseek_lab.inspector.seen import LossSeen, ModelSeen, ModuleSeen, ParameterSeen, Sample
from deepseek_lab.inspector.sites import NOWHERE, Site, as_python

MAX_AFFECTED = 40
NO_GRADIENT_LOOKS = 3


Key = tuple[str, str]
_OF_MODEL = frozenset({"vanishing gradient", "exploding gradient"})
"""Kinds that are about the model: the module named is the one that shows it most, the next time perhaps another."""


def key_of(finding: Finding) -> Key:
    """What a finding is counted and kept under: its kind, and its module or its model."""
    return finding.kind, finding.model if finding.kind in _OF_MODEL else finding.module


@dataclasses.dataclass(frozen=True)
class Hit:
    """A rule that holds in one sampled step."""

    finding: Finding
    persists: int = at.PERSISTS


class Streaks:
    """Counts in how many samples in a row each rule held for each module."""

    def __init__(self) -> None:
        self._counts: dict[Key, tuple[int, int]] = {}

    def persisting(self, step: int, hits: Sequence[Hit]) -> list[Finding]:
        """Those that have held for long enough, each since its first step."""
        counts: dict[Key, tuple[int, int]] = {}
        found = []
        for hit in hits:
            key = key_of(hit.finding)
            since, count = self._counts.get(key, (step, 0))
            counts[key] = (since, count + 1)
            if count + 1 >= hit.persists:
                found.append(dataclasses.replace(hit.finding, since=min(since, hit.finding.since)))
        self._counts = counts
        return found


def hits_of(model: ModelSeen, step: int, losses: Sequence[LossSeen]) -> list[Hit]:
    """Everything that holds in this sampled step of a model."""
    samples = {
        id(seen): seen.samples[-1]
        for seen in [*model.ordered, *model.functional.values()]
        if seen.samples and seen.samples[-1].step == step
    }
    look = _Look(model, step, samples, losses)
    return [
        *look.vanishing(),
        *look.exploding(),
        *look.dead(),
        *look.saturated(),
        *look.updates(),
        *look.inputs(),
    ]


def g(value: float) -> str:
    """A number in words that can be read again."""
    return f"{value:.2g}"


@dataclasses.dataclass(frozen=True)
class _Look:
    model: ModelSeen
    step: int
    samples: dict[int, Sample]
    losses: Sequence[LossSeen]

    def _finding(
        self, kind: str, seen: ModuleSeen | None, text: str, evidence: str, **more: object
    ) -> Finding:
        site: Site = seen.site if seen is not None and seen.site != NOWHERE else self.model.site
        return Finding(
            kind=kind,
            module=seen.path if seen is not None else self.model.name,
            since=self.step,
            text=text,
            evidence=evidence,
            file=site[0],
            line=site[1],
            model=self.model.name,
            **more,  # type: ignore[arg-type]
        )

    def _of(self, seen: ModuleSeen) -> Sample | None:
        return self.samples.get(id(seen))

    def _with_gradient(self) -> list[tuple[ModuleSeen, float, float]]:
        """Layers with weights: norm of their gradient and of the weights, in the order of the calls."""
        found = []
        for seen in self.model.layers:
            sample = self._of(seen)
            if sample is not None and sample.weight_gradient is not None and sample.weight_norm is not None:
                found.append((seen, sample.weight_gradient, sample.weight_norm))
        return found

    def _chain(self, first: ModuleSeen, last: ModuleSeen) -> list[tuple[ModuleSeen, float]]:
        """Modules from one to another with the gradient by their outputs."""
        found = []
        for seen in self.model.ordered:
            sample = self._of(seen)
            if first.order <= seen.order <= last.order and sample is not None and seen.is_leaf:
                gradient = sample.gradient_rms
                if gradient is not None and math.isfinite(gradient):
                    found.append((seen, gradient))
        return found

    def _culprit(self, first: ModuleSeen, last: ModuleSeen, sign: int) -> ModuleSeen | None:
        """The one module that most of a change of the gradient happens in; None where many share it.

        The gradient by a module's output against that by the output of the module before is what it does to it.
        """
        chain = [(seen, value) for seen, value in self._chain(first, last) if value > 0]
        if len(chain) < 2:
            return None
        steps = [
            (sign * math.log10(chain[i][1] / chain[i + 1][1]), chain[i + 1][0]) for i in range(len(chain) - 1)
        ]
        whole = sign * math.log10(chain[0][1] / chain[-1][1])
        most, seen = max(steps, key=lambda one: one[0])
        return seen if most >= max(1.5, 0.5 * whole) else None

    def vanishing(self) -> Iterator[Hit]:
        layers = self._with_gradient()
        if len(layers) < 2:
            return
        last, last_norm, _ = layers[-1]
        if not math.isfinite(last_norm) or last_norm < 1e-12:
            return
        faint = [
            (seen, norm)
            for seen, norm, _ in layers[:-1]
            if norm < at.VANISHED * last_norm and norm < at.FAINT
        ]
        if not faint:
            return
        if any(norm == 0.0 for _, norm in faint) and self._is_cut():
            return
        first = faint[0][0]
        where = self._culprit(first, last, -1) or faint[-1][0]
        names = tuple(seen.path for seen, _ in faint)[:MAX_AFFECTED]
        span = names[0] if len(names) == 1 else f"{names[-1]} back to {names[0]}"
        yield Hit(
            self._finding(
                "vanishing gradient",
                where,
                f"the gradient fades at {where.path}: {span} hardly learn{'s' if len(names) == 1 else ''}",
                f"gradient norm {g(faint[0][1])} in {first.path}, {g(last_norm)} in {last.path}",
                affected=names,
                fix="activations that do not end (ReLU, GELU), He initialisation, a normalisation or a residual "
                "connection around these layers",
                code=f"torch.nn.init.kaiming_normal_({as_python(where.path)}.weight)"
                if where.has_weights
                else f"{_assign(where.path, 'torch.nn.ReLU()')}",
            )
        )

    def _is_cut(self) -> bool:
        """Whether some layer lets nothing through at all, which has a finding of its own."""
        return any(
            (sample.inactive or 0.0) > 0.99 or (sample.saturated or 0.0) > 0.99
            for sample in self.samples.values()
        )

    def exploding(self) -> Iterator[Hit]:
        layers = self._with_gradient()
        if not layers:
            return
        last, last_norm, _ = layers[-1]
        large = [
            (norm / max(size, 1e-12), seen, norm, size)
            for seen, norm, size in layers
            if math.isfinite(norm)
            and (
                (self._grows(seen, last, norm, last_norm) and norm > at.LARGER_THAN_WEIGHTS * size)
                or norm > at.EXPLODED_ALONE * max(size, self._least_size(seen))
            )
        ]
        if large:
            _, worst, norm, size = max(large, key=lambda one: one[0])
            where = self._culprit(large[0][1], last, 1) or self._grown() or worst
            names = tuple(one[1].path for one in large)[:MAX_AFFECTED]
            yield Hit(
                self._finding(
                    "exploding gradient",
                    where,
                    f"the gradient grows on its way back, most at {where.path}",
                    f"gradient norm {g(norm)} in {worst.path}, {g(norm / max(size, 1e-12))} times its weights; "
                    f"{g(last_norm)} in {last.path}",
                    affected=names,
                    **_CLIP,
                )
            )
        totals = [value for _, value in list(self.model.totals)[-20:-1] if math.isfinite(value) and value > 0]
        if len(totals) >= 5 and self.model.totals:
            now, before = self.model.totals[-1][1], statistics.median(totals)
            if now > at.JUMPED * before and now > at.LARGER_THAN_WEIGHTS:
                where = max(layers, key=lambda one: one[1])[0]
                yield Hit(
                    self._finding(
                        "exploding gradient",
                        where,
                        f"the gradient is suddenly {g(now / before)} times as large, most of it in {where.path}",
                        f"gradient norm {g(now)}, median of earlier steps {g(before)}",
                        **_CLIP,
                    ),
                    persists=1,
                )

    def _grown(self) -> ModuleSeen | None:
        """The layer that makes activations grow most, where they grow out of proportion: gradients of weights are
        products with them.
        """
        sizes = [
            (seen, sample.activation_rms)
            for seen in self.model.layers
            if (sample := self._of(seen)) is not None and sample.activation_rms
        ]
        if not sizes:
            return None
        given = self.model.inputs[-1].rms if self.model.inputs else None
        before = [given or sizes[0][1], *(size for _, size in sizes[:-1])]
        growth = [(size / old, seen) for (seen, size), old in zip(sizes, before, strict=True)]
        if max(size for _, size in sizes) < at.EXPLODED * before[0]:
            return None
        return max(growth, key=lambda one: one[0])[1]

    def _grows(self, seen: ModuleSeen, last: ModuleSeen, norm: float, last_norm: float) -> bool:
        """Whether a layer's gradient is out of proportion to the last one's: that of its weights, or by its output,
        since where activations grow too the former are all alike.
        """
        if seen is last:
            return False
        own, others = self._of(seen), self._of(last)
        by_output = (
            own is not None
            and others is not None
            and own.gradient_rms is not None
            and others.gradient_rms is not None
            and own.gradient_rms > at.EXPLODED * others.gradient_rms > 0
        )
        return norm > at.EXPLODED * last_norm or by_output

    @staticmethod
    def _least_size(seen: ModuleSeen) -> float:
        """A size that weights may be compared with although they begin at zero."""
        module = seen.module()
        count = sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1) if module else 0
        return 0.01 * math.sqrt(count)

    def dead(self) -> Iterator[Hit]:
        cut = False
        for seen in sorted([*self.model.ordered, *self.model.functional.values()], key=lambda one: one.order):
            sample = self._of(seen)
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
                self._finding(
                    "dead units",
                    seen,
                    f"{sample.dead:.0%} of the units of {name} are never active",
                    f"no value above zero for {sample.dead:.0%} of the units in the last samples",
                    affected=(source,) if after else (),
                    fix="a smaller learning rate, biases that begin at zero, or an activation that leaks below zero",
                    code=code
                    if seen.num_parameters or not source
                    else f"{code}\n{_assign(seen.path, 'torch.nn.LeakyReLU(0.01)')}",
                )
            )

    def saturated(self) -> Iterator[Hit]:
        last = max((one.order for one in self.model.layers), default=-1)
        for seen in [*self.model.ordered, *self.model.functional.values()]:
            sample = self._of(seen)
            limit = at.SATURATED_ROWS if seen.kind == "softmax" else at.SATURATED
            if sample is None or sample.saturated is None or sample.saturated <= limit:
                continue
            if seen.order > last:
                continue  # a last activation is there to be sure of itself
            source = seen.source
            after = f" after {source.path}" if source is not None and source.path != seen.path else ""
            name = f"the {seen.kind} after {seen.path}" if seen.is_function else f"{seen.path}{after}"
            yield Hit(
                self._finding(
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

    def updates(self) -> Iterator[Hit]:
        ratios = {}
        for seen in self.model.layers:
            sample = self._of(seen)
            if sample is not None and sample.update_ratio is not None and math.isfinite(sample.update_ratio):
                ratios[seen.path] = (seen, sample.update_ratio, sample)
        if not ratios:
            return
        middle = statistics.median(ratio for _, ratio, _ in ratios.values())
        beyond = [path for path, (_, ratio, _) in ratios.items() if ratio > at.LARGE_UPDATE]
        self.model.num_updates += 1
        if 2 * len(beyond) > len(ratios):
            self.model.large_updates.append((self.step, middle, tuple(beyond)))
        small = [path for path, (_, ratio, _) in ratios.items() if ratio < at.SMALL_UPDATE]
        if 2 * len(small) > len(ratios) and not self._is_cut():
            self.model.small_updates.append((self.step, middle, tuple(small)))
        if middle > 1e-7:
            for seen, ratio, sample in ratios.values():
                if (
                    ratio < at.STOPPED * middle
                    and (sample.weight_gradient or 0.0) > 0.0
                    and not self._is_faint(sample)
                ):
                    yield Hit(
                        self._finding(
                            "update ratio",
                            seen,
                            f"{seen.path} has a gradient and is hardly changed",
                            f"update {g(ratio)} of the weights, median of the layers {g(middle)}",
                            fix="the learning rate of its parameter group",
                            code="for group in optimizer.param_groups: print(group['lr'], len(group['params']))",
                        )
                    )

    def _is_faint(self, sample: Sample) -> bool:
        layers = self._with_gradient()
        return bool(layers) and (sample.weight_gradient or 0.0) < at.VANISHED * layers[-1][1]

    def inputs(self) -> Iterator[Hit]:
        if not self.model.inputs or self.model.inputs[-1].step != self.step:
            return
        given = self.model.inputs[-1]
        if given.rms is None:
            return
        if not math.isfinite(given.rms):
            return  # is found where it does harm
        if given.rms > at.UNSCALED_RMS:
            yield Hit(
                self._finding(
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
                self._finding(
                    "input",
                    given.layer,
                    f"all {given.num_rows} rows of a batch that {given.layer.path} is given are the same",
                    f"largest distance between rows 0, RMS {g(given.rms)}",
                    fix="look at what the data loader gives",
                    code="x = next(iter(loader))[0]; print((x - x[:1]).abs().max())",
                ),
                persists=2,
            )


_CLIP: dict[str, str] = {
    "fix": "clip the gradient's norm, a smaller learning rate, smaller initial weights, or a normalisation",
    "code": "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
}


def _assign(path: str, value: str) -> str:
    return f"{as_python(path)} = {value}"


def _has_bias(seen: ModuleSeen | None) -> bool:
    module = seen.module() if seen is not None else None
    return getattr(module, "bias", None) is not None


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


# -- losses -------------------------------------------------------------------------------------------


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


# -- parameters ---------------------------------------------------------------------------------------


def unreached(model: ModelSeen) -> list[Finding]:
    """Parameters that are not trained, module by module, and why."""
    if not model.optimizers:
        return []
    groups: dict[str, list[ParameterSeen]] = {"frozen": [], "unused": [], "optimizer": []}
    for one in model.parameters.values():
        parameter = one.parameter()
        if parameter is None:
            continue
        if not parameter.requires_grad:
            groups["frozen"].append(one)
        elif one.num_looks >= NO_GRADIENT_LOOKS and not one.had_gradient:
            groups["unused"].append(one)
        elif one.num_looks >= NO_GRADIENT_LOOKS and not one.in_optimizer:
            groups["optimizer"].append(one)
    return [
        finding
        for kind, members in groups.items()
        for top in _tops(model, members)
        for finding in [_unreached(model, kind, top, members)]
    ]


def _tops(model: ModelSeen, members: Sequence[ParameterSeen]) -> list[ModuleSeen]:
    """The largest modules all of whose parameters are among these, and the owners of the rest."""
    chosen = {id(one) for one in members}
    whole: dict[str, bool] = {}
    for one in model.parameters.values():
        parts = one.owner.path.split(".")
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            whole[path] = whole.get(path, True) and id(one) in chosen
    by_path = {seen.path: seen for seen in model.modules.values()}
    found: dict[str, ModuleSeen] = {}
    for one in members:
        parts = one.owner.path.split(".")
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            if (whole[path] or count == len(parts)) and path in by_path:
                found.setdefault(path, by_path[path])
                break
    return list(found.values())


def _unreached(model: ModelSeen, kind: str, top: ModuleSeen, members: Sequence[ParameterSeen]) -> Finding:
    inside = [
        one for one in members if one.owner.path == top.path or one.owner.path.startswith(f"{top.path}.")
    ]
    count = sum(found.numel() for one in inside if (found := one.parameter()) is not None)
    names = ", ".join(one.path.removeprefix(f"{top.path}.") for one in inside[:4])
    names += ", …" if len(inside) > 4 else ""
    held = any(one.in_optimizer for one in inside)
    called = any(
        seen.order >= 0
        for seen in model.modules.values()
        if seen.path == top.path or seen.path.startswith(f"{top.path}.")
    )
    text, fix, code = {
        "frozen": (
            f"{top.path} is frozen",
            "nothing if that is meant; else let it be trained",
            f"{as_python(top.path)}.requires_grad_(True)",
        ),
        "unused": (
            f"{top.path} {'is called, and no gradient comes back to it' if called else 'is never called'}",
            "look for .detach(), torch.no_grad() or .data between it and the loss"
            if called
            else "call it in forward, or take it out of the model",
            f"print([name for name, one in {as_python(top.path)}.named_parameters() if one.grad is None])",
        ),
        "optimizer": (
            f"{top.path} has gradients, and no optimiser that steps holds it",
            "make the optimiser after the model is complete, or hand it these parameters",
            f"optimizer.add_param_group({{'params': list({as_python(top.path)}.parameters())}})",
        ),
    }[kind]
    return Finding(
        kind=kind,
        module=top.path,
        since=0,
        text=text,
        evidence=f"{count:,} parameters: {names}"
        + (f"; {NO_GRADIENT_LOOKS} steps and more were looked at" if kind != "frozen" else "")
        + ("; an optimiser holds them" if kind == "frozen" and held else ""),
        fix=fix,
        code=code,
        file=top.site[0] or model.site[0],
        line=top.site[1] or model.site[1],
        model=model.name,
        is_note=kind == "frozen",
    )
