"""``write``: a decided run as a folder of plain Python."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.engine.runs import Run
from deepseek_lab.export import _place, _plan, _source, _texts
from deepseek_lab.export._requirements import distributions, pinned
from deepseek_lab.export.calls import filled
from deepseek_lab.export.calls import tensors as tensors_of
from deepseek_lab.export.exporters import ChosenGraph, Exporter, eager, exporter
from deepseek_lab.export.exporters.plain import PlainExporter, save_plain

_HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class ExportRecord:
    """What was written.

    Attributes:
        directory: The folder.
        files: Its files, relative to it.
        requirements: The packages that it needs at run time, with versions.
        targets: What it offers, by the names of the cells.
        chosen: For each graph, and each target that stays in eager mode, what runs it.
        total_bytes: Size of all files.
        notes: What a reader has to know.
    """

    directory: Path
    files: tuple[str, ...]
    requirements: tuple[str, ...]
    targets: tuple[str, ...]
    chosen: dict[str, str]
    total_bytes: int
    notes: tuple[str, ...]


def write(
    run: Run,
    directory: Path,
    *,
    source_cells: Sequence[tuple[str, str]],
    as_: Literal["module", "script"] = "module",
) -> ExportRecord:
    """Write what a run won as a Python package that needs neither deepseek_lab nor IPython.

    For each target the package has a module with ``load()``, which returns a callable with the signature of the
    call that was captured. ``test_export.py`` replays random inputs like those seen and checks results and speed.
    A target that stays in eager mode, or whose call falls into several graphs, is written as the cells' own
    code with its present weights. The folder appears complete or not at all.

    Args:
        run: A run whose background work is done.
        directory: Where to write; an earlier export is replaced, anything else is refused.
        source_cells: Names and plain Python of the cells that the result needs, magics already comments.
        as_: ``script`` adds ``main.py``: the cells, with what was won in place of eager mode.

    Raises:
        UsageError: the run is still under way, or ``directory`` holds something else.
        TargetError: nothing was captured, or a target can be written neither as programs nor as code.
        BuildError: an artefact that the store no longer holds could not be built again.

    Example:
        >>> fast = deepseek_lab.optimize(model)  # doctest: +SKIP
        >>> record = write(fast.run, Path("out"), source_cells=[])  # doctest: +SKIP
    """
    if run.working:
        raise UsageError(
            "candidates are still being built", hint="deepseek_lab.wait(), then the export again"
        )
    if not any(one.runners for one in run.dispatchers.values()):
        raise TargetError(
            "nothing was captured, so there is nothing to export",
            hint="run the cell, then %deepseek export out/",
        )
    references = {
        name: one.eager.__name__
        for name, one in run.dispatchers.items()
        if one.module is None and getattr(one.eager, "__name__", name) != name
    }
    source = _source.plain_source(source_cells, references)
    with _place.replacing(directory) as made:
        writer = _Writer(run, made, source, as_, directory.name)
        writer.write()
    files = tuple(str(path.relative_to(directory)) for path in _place.files_of(directory))
    return ExportRecord(
        directory=directory,
        files=files,
        requirements=writer.requirements,
        targets=tuple(target.name for target in writer.targets),
        chosen=writer.chosen,
        total_bytes=sum((directory / name).stat().st_size for name in files),
        notes=tuple(writer.notes),
    )


class _Writer:
    """Writes one export into a folder that nobody else sees yet."""

    def __init__(self, run: Run, directory: Path, source: str, as_: str, name: str) -> None:
        self.directory, self.source, self.as_, self.name = directory, source, as_, name
        self.targets = _plan.plan(run, self._literals)
        self.chosen: dict[str, str] = {}
        self.notes: list[str] = [
            "what is exported computes no gradients",
            "weights are those of the day of the export",
        ]
        self.requirements: tuple[str, ...] = ()
        self._packages = {"torch", "numpy"}
        self._samples: dict[str, list[dict[str, Any]]] = {}
        self._weights: dict[str, str] = {}
        self._runs_cells = as_ == "script"

    def _literals(self, target: str) -> dict[str, object]:
        return _source.literals(self.source, target)

    def write(self) -> None:
        """Write everything."""
        with tempfile.TemporaryDirectory(prefix="export-") as scratch:
            for target in list(self.targets):
                try:
                    self._target(target, Path(scratch))
                except TargetError as error:
                    if len(self.targets) == 1:
                        raise
                    self.targets.remove(target)
                    self.notes.append(f"{target.name} is left out: {error.message}")
        self._cells()
        for name, copied in (("calls.py", "calls.py"), ("test_export.py", "replay.py")):
            shutil.copyfile(_HERE / copied, self.directory / name)
        torch.save(
            {"num_threads": torch.get_num_threads(), "calls": self._samples}, self.directory / "samples.pt"
        )
        names = ", ".join(target.name for target in self.targets)
        self._text("__init__.py", f'"""Exported from a notebook: {names}. README.md says how to use it."""\n')
        self.requirements = pinned(self._packages)
        self._text("requirements.txt", "".join(f"{line}\n" for line in self.requirements))
        if self.as_ == "script":
            self._text("main.py", _texts.script(self.source, self.targets, self._weights))
        self.notes = list(dict.fromkeys(self.notes))
        files = [str(path.relative_to(self.directory)) for path in _place.files_of(self.directory)]
        folder = self.name if self.name.isidentifier() else "FOLDER"
        text = _texts.readme(self.targets, self.notes, self.requirements, files, self.as_, folder)
        self._text("README.md", text)

    def _text(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def _target(self, target: _plan.TargetPlan, scratch: Path) -> None:
        bound = _source.binds(self.source, target.name)
        if target.graphs:
            if bound and self.as_ == "script":
                self._save_weights(target)
            self._text(f"{target.module}.py", _texts.program_module(target, self._parts(target, scratch)))
            return
        if not bound:
            raise TargetError(
                f"eager mode was kept for {target.name}, and no cell that was given makes it",
                hint=f"%deepseek export out/ --cells with the one that makes {target.name}",
            )
        self._runs_cells = True
        self.chosen[target.name] = "eager"
        self.notes.append(f"{target.name} is your own code in eager mode: {target.reason}")
        self._save_weights(target)
        self._text(f"{target.module}.py", _texts.eager_module(target, self._weights.get(target.module)))
        sample = _plan.eager_sample(target, self._literals(target.name))
        if sample is None:
            self.notes.append(
                f"the test does not replay {target.name}: its call takes more than tensors, or is random"
            )
        else:
            self._samples[target.module] = [{**sample, "runs": "eager", "plain": None, "speedup": None}]

    def _save_weights(self, target: _plan.TargetPlan) -> None:
        name = f"weights/{target.module}.pt"
        if eager.write(target.target, self.directory / name):
            self._weights[target.module] = name

    def _parts(
        self, target: _plan.TargetPlan, scratch: Path
    ) -> list[tuple[_plan.GraphPlan, ChosenGraph, Exporter]]:
        parts = []
        for graph in target.graphs:
            writes = exporter(graph.candidate)
            built = _plan.artifact(graph, scratch) if writes.needs_artifact else scratch
            chosen = ChosenGraph(graph.name, graph.problem, graph.outputs, built)
            files = self.directory / "artifacts" / target.module / graph.name
            files.mkdir(parents=True)
            writes.write(chosen, files)
            constants = {at: one for at, one in enumerate(graph.arguments.constants) if one is not None}
            if constants:
                torch.save(constants, files / "constants.pt")
                self.notes.append(
                    f"{target.name} holds tensors that your code took from outside of its arguments"
                )
            self._sample(target, graph, chosen, writes, files)
            self.chosen[graph.name] = graph.candidate
            self._packages.update(writes.packages)
            self.notes += [writes.note] if writes.note else []
            parts.append((graph, chosen, writes))
        return parts

    def _sample(
        self,
        target: _plan.TargetPlan,
        graph: _plan.GraphPlan,
        chosen: ChosenGraph,
        writes: Exporter,
        files: Path,
    ) -> None:
        """Store a call to replay, and plain PyTorch to time it against."""
        plain: Path | None = files / (writes.plain or "eager.pt2")
        if writes.plain is None:
            try:
                save_plain(chosen, files / "eager.pt2")
            except Exception as error:  # torch.export has many ways to say no
                plain = None
                self.notes.append(
                    f"{graph.name} has no plain PyTorch to time it against ({type(error).__name__})"
                )
        took_place = graph.speedup if not isinstance(writes, PlainExporter) else None
        self._samples.setdefault(target.module, []).append(
            {
                "args": graph.args,
                "kwargs": graph.kwargs,
                "inputs": list(graph.problem.live),
                "expected": tensors_of(filled(graph.value, graph.outputs)),
                "tolerance": graph.tolerance,
                "runs": graph.candidate,
                "plain": str(plain.relative_to(self.directory)) if plain is not None else None,
                "speedup": took_place,
            }
        )

    def _cells(self) -> None:
        if not self.source.strip():
            return
        self._text("cells.py", self.source)
        needed, local = distributions(_source.imported(self.source))
        if self._runs_cells:
            self._packages |= needed
            self.notes += [
                f"cells.py imports {name}, which no package provides: copy it" for name in sorted(local)
            ]
        else:
            self.notes.append("cells.py is there to be read; nothing that was exported runs it")
