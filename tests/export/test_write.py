"""What ``write`` promises besides the exporters' contract."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import deepseek_lab
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.engine.runs import Options, Run, workshop
from deepseek_lab.export import write
from deepseek_lab.export.calls import Calls
from deepseek_lab.export.replay import relative_error
from tests.export.case import SOURCE, Block, builds, captured, replayed

CALL = ((torch.ones(3, 16),), {"mask": torch.ones(3, 1), "doubled": True})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A small model that ONNX Runtime took."""
    return captured(Block().eval(), builds("onnxruntime", tmp_path / "built"), CALL)


def test_an_earlier_export_is_replaced_and_nothing_else(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(run, out, source_cells=SOURCE)
    record = write(run, out, source_cells=SOURCE, as_="script")
    assert "main.py" in record.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt") as refused:
        write(run, out, source_cells=SOURCE)
    assert refused.value.hint == f"%deepseek export {tmp_path / 'out-2'}"
    (out / "notes.txt").unlink()
    (out / "model.py").write_text("# edited")
    with pytest.raises(UsageError, match=r"model\.py was changed"):
        write(run, out, source_cells=SOURCE)


def test_a_folder_that_is_no_export_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no earlier export"):
        write(run, tmp_path / "mine", source_cells=SOURCE)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failed_export_leaves_what_was_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(run, tmp_path / "out", source_cells=SOURCE)

    def full(*args: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepseek_lab.export._texts.readme", full)
    with pytest.raises(UsageError, match="No space left"):
        write(run, tmp_path / "out", source_cells=SOURCE)
    assert all((tmp_path / "out" / name).is_file() for name in before.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "out"]


def test_the_script_calls_what_was_won(run: Run, tmp_path: Path) -> None:
    cells = [*SOURCE, ("cell_3", "print(type(model.forward).__name__, model(x[:2], mask=None)['out'].shape)")]
    write(run, tmp_path / "out", source_cells=cells, as_="script")
    assert replayed(tmp_path / "out", "main.py").strip() == "Calls torch.Size([2, 16])"


def test_an_artefact_that_is_gone_is_built_again(tmp_path: Path) -> None:
    run = captured(Block().eval(), builds("onnxruntime", tmp_path / "built", keep=False), CALL)
    write(run, tmp_path / "out", source_cells=[])
    assert "max rel" in replayed(tmp_path / "out")


def test_sizes_that_vary_stay_free(tmp_path: Path) -> None:
    run = Run("optimize", Options())
    run.submit = builds("onnxruntime", tmp_path / "built")  # type: ignore[method-assign]
    run.attach("model", model := Block().eval())
    dispatcher = run.dispatchers["model"]
    with torch.no_grad():
        from deepseek_lab.engine.lanes import Lane

        lane = dispatcher.lanes["kind"] = Lane(name="model#1")
        dispatcher.capture(lane, (torch.randn(5, 16),), {}, dynamic=True)
        lane.settle("fast")
    write(run, tmp_path / "out", source_cells=[])
    assert "float32[*,16]" in (tmp_path / "out" / "model.py").read_text()
    (tmp_path / "use.py").write_text(
        "import torch\nfrom out.model import load\nprint(*[load()(torch.ones(n, 16))['out'].shape[0] for n in (2, 7)])"
    )
    assert replayed(tmp_path, "use.py").strip() == "2 7"
    assert model is dispatcher.module


class Paired(torch.nn.Module):
    """Returns scores, the same the other way round and a part of them, as CLIP does."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.line(x).relu() + 1
        return {"there": scores, "back": scores.t(), "part": scores[1:, 0]}


def test_results_that_are_views_of_others(tmp_path: Path) -> None:
    run = captured(Paired().eval(), builds("onnxruntime", tmp_path / "built"), ((torch.rand(3, 4),), {}))
    record = write(run, tmp_path / "out", source_cells=[])
    assert list(record.chosen.values()) == ["onnxruntime"]
    assert "model  onnxruntime  max rel" in replayed(tmp_path / "out")
    (tmp_path / "use.py").write_text(
        "import torch\nfrom out.model import load\nvalue = load()(torch.rand(3, 4))\n"
        "value['there'][1:] = 7.0\nprint(value['back'][0].tolist()[1:], value['part'].tolist(), list(value))"
    )
    assert replayed(tmp_path, "use.py").strip() == "[7.0, 7.0] [7.0, 7.0] ['there', 'back', 'part']"


class Broken(torch.nn.Module):
    """A call that falls into two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x)
        torch._dynamo.graph_break()
        return y.relu() + 1


def test_several_graphs_go_out_as_the_users_own_code(tmp_path: Path) -> None:
    run = captured(Broken(), builds("onnxruntime", tmp_path / "built"), ((torch.ones(2, 4),), {}))
    cell = f"import torch\nfrom torch import Tensor\n{inspect.getsource(Broken)}\nmodel = Broken()"
    record = write(run, tmp_path / "out", source_cells=[("cell_1", cell)])
    assert record.chosen == {"model": "eager"}
    assert any("falls into 2 graphs" in note for note in record.notes)
    assert "falls into 2 graphs" in (tmp_path / "out" / "model.py").read_text()
    assert "model  eager  max rel" in replayed(tmp_path / "out")
    with pytest.raises(TargetError, match="no cell that was given makes it") as refused:
        write(run, tmp_path / "other", source_cells=[])
    assert "--cells" in refused.value.hint
    assert not (tmp_path / "other").exists()


def test_changed_weights_are_not_exported_as_what_was_won(tmp_path: Path) -> None:
    model = Block().eval()
    run = captured(model, builds("onnxruntime", tmp_path / "built"), CALL)
    with torch.no_grad():
        model.first.weight.mul_(2)
    record = write(run, tmp_path / "out", source_cells=SOURCE)
    assert record.chosen == {"model": "eager"}
    assert any("updated in place since onnxruntime was built" in note for note in record.notes)


def test_a_program_answers_only_the_arguments_it_was_captured_with(tmp_path: Path) -> None:
    """The cells do not tell which these are; ``model(x, mask)`` is another call than the one that was captured."""
    run = captured(Block().eval(), builds("onnxruntime", tmp_path / "built"), CALL)
    write(run, tmp_path / "out", source_cells=[])
    (tmp_path / "use.py").write_text(
        "import torch\nfrom out.model import load\n"
        "model, x, mask = load(), torch.ones(3, 16), torch.ones(3, 1)\n"
        "print(list(model(x, mask, doubled=True)))\n"
        "try:\n    print(model(x, mask))\n"
        "except TypeError as error:\n    print('doubled=True' in str(error))"
    )
    assert replayed(tmp_path, "use.py").split("\n")[:2] == ["['out', 'parts']", "True"]


def test_what_the_code_no_longer_computes_is_not_exported(tmp_path: Path) -> None:
    model = Scaled()
    run = captured(model, builds("onnxruntime", tmp_path / "built"), ((torch.ones(2, 4),), {}))
    model.factor = 5.0
    cell = f"import torch\nfrom torch import Tensor\n{inspect.getsource(Scaled)}\nmodel = Scaled()"
    record = write(run, tmp_path / "out", source_cells=[("cell_1", cell)])
    assert record.chosen == {"model": "eager"}
    assert any("has changed since" in note for note in record.notes)


class Scaled(torch.nn.Module):
    """Reads a number of its own."""

    factor = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.factor


def test_a_function_with_a_tensor_from_outside(tmp_path: Path) -> None:
    names: dict[str, Any] = {"torch": torch, "scale": torch.full((8,), 3.0)}
    exec("def f(x, batch):\n    return (x * scale).relu(), batch['bias'][0] + x", names)
    function = names["f"]
    assert isinstance(function, types.FunctionType)
    call = ((torch.randn(4, 8), {"bias": [torch.ones(8)]}), {})
    run = captured(function, builds("onnxruntime", tmp_path / "built"), call)
    write(run, tmp_path / "out", source_cells=[])
    (tmp_path / "use.py").write_text(
        "import torch\nfrom out.model import load\n"
        "first, second = load()(torch.ones(4, 8), {'bias': [torch.ones(8)]})\n"
        "print(first.sum().item(), second.sum().item())"
    )
    assert replayed(tmp_path, "use.py").strip() == "96.0 64.0"


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="nothing was captured"):
        write(Run("optimize", Options()), tmp_path / "out", source_cells=[])


def test_a_call_that_was_not_captured_names_those_that_were() -> None:
    with pytest.raises(TypeError, match="no graph of model was captured for this call"):
        Calls("model", {}, ())(torch.ones(1))


def test_the_difference_that_the_replay_sees() -> None:
    one = torch.tensor([1.0, float("inf"), 2.0])
    assert relative_error(one, one.clone()) == 0.0
    assert relative_error(one + 0.2, one) == pytest.approx(0.1)
    assert relative_error(torch.tensor([1.0, 3.0, 2.0]), one) == float("inf")
    assert relative_error(one.double(), one) == float("inf")
    assert relative_error(torch.tensor([1]), torch.tensor([2])) == float("inf")


def test_the_store_is_where_artefacts_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepseek_lab.settings, "min_gain", 0.0)
    for _ in range(2):  # built, then remembered
        torch.manual_seed(0)
        fast = deepseek_lab.optimize(Block(256).eval(), name="model", backends=("onnxruntime",))
        with torch.no_grad():
            fast(torch.ones(64, 256))
        runner = fast.run.dispatchers["model"].runners[0]
        while fast.run.working:
            torch.randn(1)
        assert runner.artifact is not None
        assert runner.artifact.parent == workshop().store.root
        assert (runner.artifact / "model.onnx").is_file()
        fast.restore()
