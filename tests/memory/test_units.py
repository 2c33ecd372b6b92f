"""The tree of a model's parts, and parts that are recomputed within one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.memory.plan import DIVISIONS
from deepseek_lab.memory.recompute import ALL_AGAIN, Recomputed
from deepseek_lab.memory.units import division, every, find_units
from tests.memory.models import Residual, make
from tests.memory.test_training import peak_of, same_state


class Stage(nn.Module):
    """Blocks that are repeated, as a ResNet's stage."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Residual(width) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layers(x), 0.1, self.training)


class Staged(nn.Module):
    """What goes into its blocks takes more than its weights."""

    def __init__(self, stages: int = 3, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList(Stage(8, blocks) for _ in range(stages))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 24, 24, generator=generator)
    return F.cross_entropy(model(images), torch.randint(0, 10, (8,), generator=generator))


class Loop:
    """Steps with AdamW."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.count = model, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step(self) -> float:
        torch.manual_seed(self.count)
        self.optimizer.zero_grad()
        loss = loss_of(self.model, self.count)
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return float(loss.detach())


def test_a_model_is_a_tree_of_stages_blocks_and_layers() -> None:
    units = find_units(make(Staged))
    assert [one.path for one in units] == ["stem", "stages.0", "stages.1", "stages.2", "head"]
    stage = units[1]
    assert stage.holds_blocks
    assert [one.path for one in stage.inner] == [f"stages.0.layers.{index}" for index in range(4)]
    assert {one.level for one in every(units)} == {0, 1, 2}
    block = [one.path for one in stage.inner[0].inner]
    assert "stages.0.layers.0.first" in block
    assert not any(path.endswith("act") for path in block)  # it has nothing to train, and saves nothing


@pytest.mark.parametrize("levels", DIVISIONS)
def test_a_division_takes_every_weight_into_account_and_no_part_twice(levels: tuple[int, ...]) -> None:
    model = make(Staged)
    paths = [one.path for one in division(find_units(model), levels)]
    assert len(set(paths)) == len(paths)
    for name, _ in model.named_parameters():
        assert any(name.startswith(f"{path}.") for path in paths), name
    if len(levels) == 1:  # beside one another
        assert not any(a != b and b.startswith(f"{a}.") for a in paths for b in paths)


def test_parts_of_a_part_that_is_not_usable_stand_for_it() -> None:
    units = find_units(make(Staged))
    paths = [one.path for one in division(units, (0,), lambda one: one.path != "stages.1")]
    assert "stages.1.layers.0" in paths
    assert "stages.0" in paths
    assert "stages.1" not in paths


@pytest.mark.parametrize("levels", DIVISIONS)
def test_parts_within_parts_train_as_without(levels: tuple[int, ...]) -> None:
    """Bit by bit, with batch norm, dropout, and activations in place."""
    plain, again = Loop(make(Staged)), Loop(make(Staged))
    left: list[str] = []
    parts = [Recomputed(unit, left.append) for unit in division(find_units(again.model), levels)]
    for part in parts:
        part.keep = ALL_AGAIN
        part.install()
    assert [again.step() for _ in range(3)] == [plain.step() for _ in range(3)]
    assert not [reason for reason in left if "writes to what it is given" not in reason]
    same_state(plain.model, again.model)
    for part in parts:
        part.remove()


def test_attention_to_itself_is_computed_again_as_such() -> None:
    """One tensor given three times is something else for it than three tensors; within another part too."""

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attention(x, x, x, need_weights=False)[0]

    plain, again = (make(lambda: nn.Sequential(Attentive(), Attentive())) for _ in range(2))
    parts = [Recomputed(unit, lambda reason: None) for unit in division(find_units(again), (0, 1))]
    assert {one.unit.path for one in parts} >= {"0", "0.attention"}
    for part in parts:
        part.keep = ALL_AGAIN
        part.install()
    x = torch.randn(2, 5, 16)
    for model in (plain, again):
        model(x).square().sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def floor(levels: tuple[int, ...]) -> int:
    """What a step holds with the parts of these levels recomputed."""
    loop = Loop(make(Staged))
    parts = [Recomputed(unit, lambda reason: None) for unit in division(find_units(loop.model), levels)]
    for part in parts:
        part.keep = ALL_AGAIN
        part.install()
    loop.step()
    return peak_of(loop)  # type: ignore[arg-type]


def test_a_limit_that_stages_alone_do_not_keep_is_kept_from_the_first_step_on() -> None:
    stages, nested = floor((0,)), min(floor((0, 1)), floor((0, 1, 2)))
    assert nested < 0.85 * stages
    limit = 1.06 * nested
    bounded, plain = Loop(make(Staged)), Loop(make(Staged))
    run = deepseek_lab.memory_limit(bounded.model, f"{int(limit)}B")
    losses = [bounded.step()]
    # Not of the first step, in which tensors without values are counted; it does the same.
    assert peak_of(bounded) <= limit  # type: ignore[arg-type]
    run.wait()
    for _ in range(6):
        losses.append(bounded.step())
        run.wait()
    expected = [plain.step() for _ in range(8)]
    assert losses == [expected[0], *expected[2:]]
    row: Any = next(iter(run.report.rows.values()))
    assert row.planned.fits
    assert row.measured.peak_bytes <= limit
    assert abs(row.measured.peak_bytes / row.planned.predicted_bytes - 1) < 0.08
    assert any("of its parts" in one.action for one in row.planned.steps), row.planned.steps
    same_state(plain.model, bounded.model)
    run.restore()
    assert not [path for path, one in bounded.model.named_modules() if "forward" in one.__dict__]
