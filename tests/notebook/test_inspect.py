"""``%%deepseek inspect`` in a real kernel: said while the loop runs, and reported when it has ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

_CELL = """%load_ext deepseek_lab
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
def chain(activation, depth):
    layers = [part for _ in range(depth) for part in (nn.Linear(32, 32), activation())]
    return nn.Sequential(*layers, nn.Linear(32, 10))
x, y = torch.rand(256, 32), torch.randint(10, (256,))
model = chain(nn.Sigmoid, 10)
sound = chain(nn.ReLU, 2)
def train(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
"""


@pytest.fixture(scope="module")
def loops() -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.ok(_CELL)
    yield kernel
    kernel.stop()


def test_finding_is_said_while_the_cell_runs_and_the_report_takes_its_place(loops: Kernel) -> None:
    outcome = loops.ok(
        "%%deepseek inspect --to r\nfor _ in range(20):\n    last = train(model, 1)\nprint('end')\n'its own value'"
    )
    assert outcome.result == "'its own value'"
    assert outcome.stderr == ""
    (live,) = outcome.displays
    assert live["text/plain"].startswith("inspect  running, step ")
    assert "the gradient fades at model." in live["text/plain"]
    final = outcome.updates[-1]
    assert final["text/plain"].startswith("inspect  vanishing gradient")
    for word in ("first: model.", "try: ", "torch.nn.init.kaiming_normal_(model[", "by module", "Sigmoid"):
        assert word in final["text/plain"]
    assert "<script" not in final["text/html"]
    assert "application/vnd.deepseek-lab.v1+json" in final
    assert len(json.dumps(final)) < 200_000
    assert loops.value("r.findings[0].kind") == "'vanishing gradient'"
    assert loops.value("r.num_steps > 0 and r.findings[0].line > 0") == "True"


def test_sound_loop_says_so_in_one_line_and_again(loops: Kernel) -> None:
    outcome = loops.ok("%%ds_inspect sound --view text\ntrain(sound, 40)")
    assert outcome.updates == []
    text = outcome.displays[0]["text/plain"]
    assert text.splitlines()[0].startswith("inspect  nothing wrong was seen  40 steps")
    assert list(outcome.displays[0]) == ["text/plain"]
    assert loops.ok("%deepseek inspect").result == text


def test_fixes_are_tried(loops: Kernel, tmp_path: Path) -> None:
    outcome = loops.ok(f"%%ds_inspect --try -q --to t --save {tmp_path}/i.json\ntrain(model, 30)")
    assert outcome.displays == []
    trial = json.loads((tmp_path / "i.json").read_text())["findings"][0]["trial"]
    assert trial["failed"] == ""
    assert trial["num_steps"] == 40
    shown = loops.ok("t")
    assert "tried: on copies, 40 steps over the loop's first batches: loss" in (shown.result or "")
    loops.ok(f"%ds_inspect --save {tmp_path}/i.html")
    assert "Tried" in (tmp_path / "i.html").read_text()


def test_error_and_interrupt_end_the_cell_with_its_report(loops: Kernel) -> None:
    failed = loops.run(
        "%%ds_inspect --view text\ntrain(model, 5)\nnn.functional.cross_entropy(sound(x), y + 5)"
    )
    assert failed.status == "error"
    assert failed.ename == "IndexError"
    assert "deepseek_lab" not in failed.traceback
    text = [*failed.displays, *failed.updates][-1]["text/plain"]
    assert "ended by IndexError" in text
    assert "labels from 5 to 14 where the model has 10 classes" in text
    interrupted = loops.run(
        "%%ds_inspect\nprint('on', flush=True)\nwhile True:\n    train(sound, 1)",
        during=lambda: loops.manager.interrupt_kernel(),
    )
    assert interrupted.ename == "KeyboardInterrupt"
    assert "ended by KeyboardInterrupt" in [*interrupted.displays, *interrupted.updates][-1]["text/plain"]
    assert loops.value("nn.Module.__call__.__name__") == "'_wrapped_call_impl'"


def test_what_is_no_module_and_a_first_time_without_a_report(loops: Kernel) -> None:
    wrong = loops.run("%%deepseek inspect train\ntrain(sound, 1)")
    assert "train is a function, and inspect watches modules" in wrong.traceback
    assert "The cell was not run" in wrong.traceback
    made = Kernel()
    try:
        made.ok("%load_ext deepseek_lab")
        first = made.run("%deepseek inspect")
        assert "nothing has been inspected in this session yet" in first.traceback
        assert "%%deepseek inspect above a cell" in first.traceback
        early = made.ok("%%deepseek inspect\nimport torch")
        assert "torch was not imported when the cell began" in early.stderr
    finally:
        made.stop()


def test_graph_shows_what_was_seen(loops: Kernel) -> None:
    loops.ok("%%ds_inspect -q\ntrain(model, 10)")
    loops.ok(
        "%%deepseek optimize model -q --backends onnxruntime --wait 60\nwith torch.no_grad(): out = model(x)",
        timeout_s=120,
    )
    shown = loops.ok("%deepseek graph --view live")
    assert shown.result is not None
    loops.ok(
        "from deepseek_lab.notebook.verbs import graph as verb\n"
        "from deepseek_lab.engine.api import last_run\n"
        "laid = {one.name: one.values for one in verb._seen_overlays(next(iter(last_run().report.graphs.values())))}"
    )
    assert loops.value("sorted(laid)[:2]") == "['found', 'seen_activation_rms']"
    assert loops.value("any(value == 'vanishing gradient' for value in laid['found'])") == "True"
    assert loops.value("sum(value is not None for value in laid['seen_gradient_rms']) >= 20") == "True"
    loops.ok("%deepseek free")
