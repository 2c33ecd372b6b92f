"""Gradients that go among the ranks of a host first: two hosts of two ranks, in network namespaces where there are."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from deepseek_lab.base.errors import UsageError
from deepseek_lab.distributed.launchers import Local
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.request import Request
from deepseek_lab.distributed.training import train
from deepseek_lab.distributed.worker.choice import EXACT, LOCAL, WAYS
from deepseek_lab.distributed.worker.hosts import Hosts
from deepseek_lab.notebook.verbs.distributed import _require_layers
from tests.benchmarks.links import HOST, NoLinks, inside, links
from tests.distributed.cells import notebook

DEFINE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x = torch.randn(160, 24)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :3].argmax(1)), batch_size=4)
losses = []
"""
LOOP = """
for _ in range(EPOCHS):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
"""
USES = {"model", "optimizer", "loader", "losses", "nn", "EPOCHS"}
MEANS = """
import torch, torch.distributed as dist
from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.hosts import Hosts
exchange = Exchange("hierarchical", Hosts(HOSTS))
told = {}
for way in ("hierarchical", "hierarchical-bf16", "hierarchical-int8"):
    for size in (1, 5, 1000, 70_001):
        torch.manual_seed(10 * size + rank)
        mine = torch.randn(size)
        right = mine.double()
        dist.all_reduce(right)
        right /= world_size
        off, total = [], torch.zeros(size)
        for _ in range(1 if way == "hierarchical" else 40):
            values = mine.clone()
            exchange.put(way, (0, size), values).wait()
            total += values
            off.append(float((values - right).abs().max()))
        off_mean = float((total / len(off) - right).abs().max())
        everyone = [torch.empty_like(values) for _ in range(world_size)]
        dist.all_gather(everyone, values)
        told[way, size] = off[0], off_mean, all(torch.equal(one, values) for one in everyone)
    exchange.keep(way)
exchange.close()
told
"""
SENT = """
import torch
from pathlib import Path
from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.hosts import Hosts
exchange = Exchange("hierarchical", Hosts((0, 0, 1, 1)))
def crossed(way):
    exchange.put(way, (0, 0), torch.ones(1000)).wait()
    torch.distributed.barrier()
    before = int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())
    exchange.put(way, (0, 0), torch.ones(2_000_000)).wait()
    torch.distributed.barrier()
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text()) - before
told = [crossed(way) for way in ("plain", "hierarchical", "hierarchical-int8")]
from deepseek_lab.distributed.worker.local_steps import LocalSteps
def crossed_by_means():
    steps = LocalSteps(exchange)
    steps.add([parameter := torch.zeros(2_000_000)])
    for _ in range(2):
        before = int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())
        parameter += rank
        steps.agree()
        torch.distributed.barrier()
        sent = int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text()) - before
    return sent, float(parameter.mean())
told += crossed_by_means()
exchange.close()
told
"""


@pytest.fixture(scope="module")
def four() -> Iterator[tuple[Ranks, bool]]:
    """Four ranks on two hosts, and whether these are network namespaces."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(links(2, None))
            launcher = Local(HOST, "eth0", lambda rank: inside(rank // 2, []))
            emulated = True
        except NoLinks:
            launcher = Local(prefix=lambda rank: ["env", f"DEEPSEEK_LAB_HOST={rank // 2}"])
            emulated = False
        ranks = Ranks(4, launcher=launcher)
        ranks.start()
        yield ranks, emulated
        ranks.stop()


def run(ranks: Ranks, source: str) -> Request:
    request = ranks.ask("run", {"source": source, "file": "cell"})
    assert all(one.status == "ok" for one in request.answers.values()), request.answers[0].text
    return request


def trained(ranks: Ranks, way: str, epochs: int = 3) -> tuple[list[float], dict[str, Any], tuple[str, ...]]:
    names = notebook(DEFINE) | {"EPOCHS": epochs}
    made = train(ranks, names, LOOP, "cell", uses=USES, binds={"losses"}, way=way, seed=1)
    assert not made.failed, made.answers[0].text
    assert len({one.details["checksum"] for one in made.answers.values()}) == 1
    return names["losses"], made.answers[0].details, made.notes


def test_who_shares_a_host_is_known(four: tuple[Ranks, bool]) -> None:
    assert four[0].hosts == [0, 0, 2, 2]


@pytest.mark.parametrize("hosts", [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1)], ids=str)
def test_means_are_right_wherever_ranks_are(four: tuple[Ranks, bool], hosts: tuple[int, ...]) -> None:
    request = run(four[0], MEANS.replace("HOSTS", repr(hosts)))
    for answer in request.answers.values():
        for (way, size), (off, off_mean, alike) in ast.literal_eval(answer.value).items():
            assert alike, (way, size)
            if way == "hierarchical":
                assert off < 1e-6
            else:
                assert off < 0.05, (way, size)
            if way == "hierarchical-int8":
                assert off_mean < 0.002, "error feedback"


def test_less_crosses_between_hosts(four: tuple[Ranks, bool]) -> None:
    """In a ring over four ranks 1.5 times the values leave each host, in one over two hosts 1 time."""
    ranks, emulated = four
    if not emulated:
        pytest.skip("links cannot be emulated here")
    plain, layered, coded, means, parameter = ast.literal_eval(run(ranks, SENT).answers[0].value)
    assert layered < 0.75 * plain
    assert coded < 0.3 * layered
    assert means < 1.1 * coded
    assert parameter == pytest.approx(3.0, rel=0.02)


def test_training_is_ddps(four: tuple[Ranks, bool]) -> None:
    plain, details, _ = trained(four[0], "plain")
    assert details["way"] == "plain"
    layered, details, notes = trained(four[0], "hierarchical")
    assert details["way"] == "hierarchical"
    assert layered == pytest.approx(plain, abs=1e-6)
    assert "gradients in float32, added up on each host first" in notes
    chosen, details, notes = trained(four[0], "exact", epochs=9)
    assert details["way"] in EXACT
    assert details["step_s"].keys() == set(EXACT)
    assert details["expected"] == []
    assert chosen[: len(plain)] == pytest.approx(plain, abs=1e-6)
    assert re.search(r"added up on each host first \d+\.\d\dx$", notes[0])
    assert plain[-1] < 0.5 * plain[0]


def test_all_ways_are_weighed_where_gradients_may_change(four: tuple[Ranks, bool]) -> None:
    losses, details, _ = trained(four[0], "auto", epochs=60)
    assert details["step_s"].keys() == {*WAYS, LOCAL}
    assert LOCAL not in details["expected"]
    assert losses[-1] < 0.5 * losses[0]


def test_between_hosts_alone_gradients_go_as_codes(four: tuple[Ranks, bool]) -> None:
    losses, details, notes = trained(four[0], "hierarchical-int8")
    assert details["way"] == "hierarchical-int8"
    assert losses[-1] < 0.5 * losses[0]
    assert "int8 codes with error feedback between hosts, added up on each host first" in notes[0]


def test_ranks_apart_end_alike(four: tuple[Ranks, bool]) -> None:
    losses, details, _ = trained(four[0], "local")
    assert details["way"] == "local"
    assert losses[-1] < 0.5 * losses[0]


def test_what_has_no_layers_is_said() -> None:
    assert Hosts((0, 0, 1, 1)).layered
    assert Hosts((0, 0, 0, 1)).layered
    assert not Hosts((0, 0)).layered
    assert not Hosts((0, 1)).layered
    with pytest.raises(UsageError, match="all ranks are on one host") as told:
        _require_layers([0, 0, 0], "hierarchical-int8")
    assert told.value.hint == "%%deepseek distributed --exchange int8 --allow-lossy"
    with pytest.raises(UsageError, match="each rank is on a host of its own") as told:
        _require_layers([0, 1], "hierarchical")
    assert told.value.hint == "%%deepseek distributed --exchange plain"
    _require_layers([0, 0, 2, 2], "hierarchical")
