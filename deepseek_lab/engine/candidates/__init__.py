"""The contract of a candidate: one way to run a graph. Each file beside this one is one way to meet it.

A candidate is built in the builder process and loaded in the user's. Third parties register theirs
under the entry-point group ``deepseek_lab.candidates``, exactly as the built-in ones do.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path

import torch
from torch import Tensor

from deepseek_lab.base.errors import BuildError, UsageError, nearest
from deepseek_lab.engine.problem import Problem, Spec

GROUP = "deepseek_lab.candidates"

Program = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
"""A loaded candidate: ``program(live, weights) -> outputs``.

It changes neither its inputs nor anything else, and its outputs share memory with nothing.
"""


class NotApplicable(BuildError):
    """The graph offers this candidate nothing to do; it is skipped rather than failed."""


class Candidate(abc.ABC):
    """One way to run a graph.

    Attributes:
        name: What the user types in ``--backends`` and reads in the report.
        requires: Import names that must be installed.
        precisions: Declared precisions that it can take part in.
        bakes_weights: Whether its artefact holds copies of the weights, so that a change of a weight
            makes it useless.
        runs_dynamic: Whether it can run graphs whose shapes vary.
        order: Place in the building order: expected gain per second of building, best first.
        outdone_by: Name of an earlier candidate that does the same and more, where there is one: if that one was
            built and fell far behind the best, this one is not built.
        long_to_build: Whether building takes time in proportion to the graph, so that it is first tried on a block
            that a large graph repeats.
    """

    name: str
    requires: tuple[str, ...] = ()
    precisions: frozenset[str] = frozenset({"float32"})
    bakes_weights: bool = True
    runs_dynamic: bool = True
    order: int = 50
    outdone_by: str | None = None
    long_to_build: bool = False

    def missing(self) -> str | None:
        """The first required import name that is not installed, or None."""
        return next((name for name in self.requires if util.find_spec(name) is None), None)

    def refuse(self, spec: Spec) -> str | None:
        """Why this candidate cannot take part, told without building; None when it can."""
        if spec.precision not in self.precisions:
            return f"does not offer {spec.precision}"
        if spec.dynamic and not self.runs_dynamic:
            return "does not run graphs whose shapes vary"
        return None

    @abc.abstractmethod
    def build(self, problem: Problem, directory: Path) -> None:
        """Make the artefact's files in ``directory``. Runs in the builder process.

        Raises:
            Exception: anything; the candidate has then failed and the message is shown.
        """

    @abc.abstractmethod
    def load(self, directory: Path, spec: Spec) -> Program:
        """Turn an artefact into a program. Runs in the builder and in the user's process."""

    def warm(self, program: Program, problem: Problem) -> None:
        """Do what a first call does besides computing, so that the user's next one is a later one.

        By default that is a call. It runs in the user's process, on the processor time that is left over there.
        """
        with torch.no_grad():
            program(problem.live, problem.weights)

    def plan(self, spec: Spec) -> str:
        """The plan as readable Python: what runs now, in the words of its library."""
        return f"# {self.name}: {len(spec.live)} live inputs, {sum(spec.is_weight)} weights\n"


@functools.cache
def registered() -> dict[str, Candidate]:
    """Every registered candidate by name, in building order. One that fails to import is left out."""
    found: dict[str, Candidate] = {}
    for entry in metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
            candidate = loaded() if isinstance(loaded, type) else loaded
        except Exception:  # a stranger's broken distribution must not cost the candidates that work
            continue
        if isinstance(candidate, Candidate):
            found[candidate.name] = candidate
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def select(names: Sequence[str] | None) -> dict[str, Candidate]:
    """The candidates that may take part.

    Raises:
        UsageError: a name is not registered.
    """
    known = registered()
    if not names:
        return known
    for name in names:
        if name not in known and name != "eager":
            near = nearest(name, known)
            raise UsageError(f"there is no backend {name!r}", hint=f"--backends {near or ','.join(known)}")
    return {name: candidate for name, candidate in known.items() if name in names}
