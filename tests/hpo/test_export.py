"""A cell with the values in the place of its ranges."""

from __future__ import annotations

from typing import Any

from deepseek_lab.hpo.export import filled
from deepseek_lab.hpo.spaces import Space

SPACES = {
    "lr": Space("log", 1e-5, 1e-1, default=1e-3),
    "width": Space("choice", labels=("64", "128"), default="64"),
    "act": Space("choice", labels=("relu", "gelu"), default="relu"),
    "depth": Space("integer", 1, 4, 1, default=2),
}


def test_ranges_become_values() -> None:
    source = """lr = ds.log(1e-5, 1e-1)
model = make(width=ds.choice(64, 128), act=ds.choice(relu, gelu),
             depth=ds.integer(1, 4))  # layers
for epoch in ds.epochs(10):
    x = ds.subset(data)
    ds.report(epoch, x)
"""
    text, missing = filled(source, {"lr": 0.01, "width": "128", "act": "gelu", "depth": 3}, SPACES)
    assert (
        text
        == """lr = 0.01  # searched: ds.log(1e-5, 1e-1)
model = make(width=128, act=gelu,  # searched: ds.choice(64, 128), ds.choice(relu, gelu)
             depth=3)  # layers
for epoch in range(10):
    x = data
    None
"""
    )
    assert missing == []


def test_an_exported_cell_runs_and_gives_what_the_trial_gave() -> None:
    source = 'é = "ü"; lr = ds.log(1e-5, 1e-1); depth = ds.integer(1, 4)\nscore = lr * depth\n'
    text, _ = filled(source, {"lr": 0.02, "depth": 4}, SPACES)
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["score"] == 0.08
    assert names["é"] == "ü"


def test_one_name_for_two_ranges() -> None:
    spaces = {"lr": Space("log", 1e-2, 1.0), "lr_2": Space("log", 1e-5, 1e-2)}
    source = "if sgd:\n    lr = ds.log(1e-2, 1.0)\nelse:\n    lr = ds.log(1e-5, 1e-2)\n"
    text, missing = filled(source, {"lr_2": 0.001}, spaces)
    assert "lr = 0.001" in text
    assert "ds.log(1e-2, 1.0)\n" in text, "a range that the best never asked for stays"
    assert text.startswith("import deepseek_lab as ds\n")
    assert missing == []


def test_a_range_in_another_cell_is_told() -> None:
    _, missing = filled("loss = train()\n", {"lr": 0.01}, SPACES)
    assert missing == ["lr"]
