"""What a rule is given: one sampled step of a model."""

from __future__ import annotations

import dataclasses
import math

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector.seen import ModelSeen, ModuleSeen, Sample
from deepseek_lab.inspector.sites import NOWHERE, Site, as_python

MAX_AFFECTED = 40
"""Modules that one finding names."""


def g(value: float) -> str:
    """A number in words that can be read again."""
    return f"{value:.2g}"


def assign(path: str, value: str) -> str:
    """A line that puts something else in a module's place."""
    return f"{as_python(path)} = {value}"


@dataclasses.dataclass(frozen=True)
class Look:
    """One sampled step of a model, and what several rules ask of it."""

    model: ModelSeen
    step: int
    samples: dict[int, Sample]

    def finding(
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

    def sample_of(self, seen: ModuleSeen) -> Sample | None:
        return self.samples.get(id(seen))

    def with_gradient(self) -> list[tuple[ModuleSeen, float, float]]:
        """Layers with weights: norm of their gradient and of the weights, in the order of the calls."""
        found = []
        for seen in self.model.layers:
            sample = self.sample_of(seen)
            if sample is not None and sample.weight_gradient is not None and sample.weight_norm is not None:
                found.append((seen, sample.weight_gradient, sample.weight_norm))
        return found

    def _chain(self, first: ModuleSeen, last: ModuleSeen) -> list[tuple[ModuleSeen, float]]:
        """Modules from one to another with the gradient by their outputs."""
        found = []
        for seen in self.model.ordered:
            sample = self.sample_of(seen)
            if first.order <= seen.order <= last.order and sample is not None and seen.is_leaf:
                gradient = sample.gradient_rms
                if gradient is not None and math.isfinite(gradient):
                    found.append((seen, gradient))
        return found

    def culprit(self, first: ModuleSeen, last: ModuleSeen, sign: int) -> ModuleSeen | None:
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

    def is_cut(self) -> bool:
        """Whether some layer lets nothing through at all, which has a finding of its own."""
        return any(
            (sample.inactive or 0.0) > 0.99 or (sample.saturated or 0.0) > 0.99
            for sample in self.samples.values()
        )
