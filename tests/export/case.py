"""What every exporter must hold to; inherit :class:`ExporterCase` and name the candidate."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek_lab.engine import candidates
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.runs import Options, Run
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.export import ExportRecord, write

BLOCKED = """
import runpy, sys
for name in ("deepseek_lab", "IPython"):
    sys.modules[name] = None
sys.path.insert(0, {folder!r})
sys.argv = [{script!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


class Block(torch.nn.Module):
    """A small model that returns named values and takes a flag."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.first = torch.nn.Linear(size, 2 * size)
        self.second = torch.nn.Linear(2 * size, size)

    def forward(self, x: Tensor, mask: Tensor | None = None, doubled: bool = False) -> dict[str, Any]:
        hidden = torch.nn.functional.gelu(self.first(x))
        out = self.second(hidden)
        if mask is not None:
            out = out * mask
        return {"out": out * 2 if doubled else out, "parts": (hidden, None)}


IMPORTS = "from typing import Any\nimport torch\nfrom torch import Tensor\n"
SOURCE = [
    ("cell_1", f"{IMPORTS}\n{inspect.getsource(Block)}\nmodel = Block().eval()"),
    (
        "cell_2",
        "# %%deepseek optimize\nx, mask = torch.randn(3, 16), torch.ones(3, 1)\n"  # noqa: ISC004
        "with torch.no_grad():\n    y = model(x, mask=mask, doubled=True)",
    ),
]


def builds(
    name: str, directory: Path, *, keep: bool = True
) -> Callable[[Dispatcher | None, GraphRunner], None]:
    """In place of the workshop: build one candidate here and install it, whatever it would win."""

    def submit(dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
        problem = runner.problem()
        made = directory / runner.graph_id
        made.mkdir(parents=True)
        candidate = candidates.registered()[name]
        candidate.build(problem, made)
        program = candidate.load(made, problem.spec)
        (made / "manifest.json").write_text(json.dumps({"record": {"chosen": name}}))
        order = (None,) * len(problem.eager())
        runner.install(candidate, program, WeightGuard(runner.weights_now()), order)
        runner.artifact = made if keep else None
        runner.decided = True

    return submit


def captured(
    target: Any, submit: Callable[..., None], *calls: tuple[tuple[Any, ...], dict[str, Any]], **options: Any
) -> Run:
    """A run of ``target`` under the name ``model`` whose calls are captured and handed to ``submit``."""
    run = Run("optimize", Options(**options))
    run.submit = submit  # type: ignore[method-assign]
    run.open({}, False, {})
    call = run.attach("model", target)
    for args, kwargs in calls:
        with torch.no_grad():
            call(*args, **kwargs)
        for lane in run.dispatchers["model"].lanes.values():
            if lane.state in ("new", "building", "racing"):
                with torch.no_grad():
                    if lane.state == "new":
                        run.dispatchers["model"].capture(lane, args, kwargs, dynamic=False)
                lane.settle("fast" if any(one.installed for one in lane.runners) else "eager")
    return run


def replayed(directory: Path, script: str = "test_export.py") -> str:
    """Run an export in a fresh process in which deepseek_lab and IPython cannot be imported; its output."""
    code = BLOCKED.format(folder=str(directory), script=str(directory / script))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=300, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class ExporterCase:
    """One exporter. ``precision`` is what its candidate computes in."""

    candidate: str
    precision: str | None = None
    packages: frozenset[str] = frozenset()
    timed = True

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, tmp_path_factory: pytest.TempPathFactory) -> ExportRecord:
        """A small model, written out after the candidate took eager mode's place."""
        root = tmp_path_factory.mktemp(cls.candidate)
        torch.manual_seed(0)
        call = ((torch.randn(3, 16),), {"mask": torch.ones(3, 1), "doubled": True})
        run = captured(Block().eval(), cls.submit(root / "built"), call, precision=cls.precision)
        return write(run, root / "out", source_cells=SOURCE)

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        """What decides each captured graph."""
        return builds(cls.candidate, directory)

    def test_the_record_says_what_was_written(self, exported: ExportRecord) -> None:
        assert list(exported.chosen.values()) == [self.candidate]
        assert all((exported.directory / name).is_file() for name in exported.files)
        assert exported.total_bytes == sum(
            (exported.directory / name).stat().st_size for name in exported.files
        )
        assert exported.targets == ("model",)

    def test_only_the_runtimes_that_are_needed_are_named(self, exported: ExportRecord) -> None:
        named = {line.partition("==")[0] for line in exported.requirements}
        assert named == {"torch", "numpy"} | self.packages
        assert (exported.directory / "requirements.txt").read_text().splitlines() == list(
            exported.requirements
        )

    def test_nothing_of_ours_is_imported(self, exported: ExportRecord) -> None:
        for path in exported.directory.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.startswith(("deepseek_lab", "IPython")) for name in names), path
            assert "%%deepseek" not in path.read_text()

    def test_it_replays_in_a_fresh_process(self, exported: ExportRecord) -> None:
        said = replayed(exported.directory)
        assert f"model  {self.candidate}  max rel" in said
        assert ("eager/fast" in said) == self.timed

    def test_a_wrong_result_is_caught(self, exported: ExportRecord, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(exported.directory, copy)
        samples = torch.load(copy / "samples.pt", weights_only=True)
        samples["calls"]["model"][0]["expected"][0] += 1.0
        torch.save(samples, copy / "samples.pt")
        with pytest.raises(AssertionError, match="max rel"):
            replayed(copy)

    def test_the_call_keeps_its_signature_and_its_keys(self, exported: ExportRecord) -> None:
        (exported.directory.parent / "use.py").write_text(USE.format(folder=str(exported.directory)))
        assert (
            replayed(exported.directory.parent, "use.py").strip() == "['out', 'parts'] (3, 16) (3, 32) None"
        )


USE = """
import torch
from out.model import load
value = load()(torch.randn(3, 16), mask=torch.ones(3, 1), doubled=True)
hidden, nothing = value["parts"]
print(list(value), tuple(value["out"].shape), tuple(hidden.shape), nothing)
"""
