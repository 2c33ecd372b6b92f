"""The contract of an exporter: one way to write a chosen program out as ordinary Python.

Each file beside this one writes out what one candidate made, with calls of the candidate's own library.
Third parties register theirs for their candidate under the entry-point group ``deepseek_lab.exporters``;
a candidate without an exporter goes out in plain PyTorch.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import shutil
from importlib import metadata
from pathlib import Path

from torch import Tensor

from deepseek_lab.engine.problem import Problem
from deepseek_lab.engine.store import MANIFEST

GROUP = "deepseek_lab.exporters"


@dataclasses.dataclass(frozen=True)
class ChosenGraph:
    """One captured graph on its way out.

    Attributes:
        name: What its files and its function are called.
        problem: The graph, its weights and inputs to replay.
        outputs: What eager mode returns for these inputs.
        artifact: Folder with what the candidate built.
    """

    name: str
    problem: Problem
    outputs: tuple[Tensor, ...]
    artifact: Path

    @property
    def static(self) -> bool:
        """Whether every size of the graph's inputs is fixed."""
        return not self.problem.spec.dynamic

    @property
    def results(self) -> str:
        """Shapes and dtypes of the outputs as a Python literal."""
        rows = [f"({tuple(one.shape)}, {one.dtype})" for one in self.outputs]
        return f"[{', '.join(rows)}]"


class Exporter(abc.ABC):
    """Writes what one candidate built.

    Attributes:
        candidate: Name of the candidate whose artefacts it understands.
        packages: Distributions that the written code needs besides torch.
        imports: Lines of import that it needs besides torch.
        plain: File among those written that is the graph in plain PyTorch, or None.
        note: What a reader of the export has to know.
    """

    candidate: str
    packages: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    plain: str | None = None
    note: str = ""

    @property
    def needs_artifact(self) -> bool:
        """Whether the candidate's own files are needed."""
        return True

    def write(self, graph: ChosenGraph, directory: Path) -> None:
        """Put the files that the code needs into ``directory``, which exists."""
        for path in sorted(graph.artifact.iterdir()):
            if path.name != MANIFEST:
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, directory / path.name)

    @abc.abstractmethod
    def code(self, graph: ChosenGraph) -> str:
        """Body of a function that has ``files`` (the folder's Path) and returns ``run(inputs) -> outputs``.

        ``inputs`` is a list of the graph's live tensors; ``run`` is called without gradients.
        """


_BUILT_IN = (
    "eager_cast",
    "executorch",
    "inductor",
    "inductor_frozen",
    "inductor_packed",
    "kernels",
    "onednn",
    "onnxruntime",
    "openvino",
)


def exporter(candidate: str) -> Exporter:
    """The exporter for a candidate's artefacts; plain PyTorch where there is none of its own."""
    for module in _BUILT_IN:
        found: Exporter = importlib.import_module(f"{__name__}.{module}").EXPORTER
        if found.candidate == candidate:
            return found
    for entry in metadata.entry_points(group=GROUP, name=candidate):
        loaded = entry.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if isinstance(made, Exporter):
            return made
    from deepseek_lab.export.exporters.plain import PlainExporter

    return PlainExporter(candidate)
