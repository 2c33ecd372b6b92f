"""A plan for data-parallel training as text and as HTML."""

from __future__ import annotations

import dataclasses

import pytest

from deepseek_lab import views
from deepseek_lab.base.scaling import Checked, MeshOutcome, ScalingPlan, ScalingPoint, WayOutcome

WAYS = (
    WayOutcome("plain", True, "--exchange plain", 1 << 20, 0, 0.4, 0.6, 0.25),
    WayOutcome("int8", False, "--allow-lossy --exchange int8", 1 << 18, 1 << 20, 0.2, 0.2, 0.5),
    WayOutcome("other", False, "", 1 << 10, 0, 0.1, 0.0, 1.0),
)
PLAN = ScalingPlan(
    model="net",
    class_name="Net",
    num_parameters=250_000,
    devices="16 x V100-16GB",
    num_ranks=16,
    network="2 nodes of 8",
    inputs="32×64",
    single_s=0.1,
    held={"parameters": 1 << 20, "gradients": 1 << 20},
    limit_bytes=16 << 30,
    num_buckets=2,
    ways=WAYS,
    curve=(
        ScalingPoint(2, {"plain": 0.9, "int8": 0.95, "other": 1.0}),
        ScalingPoint(16, {"plain": 0.25, "int8": 0.5, "other": 1.0}),
    ),
    assumptions=("no other traffic",),
    checked=None,
)


def test_the_fastest_that_can_be_had_is_named() -> None:
    assert PLAN.best_exact.name == "plain"
    assert PLAN.best.name == "int8"
    line = views.scaling_line(PLAN)
    assert "plain 25.0%, 400 ms a step" in line
    assert "int8 50.0%, with --allow-lossy" in line
    alone = dataclasses.replace(PLAN, ways=WAYS[:1])
    assert "--allow-lossy" not in views.scaling_line(alone)


def test_everything_is_said() -> None:
    text = views.scaling_text(PLAN)
    for words in (
        "exact ones first; 32×64 on each",
        "not in %%deepseek distributed",
        "2.00 MiB",  # together
        "never measured on this machine",
        "assumed: no other traffic",
    ):
        assert words in text
    measured = Checked("a machine", "2026-01-02", 54, 0.12, 0.03)
    told = views.scaling_text(dataclasses.replace(PLAN, checked=measured))
    assert "54 predicted steps were 3.0% off what was measured in the median, 12.0% at most" in told


def test_a_mesh_is_beside_the_other_ways() -> None:
    typed = "--mesh data=2,pipeline=2 --micro-batches 8"
    mesh = MeshOutcome("data=2,pipeline=2", 8, typed, 0, 0.0, 3 << 20, 0.0, 0.02, 1 / 9, 0.05, 0.5)
    plan = dataclasses.replace(PLAN, meshes=(mesh,))
    text = views.scaling_text(plan)
    (row,) = (line for line in text.splitlines() if line.startswith("  data=2"))
    assert " ".join(row.split()) == f"data=2,pipeline=2 3.00 MiB 11% 20.0 ms 50.0 ms 50.0% {typed}"
    assert typed in views.scaling_html(plan)
    assert "stages" not in views.scaling_text(PLAN)


@pytest.mark.parametrize("field", ["model", "devices", "network", "inputs"])
def test_names_are_data(field: str) -> None:
    hostile = dataclasses.replace(PLAN, **{field: "<script>alert(1)</script>"})
    made = views.scaling_html(hostile)
    assert "<script" not in made
    assert "&lt;script" in made
