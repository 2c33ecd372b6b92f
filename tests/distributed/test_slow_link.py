"""Ranks in network namespaces of their own, joined by a link of a known bandwidth: where the system allows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deepseek_lab.distributed.launchers import Local
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import train
from deepseek_lab.distributed.worker.choice import LOCAL
from tests.benchmarks.links import HOST, NoLinks, inside, links, shape
from tests.distributed.cells import notebook

DEFINE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.randn(64, 64)
losses = []
"""
LOOP = """
for _ in range(40):
    loss = nn.functional.cross_entropy(model(x), x[:, :8].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    """Two ranks that reach each other at 20 Mbit/s."""
    try:
        with links(2, None):
            ranks = Ranks(2, launcher=Local(HOST, "eth0", lambda rank: inside(rank, [])))
            ranks.start()
            shape(2, 20)
            try:
                yield ranks
            finally:
                ranks.stop()
    except NoLinks as why:
        pytest.skip(f"links cannot be emulated here: {why}")


@pytest.mark.parametrize("batch", [None, 128])
def test_over_a_slow_link_little_is_sent(two: Ranks, batch: int | None) -> None:
    """Half a second would pass for the gradients of each update in float32, and computing takes milliseconds.

    Ranks may train apart where the user has not asked for a common batch.
    """
    names = notebook(DEFINE)
    uses = {"model", "optimizer", "x", "losses", "nn"}
    trained = train(two, names, LOOP, "cell", uses=uses, binds={"losses"}, way="auto", batch=batch)
    assert not trained.failed, trained.answers[0].text
    details = [one.details for one in trained.answers.values()]
    apart = details[0]["way"] == LOCAL
    assert details[0]["way"].startswith("powersgd-") or (apart and batch is None)
    assert details[1]["way"] == details[0]["way"]
    assert details[0]["checksum"] == details[1]["checksum"]
    assert details[0]["step_s"][details[0]["way"]] < 0.5 * details[0]["step_s"]["plain"]
    assert "plain" in details[0]["expected"], "what cannot win is not tried"
    assert ("where ranks never differ" if apart else "(expected)") in trained.notes[0]
    assert names["losses"][-1] < 0.7 * names["losses"][0]
