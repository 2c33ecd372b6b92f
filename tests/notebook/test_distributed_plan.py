"""``%deepseek distributed plan`` in a real kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook.parse import parse, split_line

_SETUP = """
%load_ext deepseek_lab
import torch
from torch import nn
net = nn.Sequential(nn.Linear(512, 2048), nn.Tanh(), nn.Linear(2048, 10))
rows = torch.zeros(16, 512)
frozen = nn.Linear(4, 4).requires_grad_(False)
with torch.device("meta"):
    coder = nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 4, batch_first=True), 4)
tokens, plan = torch.zeros(4, 64, 256), 3
"""


@pytest.fixture(scope="module")
def planning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with two models and a store of its own, in which no measurement is."""
    kernel = Kernel(DEEPSEEK_LAB_CACHE_DIR=str(tmp_path_factory.mktemp("store")))
    kernel.ok(_SETUP)
    yield kernel
    kernel.stop()


def test_it_is_a_verb_of_its_own() -> None:
    command = parse(split_line("distributed plan --model net --devices 16xV100"), "line")
    assert command.verb == "distributed_plan"
    assert parse(split_line(str(command).removeprefix("%deepseek ")), "line") == command
    with pytest.raises(UsageError, match="distributed has no form"):
        parse(split_line("distributed --devices 16xV100"), "line")
    with pytest.raises(UsageError, match=r"distributed plan has no flag '--divices'"):
        parse(split_line("distributed plan net --divices 16xV100"), "line")


def test_a_plan_is_shown_and_kept(planning: Kernel, tmp_path: Path) -> None:
    shown = planning.ok(
        "%deepseek distributed plan --model coder --devices 16xV100 --link 10Gbit/s --inputs tokens --batch 32 "
        f"--to p --save {tmp_path}/p.json"
    )
    assert shown.result is not None
    assert shown.result.startswith("plan  coder (")
    for words in (
        "exact ones first",
        "2 nodes of 8",
        "never measured on this machine",
        "optimizer states",
        "assumed: ",
    ):
        assert words in shown.result
    assert "32×64×256" in shown.result
    data = json.loads((tmp_path / "p.json").read_text())
    assert [one["is_exact"] for one in data["ways"]] == [True, False, False, False, False]
    assert [point["num_ranks"] for point in data["curve"]] == [2**power for power in range(1, 11)]
    assert planning.value("0 < p.best_exact.efficiency <= p.best.efficiency <= 1") == "True"
    assert (
        planning.value("'<svg' in p.bundle()['text/html'] or 'data:image/svg' in p.bundle()['text/html']")
        == "True"
    )
    assert planning.value("all(one.is_meta for one in coder.parameters())") == "True"
    assert planning.value("plan") == "3"


def test_a_measured_step_takes_the_place_of_an_estimate(planning: Kernel) -> None:
    line = (
        "%deepseek distributed plan net --devices 4xV100 --inputs rows --step-time {} --view text --to p -q"
    )
    planning.ok(line.format(0.2))
    slow = float(planning.value("p.single_s")), float(planning.value("p.best_exact.efficiency"))
    planning.ok(line.format(0.002))
    fast = float(planning.value("p.single_s")), float(planning.value("p.best_exact.efficiency"))
    assert slow[0] == pytest.approx(0.2)
    assert fast[0] == pytest.approx(0.002)
    assert slow[1] > fast[1]


def test_a_mesh_is_planned_too(planning: Kernel) -> None:
    line = "%deepseek distributed plan coder --devices 8xV100 --inputs tokens --mesh {} --view text --to p -q"
    planning.ok(line.format("data=2,pipeline=2,tensor=2 --micro-batches 3"))
    assert (
        planning.value("p.meshes[0].num_groups, p.meshes[0].bubble, p.meshes[0].micro_batches")
        == "(8, 0.25, 3)"
    )
    assert planning.value("0 < p.meshes[0].layers_s < p.meshes[0].step_s") == "True"
    planning.ok(line.format("tensor=4,data=2"))
    assert planning.value("p.meshes[0].mesh, p.meshes[0].shared > 0.9") == "('data=2,tensor=4', True)"
    assert planning.value("any('1/T' in one for one in p.assumptions)") == "True"


def test_what_was_measured_here_is_told(planning: Kernel) -> None:
    planning.ok(
        "from deepseek_lab.distributed.scaling import record\nkept = record.keep([(1.05, 1.0), (1.0, 1.0)])"
    )
    shown = planning.ok("%deepseek distributed plan net --devices 4xV100 --inputs rows")
    assert shown.result is not None
    assert "2 predicted steps were 2.5% off what was measured in the median, 5.0% at most" in shown.result


@pytest.mark.parametrize(
    ("line", "name", "message", "hint"),
    [
        ("--devices 16xV100", "UsageError", "needs a model", "--model NAME"),
        ("--model net", "UsageError", "needs --devices", "--model net --devices 16xV100"),
        ("net --model net --devices 2xV100", "UsageError", "both net and --model net", "--model net alone"),
        ("--model nte --devices 2xV100", "TargetError", "there is no 'nte'", "net"),
        ("--model rows --devices 2xV100", "TargetError", "rows is a Tensor", "nn.Module"),
        ("--model frozen --devices 2xV100", "TargetError", "no parameters to train", "parameters"),
        ("net --devices 2xV100 --inputs rows --link 10", "UsageError", "'10' is no rate", "--link 100Gbit/s"),
        ("net --devices 2xV100,2xA100 --inputs rows", "UsageError", "needs equal devices", "--devices 4x"),
        ("net --devices 2xV100 --batch 0", "UsageError", "--batch cannot be 0", "--batch 1"),
        ("net --devices 2xV100 --inputs rows --step-time 0", "UsageError", "--step-time cannot be 0", "SECONDS"),
        ("net --devices 4xV100 --inputs rows --mesh tensor=2", "UsageError", "4xV100 are 4", "--devices 2xV100"),
        ("net --devices 4xV100 --inputs rows --mesh pipeline=4", "TargetError", "has 2 blocks", "pipeline=2"),
        ("net --devices 3xV100 --inputs rows --mesh tensor=3", "TargetError", "shared by 3 devices", "data=3"),
        ("net --devices 2xV100 --micro-batches 3", "UsageError", "of a --mesh", "--mesh pipeline=2"),
        ("net --devices 2xV100", "UsageError", "nothing says what Sequential takes", "--inputs NAME"),
    ],
)  # fmt: skip
def test_refusals(planning: Kernel, line: str, name: str, message: str, hint: str) -> None:
    outcome = planning.run(f"%deepseek distributed plan {line}")
    assert outcome.ename == name, outcome
    assert message in outcome.evalue
    assert hint in outcome.evalue
