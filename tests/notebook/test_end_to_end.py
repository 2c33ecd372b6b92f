"""The whole way in a real kernel with the real engine: a cell becomes fast, is explained, and can be undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

SETUP = """
import torch
torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(256, 256) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = torch.nn.functional.gelu(layer(x))
        return x
model = Net().eval()
x = torch.randn(32, 256)
with torch.no_grad():
    expected = model(x)
"""
CALL = "with torch.no_grad():\n    y = model(x)\ny.shape"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel whose artefact store is empty, after one optimised cell; its report is ``r``."""
    made = Kernel(DEEPSEEK_LAB_CACHE_DIR=str(tmp_path_factory.mktemp("store")))
    made.ok("%load_ext deepseek_lab")
    made.ok(SETUP, timeout_s=120)
    outcome = made.ok(f"%%deepseek optimize --wait 120 --backends onnxruntime --to r\n{CALL}", timeout_s=180)
    assert outcome.result == "torch.Size([32, 256])"
    assert len(outcome.displays) == 1
    assert set(outcome.displays[0]) >= {"text/plain"}
    yield made
    made.stop()


def _report(kernel: Kernel, name: str = "r") -> dict[str, object]:
    kernel.ok("import json")
    text = kernel.ok(f"print(json.dumps({name}.to_dict()))").stdout
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_report_is_decided_and_plain_data(kernel: Kernel) -> None:
    report = _report(kernel)
    assert report["decided"] is True
    assert list(report["targets"]) == ["model"]  # type: ignore[call-overload]
    statuses = {row["name"]: row["status"] for row in report["candidates"]}  # type: ignore[attr-defined]
    assert statuses["onnxruntime"] in {"won", "lost"}, report
    assert float(str(report["speedup"])) >= 1.0


def test_results_are_those_of_eager(kernel: Kernel) -> None:
    kernel.ok(f"{CALL}\nerror = ((y - expected).abs().max() / expected.abs().max()).item()")
    assert float(kernel.value("error")) < 1e-5


def test_cell_that_is_run_again_is_served_by_what_was_won(kernel: Kernel) -> None:
    """Its calls go through the captured graph, region or not, and its report is the one that holds."""
    kernel.ok("runner = model._compiled_call_impl.runners[0]; before = runner.num_calls")
    kernel.ok(CALL)
    assert (
        kernel.ok("print(runner.num_calls - before, len(model._compiled_call_impl.runners))").stdout
        == "1 1\n"
    )
    kernel.ok(f"%%deepseek optimize --backends onnxruntime --to again\n{CALL}")
    assert (
        kernel.ok("print(runner.num_calls - before, len(model._compiled_call_impl.runners))").stdout
        == "2 1\n"
    )
    assert kernel.ok("print(again.to_dict() == r.to_dict())").stdout == "True\n"


def test_graph_knows_the_lines_of_its_cells(kernel: Kernel) -> None:
    text = kernel.ok("%deepseek graph").result or ""
    assert "layers.0" in text
    assert "gelu" in text
    assert ":9" in text, text


def test_graph_is_measured_on_the_inputs_of_the_cell(kernel: Kernel) -> None:
    kernel.ok("random = torch.get_rng_state()\ncosts = %deepseek graph --profile --gradients --seconds 1")
    text = kernel.ok("print(costs)").stdout
    assert "on the inputs of the call that was captured" in text
    assert "16.8 MFLOP in products" in text  # four layers of 2 * 32 * 256 * 256
    assert len([line for line in text.splitlines() if "layers." in line]) == 4
    data = json.loads(kernel.ok("import json\nprint(json.dumps(costs.to_dict()['profiles'][0]))").stdout)
    assert {one["backend"] for one in data["operations"] if one["op"] == "linear"} <= {"onnxruntime", "eager"}
    assert all(one["gradient"] for one in data["operations"] if one["op"] in {"linear", "parameter"})
    untouched = (
        "torch.equal(random, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())"
    )
    assert kernel.value(untouched) == "True"


def test_why_verify_status_doctor(kernel: Kernel) -> None:
    assert "onnxruntime" in (kernel.ok("%deepseek why r").result or "")
    assert "agree with eager" in (kernel.ok("%deepseek verify --inputs 2").result or "")
    assert "optimize-1" in (kernel.ok("%deepseek status").result or "")
    assert "candidate onnxruntime" in (kernel.ok("%deepseek doctor").result or "")


def test_module_that_the_cell_itself_makes(kernel: Kernel) -> None:
    kernel.ok(
        "%%deepseek optimize head --wait 60 --backends onnxruntime --to h\nhead = torch.nn.Linear(256, 8).eval()\n"
        "with torch.no_grad():\n    z = head(x)",
        timeout_s=120,
    )
    assert list(_report(kernel, "h")["targets"]) == ["head"]  # type: ignore[call-overload]


def test_failing_cell_fails_with_the_users_frames(kernel: Kernel) -> None:
    outcome = kernel.run("%%deepseek optimize\nmodel(torch.randn(3, 7))")
    assert outcome.status == "error"
    assert outcome.ename == "RuntimeError"
    assert "deepseek_lab" not in outcome.traceback
    kernel.ok(CALL)


def test_save_writes_the_decided_report(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(
        f"%%deepseek optimize -q --wait 60 --backends onnxruntime --save {tmp_path}/r.json\n{CALL}",
        timeout_s=120,
    )
    assert json.loads((tmp_path / "r.json").read_text())["verb"] == "optimize"


def test_restore_and_free_leave_the_model_as_it_was(kernel: Kernel) -> None:
    kernel.ok("r.restore()")
    kernel.ok("%deepseek free")
    kernel.ok("plain = model._compiled_call_impl is None")
    assert kernel.value("plain") == "True"
    assert kernel.value("torch.equal(model(x), expected)") == "True"


def test_first_cell_may_import_torch_itself(tmp_path: Path) -> None:
    fresh = Kernel(DEEPSEEK_LAB_CACHE_DIR=str(tmp_path))
    try:
        fresh.ok("%load_ext deepseek_lab")
        fresh.ok(f"%%deepseek optimize --to r\n{SETUP}\n{CALL}", timeout_s=120)
        assert list(_report(fresh)["targets"]) == ["model"]  # type: ignore[call-overload]
    finally:
        fresh.stop()


def test_a_long_cell_shows_its_report_while_it_runs(kernel: Kernel) -> None:
    kernel.ok(
        """
import time
shown = []
publish = get_ipython().display_pub.publish
def publishing(*args, **options):
    if not options.get("update"):
        shown.append(time.monotonic())
    return publish(*args, **options)
get_ipython().display_pub.publish = publishing
training = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
optimizer = torch.optim.SGD(training.parameters(), lr=0.01)
"""
    )
    outcome = kernel.ok(
        """%%deepseek optimize --to long
deadline = time.monotonic() + 120
while not shown and time.monotonic() < deadline:
    optimizer.zero_grad()
    training(torch.randn(64, 32)).pow(2).mean().backward()
    optimizer.step()
print("the loop has ended, views:", len(shown))
""",
        timeout_s=180,
    )
    assert "views: 1" in outcome.stdout
    assert len(outcome.displays) == 1  # the same one to the end
    assert "long" not in outcome.stderr
    kernel.ok("get_ipython().display_pub.publish = publish")
    assert kernel.value("type(long).__name__") == "'ShownRun'"
