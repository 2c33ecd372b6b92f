"""Plans as programs: two real processes train with them, beside one process of plain PyTorch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_lab.memory.devices.anatomy import anatomy
from deepseek_lab.memory.devices.arithmetic import worst
from deepseek_lab.memory.devices.code import to_code
from deepseek_lab.memory.devices.inputs import find_inputs
from deepseek_lab.memory.devices.planner import Measurements
from deepseek_lab.memory.devices.runtime.loss import WithLoss
from deepseek_lab.memory.devices.way import PLAIN, Way
from tests.memory.devices.models import Mixer, gpt
from tests.memory.devices.rank import BATCH, STEPS, TOKENS

DEPTH, WIDTH = 4, 256
FULL = Way(num_full=3, num_selective=1, chunk=64, eight_bit=True, step_in_backward=True)
WAYS = {
    "plain": PLAIN,
    "full": FULL,
    "bf16": Way(num_full=4, eight_bit=True, step_in_backward=True, bf16_parameters=True),
    "most_exact": Way(num_full=3, num_selective=1, chunk=64, step_in_backward=True),
    "offload_exact": Way(offload=True),
    "host": Way(num_full=4, eight_bit=True, step_in_backward=True, bf16_parameters=True, offload=True),
}
RANK = Path(__file__).with_name("rank.py")


def train_on_two_ranks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each of two processes finds, by plan."""
    model = gpt(DEPTH, WIDTH)
    inputs = find_inputs(model, batch=BATCH // 2, sequence=TOKENS)
    for name, way in WAYS.items():
        (folder / f"{name}.py").write_text(to_code(model, inputs, way, "2 x 1GB", 2, "for a test"))
    command = [sys.executable, "-W", "ignore", str(RANK)]
    started = [
        subprocess.Popen([*command, str(rank), "2", str(folder), *WAYS], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
    return {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)] for name in WAYS
    }


def train_alone() -> list[float]:
    """Losses of one process, float32, PyTorch's own AdamW, nothing of ours but the loss's definition."""
    torch.manual_seed(0)
    model = gpt(DEPTH, WIDTH, device="cpu").train()
    ids = torch.randint(1000, (BATCH, TOKENS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        loss = WithLoss(model, "next-token")(ids, input_ids=ids, use_cache=False)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def mean(found: list[dict[str, Any]]) -> list[float]:
    """Losses of the whole batch."""
    return [sum(losses) / 2 for losses in zip(*(one["losses"] for one in found), strict=True)]


def planned(way: Way) -> int:
    """The most bytes that a rank should hold."""
    model = gpt(DEPTH, WIDTH)
    inputs = find_inputs(model, batch=BATCH // 2, sequence=TOKENS)
    return worst(anatomy(model), Measurements(model, inputs), way, 2).peak


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    return train_on_two_ranks(tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return train_alone()


@pytest.mark.parametrize("name", ["most_exact", "offload_exact"])
def test_two_ranks_train_as_one_process_does(
    name: str, outcomes: dict[str, list[dict[str, Any]]], alone: list[float]
) -> None:
    """In float32 and with exact moments: the same losses to rounding."""
    assert mean(outcomes[name]) == pytest.approx(alone, rel=1e-5)


def test_all_at_once_on_the_host(outcomes: dict[str, list[dict[str, Any]]], alone: list[float]) -> None:
    """A device that is the host itself says nothing about a device's peak, but it trains."""
    assert mean(outcomes["host"]) == pytest.approx(alone, rel=5e-3)


@pytest.mark.parametrize("name", ["plain", "full", "bf16"])
def test_as_planned(name: str, outcomes: dict[str, list[dict[str, Any]]], alone: list[float]) -> None:
    """In bfloat16, as it is meant: losses within its rounding, and each rank's peak as predicted."""
    assert mean(outcomes[name]) == pytest.approx(alone, rel=5e-3)
    predicted = planned(WAYS[name])
    for one in outcomes[name]:
        assert one["peak"] == pytest.approx(predicted, rel=0.08)


def test_a_program_runs_by_itself_from_no_weights(tmp_path: Path) -> None:
    model = gpt(DEPTH, WIDTH)
    (tmp_path / "plan.py").write_text(to_code(model, find_inputs(model), FULL, "1 x 1GB", 1, "for a test"))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "plan.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(torch.tensor(1000.0).log().item(), rel=0.05)
    assert losses[-1] < losses[0]


def test_it_knows_nothing_of_this_package_and_is_plain_python() -> None:
    for model, inputs in (
        (gpt(), find_inputs(gpt())),
        (Mixer(), find_inputs(Mixer(), example=torch.zeros(2, 3, 32, 32))),
    ):
        code = to_code(model, inputs, FULL, 'a "machine" \\ of """ ours', 2, "for a test")
        tree = ast.parse(code)
        imported = {
            name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
        }
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name.startswith("deepseek_lab") for name in imported)
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert {"prepare", "train_step", "shard", "AdamW8bit", "WithLoss"} <= names
        assert ("build" in names) == hasattr(model, "config")
