"""``%%deepseek memory`` and ``%ds_memory`` in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

from kernel import Kernel


def test_cell_shows_its_peak_and_keeps_its_value(training: Kernel) -> None:
    outcome = training.ok("%%deepseek memory --to m\ntrain(3)\n'its own value'")
    assert outcome.result == "'its own value'"
    assert outcome.stderr == ""
    (shown,) = outcome.displays
    for word in ("memory on cpu: at most", "parameters", "optimizer state", "gradients", "model.0"):
        assert word in shown["text/plain"]
    assert "<iframe" in shown["text/html"]
    assert "data:image/svg+xml" in shown["text/html"]
    assert len(json.dumps(shown)) < 200_000
    parameters = training.value("sum(p.numel() * 4 for p in model.parameters())")
    held = "sum(b for b, c in zip(m.timeline.bytes, m.timeline.category) if c == 'parameters' and b > 0)"
    assert training.value(held) == parameters


def test_line_and_files(training: Kernel, tmp_path: Path) -> None:
    first = training.ok(f"%ds_memory --save {tmp_path}/m.json train(1)")
    assert first.result is not None
    assert first.result.startswith("memory on cpu")
    again = training.ok(f"%ds_memory --save {tmp_path}/m.html")
    assert again.result == first.result
    columns = json.loads((tmp_path / "m.json").read_text())
    assert len(columns["at_s"]) == len(columns["bytes"]) == len(columns["module"]) > 50
    assert "<script" in (tmp_path / "m.html").read_text()


def test_error_leaves_the_recording(training: Kernel) -> None:
    outcome = training.run("%%ds_memory --view text\ntrain(1)\nmodel(torch.zeros(3, 3))")
    assert outcome.ename == "RuntimeError"
    assert list(outcome.displays[0]) == ["text/plain"]
    assert "the cell was ended by RuntimeError" in outcome.displays[0]["text/plain"]
    assert training.value("__import__('sys').gettrace()") == "None"
