"""One random graph through the real way: captured, sent, built, loaded, verified, and then judged independently."""

from __future__ import annotations

import collections
import dataclasses
import math
import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.engine import candidates, verify
from deepseek_lab.engine.builder_process import analyse
from deepseek_lab.engine.candidates import NotApplicable, onednn
from deepseek_lab.engine.runtime import GraphRunner, in_order
from tests.engine.graphs import capture, sent
from tests.fuzz.graphs import Graph, Recipe, inputs_for, random_recipe

FRESH = 3
"""Sets of fresh inputs on which a candidate that passed verification is judged."""


@dataclasses.dataclass
class Tally:
    """What became of the graphs."""

    graphs: int = 0
    kept_eager: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    installed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    failed: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.graphs} graphs", f"  kept eager before building: {_counted(self.kept_eager)}"]
        for name in sorted({*self.installed, *self.refused, *self.failed}):
            lines.append(f"  {name}: {self.installed[name]} would be installed")
            lines.append(f"    refused: {_counted(self.refused.get(name, collections.Counter()))}")
            lines.append(f"    failed:  {_counted(self.failed.get(name, collections.Counter()))}")
        return "\n".join([*lines, f"  installed with a wrong result: {len(self.wrong)}", *self.wrong])

    def add(self, other: Tally) -> None:
        """Take in what another one counted."""
        self.graphs += other.graphs
        self.kept_eager.update(other.kept_eager)
        self.installed.update(other.installed)
        for mine, theirs in ((self.refused, other.refused), (self.failed, other.failed)):
            for name, counter in theirs.items():
                mine.setdefault(name, collections.Counter()).update(counter)
        self.wrong.extend(other.wrong)


def _counted(counter: collections.Counter[str]) -> str:
    rest = sum(counter.values()) - sum(count for _, count in counter.most_common(6))
    words = [f"{count} {reason}" for reason, count in counter.most_common(6)]
    return f"{sum(counter.values())}" + (
        f" ({'; '.join(words)}{f'; {rest} others' if rest else ''})" if words else ""
    )


def isolated(seed: int, names: Sequence[str]) -> Tally:
    """One graph's tally; what a child process is asked for."""
    torch.set_num_threads(1)
    tally = Tally()
    one_graph(seed, names, tally)
    return tally


class Isolation:
    """A child process that does the graphs, and another when a backend's native code has ended it.

    In the engine that process is the builder: a crash there costs a candidate and never a result.
    """

    def __init__(self, crashed: list[tuple[int, str]]) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._crashed = crashed

    def tally(self, seed: int, names: Sequence[str]) -> Tally:
        """What became of a graph. After a crash each candidate gets a process of its own, to see whose it was."""
        try:
            return self._ask(seed, names)
        except BrokenProcessPool:
            total = Tally(graphs=1)
            for name in names:
                try:
                    total.add(dataclasses.replace(self._ask(seed, [name]), graphs=0))
                except BrokenProcessPool:
                    self._crashed.append((seed, name))
                    total.failed.setdefault(name, collections.Counter())["native crash"] += 1
            return total

    def _ask(self, seed: int, names: Sequence[str]) -> Tally:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(isolated, seed, tuple(names)).result()
        except BrokenProcessPool:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def one_graph(seed: int, names: Sequence[str], tally: Tally) -> None:
    """Make the graph of a seed, build it with each of the candidates, and judge those that pass."""
    recipe = random_recipe(seed)
    tally.graphs += 1
    torch.manual_seed(seed)
    module = Graph(recipe)
    twin_inputs = inputs_for(recipe, seed)
    try:
        runners = capture(module, *inputs_for(recipe, seed))
    except Exception as error:
        tally.wrong.append(f"seed {seed}: capture raised {type(error).__name__}: {error}\n    {recipe}")
        return
    finally:
        torch._dynamo.reset()
    if len(runners) != 1:
        tally.kept_eager["captured as several graphs" if runners else "nothing to capture"] += 1
        return
    (runner,) = runners
    if runner.refusal is not None:
        tally.kept_eager[runner.refusal] += 1
        return
    folder = Path(tempfile.mkdtemp(prefix="deepseek_lab-fuzz-"))
    try:
        _build(recipe, runner, twin_inputs, names, tally, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(
    recipe: Recipe,
    runner: GraphRunner,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    tally: Tally,
    folder: Path,
) -> None:
    try:
        problem = sent(runner.problem(), folder / "problem")
    except CaptureError as error:
        tally.kept_eager[error.message[:60]] += 1
        return
    found = analyse(problem)
    if found.refusal is not None:
        tally.kept_eager["".join(c for c in found.refusal if not c.isdigit())] += 1
        return
    expected = verify.expectations(problem)
    for name in names:
        one = candidates.registered()[name]
        refused = tally.refused.setdefault(name, collections.Counter())
        failed = tally.failed.setdefault(name, collections.Counter())
        if (why := one.refuse(problem.spec)) is not None:
            refused[why] += 1
            continue
        directory = folder / name
        directory.mkdir()
        try:
            with mock.patch.object(onednn, "MIN_NUMEL", 1):  # the layers of random graphs are small
                one.build(problem, directory)
            program = one.load(directory, problem.spec)
            verdict = verify.agreement(lambda live, p=program: p(live, problem.weights), expected, "float32")  # type: ignore[misc]
        except NotApplicable:
            refused["offers nothing to do"] += 1
            continue
        except Exception as error:
            failed[type(error).__name__] += 1
            continue
        if not verdict.ok:
            refused["wrong: " + verdict.detail.split(" (")[0].split(" at output")[0][:40]] += 1
            continue
        tally.installed[name] += 1
        for number in range(FRESH):
            tally.wrong.extend(_judge(recipe, runner, name, program, found.output_order, number))


def _judge(
    recipe: Recipe,
    runner: GraphRunner,
    name: str,
    program: candidates.Program,
    order: Sequence[tuple[int, ...] | None],
    number: int,
) -> list[str]:
    """Install the program as the engine does and call it on inputs that verification has not seen."""
    fresh = inputs_for(recipe, recipe.seed * 31 + number + 1)
    arguments = _arguments(runner, recipe, fresh)
    with torch.no_grad():
        wanted = runner.eager(*[a.clone() if isinstance(a, Tensor) else a for a in arguments])
        live = [arguments[position] for position in runner._live_positions]
        kept = [tensor.clone() for tensor in live]
        weights = [arguments[position] for position in runner._weight_positions]
        try:
            made = [in_order(out, one) for out, one in zip(program(live, weights), order, strict=True)]
            got = runner.results_of(made, arguments)
        except Exception:
            return []  # the runner answers with eager then
        exact, nudged = _exact(recipe, runner, arguments), _nudged(runner, arguments)
    problems = []
    for index, (mine, theirs, best, moved) in enumerate(zip(got, wanted, exact, nudged, strict=True)):
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            problems.append(f"output {index} is {mine.dtype}{list(mine.shape)}")
        elif not _close(mine, theirs, best, moved):
            error, own = verify.relative_error(mine, theirs), verify.relative_error(theirs, best)
            problems.append(
                f"output {index} differs by {error:.2g} from eager, which is {own:.2g} from float64"
            )
    for index, (before, after) in enumerate(zip(kept, live, strict=True)):
        if not torch.equal(before.nan_to_num(), after.nan_to_num()):
            problems.append(f"input {index} was changed")
    return [
        f"seed {recipe.seed}: {name}: {problem} on fresh inputs {number}\n    {recipe}"
        for problem in problems
    ]


def _arguments(runner: GraphRunner, recipe: Recipe, fresh: Sequence[Tensor]) -> list[Tensor]:
    """The graph's own arguments, its live inputs exchanged for fresh ones of the recipe."""
    last = runner._last
    assert last is not None
    seen = inputs_for(recipe, recipe.seed)
    arguments = list(last)
    taken: set[int] = set()
    for position in runner._live_positions:
        index = next(
            i for i, old in enumerate(seen) if i not in taken and _same_bits(old, arguments[position])
        )
        taken.add(index)
        arguments[position] = fresh[index]
    return arguments


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


def _exact(recipe: Recipe, runner: GraphRunner, arguments: Sequence[Tensor]) -> Sequence[Tensor]:
    """The results in float64 where that runs; eager's own otherwise."""
    eager = runner.eager(*[a.clone() if isinstance(a, Tensor) else a for a in arguments])
    narrow = any(dtype in _NARROW for _, dtype, _ in recipe.inputs) or any(
        name in _CASTS for name, *_ in recipe.steps
    )
    wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    try:
        if narrow:  # eager rounds on its way, and that is part of how far a candidate may be from it
            with verify.Float64Mode():
                found = runner.eager(*wide)
        else:
            found = runner.eager(*[a.clone() if isinstance(a, Tensor) else a for a in wide])
    except (RuntimeError, TypeError, ValueError):
        return eager  # type: ignore[no-any-return]
    return [new if new.shape == old.shape else old for new, old in zip(found, eager, strict=True)]


def _nudged(runner: GraphRunner, arguments: Sequence[Tensor]) -> Sequence[Tensor]:
    """Eager's results where every input and weight is off by a rounding: how far it moves is how far others may be."""
    return runner.eager(  # type: ignore[no-any-return]
        *[a * (1 + 4 * torch.finfo(a.dtype).eps) if a.is_floating_point() else a.clone() for a in arguments]
    )


_NARROW = (torch.float16, torch.bfloat16)
_CASTS = ("to half", "to bfloat16")
_ALLOWED = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def _close(mine: Tensor, theirs: Tensor, best: Tensor, moved: Tensor) -> bool:
    """Ten times what verification allows, or as near as eager is to float64, or to itself after a nudge, times ten.

    A step function turns a rounding difference into a whole one: where eager too lands on another side of it than
    float64 does, or than it does itself after a nudge, a candidate that does so is not at fault.
    """
    if not mine.dtype.is_floating_point:
        unstable = (best.to(theirs.dtype) != theirs) | (moved.to(theirs.dtype) != theirs)
        return bool((mine == theirs).all()) or bool(unstable.any())
    own = max(verify.relative_error(theirs, best), verify.relative_error(moved, theirs))
    allowed = max(_ALLOWED[mine.dtype], 10 * own)
    return verify.relative_error(mine, theirs) <= allowed or (math.isinf(own) and mine.shape == theirs.shape)
