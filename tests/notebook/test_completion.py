"""Completion in a real kernel: our words, and nothing beside them."""

from __future__ import annotations

import pytest
from kernel import Kernel


def _complete(kernel: Kernel, text: str) -> list[str]:
    message = kernel.client.complete(text, len(text))
    while True:
        reply = kernel.client.get_shell_msg(timeout=20)
        if reply["parent_header"].get("msg_id") == message:
            start = reply["content"]["cursor_start"]
            return [text[:start] + match for match in reply["content"]["matches"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%%deepseek opt", ["%%deepseek optimize"]),
        ("%deepseek st", ["%deepseek status"]),
        ("%deepseek o", ["%deepseek off", "%deepseek on", "%deepseek optimize"]),
        ("%%deepseek optimize --prec", ["%%deepseek optimize --precision"]),
        ("%%ds_optimize --w", ["%%ds_optimize --wait"]),
        (
            "%%deepseek optimize --precision ",
            [f"%%deepseek optimize --precision {p}" for p in ("bf16", "fp16", "int8")],
        ),
        ("%%deepseek optimize --view te", ["%%deepseek optimize --view text"]),
        ("%deepseek export out --as sc", ["%deepseek export out --as script"]),
        ("%deepseek optimize mod", ["%deepseek optimize model"]),
        ("%deepseek optimize model.he", ["%deepseek optimize model.head"]),
        ("%deepseek optimize --wait 5 model.he", ["%deepseek optimize --wait 5 model.head"]),
        ("%deepseek config race", ["%deepseek config race_budget_s"]),
        ("%deepseek on opt", ["%deepseek on optimize"]),
        ("%deepseek why rep", ["%deepseek why report_of_mine"]),
        ("x = 1\n%deepseek doc", ["x = 1\n%deepseek doctor"]),
    ],
)
def test_completions(recording: Kernel, text: str, expected: list[str]) -> None:
    recording.ok("model.head = Net()\nmodular = 3")
    recording.ok("%%deepseek optimize -q --to report_of_mine\nmodel(1)")
    assert sorted(_complete(recording, text)) == expected


@pytest.mark.parametrize("head", ["%ds_profile ", "%deepseek profile -q ", "%ds_memory --to kept y = "])
def test_statements_complete_as_python(recording: Kernel, head: str) -> None:
    recording.ok("modular = 3\nimport math")
    assert f"{head}modular" in _complete(recording, f"{head}modul")
    assert f"{head}print(math.sqrt" in _complete(recording, f"{head}print(math.sq")


def test_flags_before_a_statement_are_ours(recording: Kernel) -> None:
    assert _complete(recording, "%ds_profile --tra") == ["%ds_profile --trace"]
    assert _complete(recording, "%ds_profile --view te") == ["%ds_profile --view text"]


def test_ordinary_lines_complete_as_ever(recording: Kernel) -> None:
    assert "modular" in _complete(recording, "modul")
