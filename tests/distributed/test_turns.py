"""Where a cell is saved and gone on with, in one process: from every place the end is the same."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import torch

from deepseek_lab.distributed.worker.loaders import Shares
from deepseek_lab.distributed.worker.turns import Path, Place, Turns, Updates
from deepseek_lab.distributed.worker.vitals import Vitals
from deepseek_lab.processes import cells

NESTED = """
for a in range(3):
    before = a * 10
    a = a + 100
    for b, in loader:
        step()
        trace.append((a, b.item(), before))
    for c in range(2):
        step()
        trace.append(("c", a, c))
        for d in [c, c + 1]:
            before -= 1
            step()
    after = before + 1
    trace.append(after)
n = 0
while n < 3:
    m = n
    n += 1
    for d in range(3):
        step()
        if d == n: break
        trace.append(("d", m, n, d, torch.rand(1).item()))
for x in [1, 2]:
    trace.append(x)
trace.append("end")
"""
ACCUMULATED = """
for i in range(6):
    (weight * (i + 1)).sum().backward()
    if i % 3 == 2: step()
"""
PARTS = """
for i in range(3):
    loss = 0
    for part in range(3):
        loss = loss + weight.sum() * part
    loss.backward()
    step()
"""


class Everywhere(Turns):
    """Saves at every place at which it may."""

    def _turned(self, path: Path) -> None:
        self.save_at = self._ahead(path, 1)
        self.decide(None, go=True)
        super()._turned(path)


def names_of(others: dict[str, Any] | None = None) -> dict[str, Any]:
    """A notebook's, or a copy of what was saved."""
    if others is not None:
        return {"torch": torch, **copy.deepcopy(others)}
    weight = torch.ones(3, requires_grad=True)
    names = {"torch": torch, "weight": weight, "opt": torch.optim.SGD([weight], 0.01), "trace": []}
    names["loader"] = torch.utils.data.DataLoader(torch.arange(4).unsqueeze(1), shuffle=True)
    return names


def run(
    source: str, names: dict[str, Any], place: Place | None = None, state: bytes = b""
) -> dict[Place, tuple[bytes, dict[str, Any]]]:
    """What was saved, by place."""
    saved: dict[Place, tuple[bytes, dict[str, Any]]] = {}

    def save(at: Place, state: bytes) -> None:
        kept = {
            name: value
            for name, value in names.items()
            if not name.startswith("__") and not isinstance(value, types.ModuleType | types.FunctionType)
            if name != "loss"  # has a graph, which cannot be copied
        }
        saved[at] = state, copy.deepcopy(kept)

    def step() -> None:
        names["opt"].step()
        names["opt"].zero_grad()

    names["step"] = step
    with (
        Vitals("cpu", lambda: 0) as vitals,
        Updates(lambda: vitals.num_backwards) as updates,
        Shares(0, 1, 7, None, names) as shares,
    ):
        turns = Everywhere(shares, updates, names, 1.0, None, save, place, state)
        names |= turns.names()
        cells.run_cell(source, "cell", names, turns.change)
    return saved


def test_from_every_place_the_end_is_the_same() -> None:
    torch.manual_seed(1)
    names = names_of()
    saved = run(NESTED, names)
    paths = [place.path for place in saved]
    assert {path: paths.count(path) for path in set(paths)} == {
        (0,): 3,
        (0, 2): 12,
        (0, 3): 6,
        (0, 3, 2): 12,
        (2,): 4,
        (2, 2): 6,
        (3,): 2,
    }
    for place, (state, kept) in saved.items():
        again = names_of(kept)
        torch.manual_seed(99)
        run(NESTED, again, place, state)
        assert again["trace"] == names["trace"], place


@pytest.mark.parametrize(
    ("source", "places"),
    [(ACCUMULATED, [Place((0,), (3,)), Place((0,), (6,))]), (PARTS, [Place((0,), (n,)) for n in (1, 2, 3)])],
)
def test_nothing_is_saved_while_gradients_wait_for_an_update(source: str, places: list[Place]) -> None:
    """Nor in loops that are a part of one. Once an optimizer has stepped it is known who makes the updates."""
    before = "weight.sum().backward()\nstep()\n"
    assert list(run(before + source, names_of())) == [Place((one.path[0] + 2,), one.turns) for one in places]
