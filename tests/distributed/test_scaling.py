"""The model of a data-parallel step: by hand, by its laws, and against what DDP really does."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deepseek_lab.base.errors import UsageError
from deepseek_lab.base.settings import settings
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.scaling import record
from deepseek_lab.distributed.scaling.buckets import CAP_BYTES, assign
from deepseek_lab.distributed.scaling.fit import _seconds, fit, in_a_row
from deepseek_lab.distributed.scaling.measure import _line
from deepseek_lab.distributed.scaling.network import Link, Network, all_reduce, parse_rate, reduce_scatter
from deepseek_lab.distributed.scaling.plan import Cluster, plan
from deepseek_lab.distributed.scaling.predict import Compute, Setting, buckets_of, predict, scaled
from deepseek_lab.distributed.scaling.step import Host, Job, Phase, even, simulate
from deepseek_lab.distributed.scaling.ways import BY_NAME, WAYS, Arithmetic, Bucket, Shares, Stages, Way
from deepseek_lab.distributed.scaling.work import UPDATE_BYTES, Rates, work_out
from deepseek_lab.processes import travel

LINK = Link(100.0, 0.0)
EMPTY = Job(0.0, ())


def sends(ready_s: float, num_bytes: float, work_s: float = 0.0, copied_s: float = 0.0) -> Job:
    return Job(ready_s, (Phase(work_s=work_s), Phase(num_bytes=num_bytes)), copied_s)


# Collectives.


def test_a_ring_sends_what_it_must() -> None:
    network = Network(4, 8, Link(10.0, 0.5), Link(1.0, 9.0))
    sent = all_reduce(80.0, network)
    assert sent.num_bytes == 2 * 3 / 4 * 80
    assert sent.delay_s == 2 * 3 * 0.5
    assert network.port == Link(10.0, 0.5)


def test_nodes_exchange_what_their_ranks_have_added_up() -> None:
    network = Network(16, 8, Link(10.0, 0.5), Link(1.0, 9.0))
    half = reduce_scatter(80.0, network)
    assert half.num_bytes == 1 / 2 * 80
    assert half.delay_s == 7 * 0.5 + 7 / 8 * 80 / 10 + 9.0
    assert network.port == Link(1.0, 9.0)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100Gbit/s", 12.5e9), ("200 Mbit/s", 25e6), ("12.5GB/s", 12.5e9), ("10Gbps", 1.25e9), ("8b/s", 1.0)],
)
def test_rates_are_read(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["100", "fast", "0Gbit/s", "100Gbit", "-1Gbit/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no rate for --link") as caught:
        parse_rate(text)
    assert caught.value.hint == "--link 100Gbit/s"


# A step.


def test_a_step_by_hand() -> None:
    """Buckets are full after 1 and 2 s of the backward pass, and take a second each over the link."""
    made = simulate(1.0, 2.0, 0.5, [sends(1.0, 100.0), sends(2.0, 100.0)], link=LINK, host=Host())
    assert made.step_s == pytest.approx(1 + 2 + 1 + 0.5)
    assert made.waiting_s == pytest.approx(1.0)


def test_two_at_a_time_share_the_port() -> None:
    jobs = [sends(0.0, 100.0), sends(0.0, 100.0), sends(0.0, 100.0)]
    for num_lanes in (1, 2, 3):
        made = simulate(0.0, 0.0, 0.0, jobs, link=LINK, host=Host(), num_lanes=num_lanes)
        assert made.step_s == pytest.approx(3.0)


def test_a_collective_that_does_not_fill_the_port_leaves_room_for_another() -> None:
    job = Job(0.0, (Phase(num_bytes=100.0, share=(0.5, 0.8)),))
    one = simulate(0.0, 0.0, 0.0, [job], link=LINK, host=Host())
    assert one.step_s == pytest.approx(2.0)
    two = simulate(0.0, 0.0, 0.0, [job, job], link=LINK, host=Host())
    assert two.step_s == pytest.approx(200 / 80)


def test_encoding_takes_its_time_from_the_backward_pass() -> None:
    """A second of the pass is left when encoding, a second too, begins: they share the core and end together."""
    made = simulate(0.0, 2.0, 0.0, [sends(1.0, 50.0, work_s=1.0)], link=LINK, host=Host())
    assert made.step_s == pytest.approx(3.0 + 0.5)
    assert made.waiting_s == pytest.approx(0.5)
    alone = simulate(0.0, 2.0, 0.0, [sends(1.0, 50.0, work_s=1.0)], link=LINK, host=Host(num_cores=2))
    assert alone.step_s == pytest.approx(2.0 + 0.5)


def test_ranks_share_the_cores_of_their_machine() -> None:
    made = simulate(1.0, 2.0, 1.0, [EMPTY], link=LINK, host=Host(num_cores=2, num_ranks=4))
    assert made.step_s == pytest.approx(8.0)
    threads = simulate(1.0, 2.0, 1.0, [EMPTY], link=LINK, host=Host(num_cores=2, num_threads=4))
    assert threads.step_s == pytest.approx(8.0)


def test_sending_takes_cores() -> None:
    """100 bytes a second would take two cores; there is one, so the link is half as fast."""
    made = simulate(0.0, 0.0, 0.0, [sends(0.0, 100.0)], link=LINK, host=Host(core_s_per_byte=0.02))
    assert made.step_s == pytest.approx(2.0)


def test_a_port_that_was_idle_sends_a_burst() -> None:
    """300 bytes: 20 s of computing have filled the bucket of 100, which goes at 200 bytes a second."""
    link = Link(100.0, 0.0, burst_bytes=100.0, burst_bandwidth=200.0)
    made = simulate(20.0, 0.0, 0.0, [sends(0.0, 300.0)], link=link, host=Host())
    # Tokens go at 100 a second for a second, in which 200 bytes are sent; the rest goes at 100.
    assert made.step_s == pytest.approx(20 + 1 + 1)
    never = simulate(0.0, 0.0, 0.0, [sends(0.0, 300.0)], link=link, host=Host())
    assert never.step_s == pytest.approx(3.0)


def test_what_is_shared_evenly() -> None:
    assert even([1.0, 1.0], 1.0) == [0.5, 0.5]
    assert even([0.1, 1.0, 1.0], 1.1) == pytest.approx([0.1, 0.5, 0.5])
    assert even([0.2, 0.3], 1.0) == [0.2, 0.3]
    assert even([], 1.0) == []


# Predictions.

SHAPES = [(512, 1024), (1024,), (2048, 1024), (4096, 1024), (1024, 1024), (1024,)]
COMPUTE = Compute(0.01, 0.02, 0.005, (1.0, 1.0, 0.8, 0.6, 0.3, 0.3))


def setting(num_ranks: int, bandwidth: float = 1e9, latency_s: float = 1e-4) -> Setting:
    link = Link(bandwidth, latency_s)
    return Setting(Network(num_ranks, 1, link, link))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_one_rank_sends_nothing(way: Way) -> None:
    made = predict(SHAPES, COMPUTE, setting(1), way)
    assert made.step_s == pytest.approx(COMPUTE.total_s)
    assert made.waiting_s == 0


@pytest.mark.parametrize("num_ranks", [2, 3, 16])
def test_without_overlap_it_is_the_ring_s_formula(num_ranks: int) -> None:
    at_end = dataclasses.replace(COMPUTE, ready=(1.0,) * len(SHAPES))
    made = predict(SHAPES, at_end, setting(num_ranks), BY_NAME["plain"], first=1 << 40)
    total = 4 * Bucket(tuple(SHAPES)).num_values
    ring_s = 2 * (num_ranks - 1) * 1e-4 + 2 * (num_ranks - 1) / num_ranks * total / 1e9
    assert made.step_s == pytest.approx(COMPUTE.total_s + ring_s)
    assert made.waiting_s == pytest.approx(ring_s)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_faster_links_make_no_step_slower(way: Way) -> None:
    seeded = random.Random(0)
    for _ in range(20):
        shapes = [(seeded.randint(1, 3000), seeded.randint(1, 3000)) for _ in range(seeded.randint(1, 12))]
        ready = sorted((seeded.random() for _ in shapes), reverse=True)
        compute = Compute(seeded.random(), seeded.random(), seeded.random(), tuple(ready))
        num_ranks = seeded.randint(2, 64)
        steps = [
            predict(shapes, compute, setting(num_ranks, bandwidth), way).step_s
            for bandwidth in (1e7, 1e8, 1e9, 1e12)
        ]
        assert all(fast <= slow * (1 + 1e-9) for slow, fast in itertools.pairwise(steps))
        assert steps[-1] >= compute.total_s * (1 - 1e-9)


def test_what_is_encoded_is_smaller_and_costs_arithmetic() -> None:
    values = Bucket(((1000, 256),))
    assert BY_NAME["bf16"].sent_bytes(values) == 2 * 256_000
    assert BY_NAME["int8"].sent_bytes(values) == 256_000 + 4 * 1000
    place = dataclasses.replace(setting(4), arithmetic=Arithmetic({"int8": Stages(1e-9, 2e-9, 3e-9)}))
    phases = BY_NAME["int8"].phases(values, place.network, place.arithmetic, place.shares)
    assert sum(one.work_s for one in phases) == pytest.approx(6e-9 * 256_000)
    assert sum(one.num_bytes for one in phases) == pytest.approx(2 * 3 / 4 * 260_000)


def test_between_nodes_alone_values_are_encoded() -> None:
    """Two nodes of four: inside float32 goes, as codes a quarter of it a rank, and that is what is encoded."""
    link = Link(1e9, 0.0)
    for nodes, alone in ((Network(8, 4, Link(1e10, 0.0), link), 4), (Network(8, 1, link, link), 1)):
        arithmetic = Arithmetic({"int8": Stages(1e-9, 2e-9, 3e-9)})
        phases = BY_NAME["int8"].phases(Bucket(((1000, 256),)), nodes, arithmetic, Shares())
        assert sum(one.work_s for one in phases) == pytest.approx(6e-9 * 256_000 / alone)
        delay_s = 2 * 3 / 4 * 4 * 256_000 / 1e10 if alone == 4 else 0.0
        assert sum(one.delay_s for one in phases) == pytest.approx(delay_s)
        assert sum(one.num_bytes for one in phases) == pytest.approx(
            2 * (0.5 if alone == 4 else 7 / 8) * 260_000
        )
    made = plan(SHAPES, COMPUTE, Cluster(16, "V100-16GB", 16 << 30, 900e9, 125e12, 150e9, 1.25e9))
    assert {one.name: one.typed for one in made.ways}["int8"] == "--allow-lossy --exchange hierarchical-int8"


def test_local_steps_share_one_exchange() -> None:
    way = next(one for one in WAYS if one.every > 1)
    made = predict(SHAPES, COMPUTE, setting(4), way)
    total = Bucket(tuple(SHAPES)).num_values * (1 + 4 / 256)  # int8 codes, and a scale for 256 of them
    assert made.step_s - COMPUTE.total_s == pytest.approx(1.5 * total / 1e9 / way.every, rel=0.1)


def test_a_plan_says_what_each_way_brings() -> None:
    cluster = Cluster(16, "V100-16GB", 16 << 30, 900e9, 125e12, 150e9, 1.25e9)
    made = plan(SHAPES, COMPUTE, cluster, model="net")
    assert [one.is_exact for one in made.ways] == sorted((one.is_exact for one in made.ways), reverse=True)
    assert made.held["optimizer states (AdamW)"] == 2 * made.held["parameters"] == 8 * made.num_parameters
    assert {point.num_ranks for point in made.curve} == {2**k for k in range(1, 11)}
    for one in made.ways:
        assert one.efficiency == pytest.approx(COMPUTE.total_s / one.step_s)
        assert one.efficiency == pytest.approx(
            next(point for point in made.curve if point.num_ranks == 16).efficiency[one.name]
        )
    sent = {one.name: one.sent_bytes for one in made.ways}
    assert sent["plain"] == 4 * made.num_parameters  # two nodes: half of it there, half of it back
    assert sent["plain"] == pytest.approx(2 * sent["bf16"], abs=2)


def test_a_step_is_worked_out_from_its_operators() -> None:
    """A matrix product forward, two backward (one for the input), at a rate that arithmetic alone holds up."""
    mode = FakeTensorMode()
    with mode:
        model, rows = nn.Linear(1000, 500, bias=False), torch.empty(64, 1000, requires_grad=True)
    flops = 2 * 64 * 1000 * 500
    made = work_out(model, lambda: model(rows).sum(), Rates(1e6, 1e30), mode)
    assert made.forward_s == pytest.approx(flops / 1e6)
    assert made.backward_s == pytest.approx(2 * flops / 1e6)
    assert made.update_s == pytest.approx(UPDATE_BYTES * 500_000 / 1e30)
    assert 0 < made.ready[0] <= 1
    assert scaled(made, 3.0).total_s == pytest.approx(3.0)


# Buckets, against the real ones.


def test_buckets_are_closed_by_what_fills_them() -> None:
    assert assign([1 << 20, 5, CAP_BYTES, 7]) == [[0], [1, 2], [3]]
    assert assign([CAP_BYTES]) == [[0]]
    assert assign([]) == []


_BUCKETS = """
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from deepseek_lab.distributed.scaling.measure import measure_compute
torch.manual_seed(0)
sizes = [1000, 2500, 3000, 1500, 300, 10]
layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.Tanh())]
net = nn.Sequential(*layers)
replica = DistributedDataParallel(net, find_unused_parameters=True)
places = {parameter: at for at, parameter in enumerate(net.parameters())}
seen = []
def hook(state, bucket):
    seen.append([places[one] for one in bucket.parameters()])
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
replica.register_comm_hook(None, hook)
rows = torch.randn(4, 1000)
for _ in range(3):
    seen.clear()
    replica(rows).sum().backward()
with replica.no_sync():
    found = measure_compute(lambda: replica(rows).sum(), list(net.parameters()))
shapes = [tuple(one.shape) for one in net.parameters()]
"""


def gathered(ranks: Ranks, source: str, *names: str) -> list[dict[str, Any]]:
    """The values of names after a cell, by rank."""
    if len(ranks.live) < len(ranks):
        ranks.restart()
    made = ranks.ask("run", {"source": source, "file": "cell", "gather": list(names)})
    assert {one.status for one in made.answers.values()} == {"ok"}, made.answers
    return [travel.unpack(made.payloads[number], {}).value for number in range(len(ranks))]


def test_buckets_are_those_of_ddp(three: Ranks) -> None:
    for came in gathered(three, _BUCKETS, "seen", "shapes"):
        real, shapes = came["seen"], came["shapes"]
        assert len(real) > 2
        ours = buckets_of(shapes)
        assert [sorted(one) for one in ours] == [sorted(one) for one in real]


_LINKS = """
import torch.distributed as dist
from deepseek_lab.distributed.scaling import measure
groups = [dist.new_group() for _ in range(2)]
link, core = measure.measure_link(large_s=0.001)
means = measure.time_means("int8", groups, 1 << 16)
arithmetic = measure.measure_arithmetic(3, 1 << 18)
"""


def test_ranks_measure_alike(three: Ranks) -> None:
    came = gathered(three, _LINKS, "link", "core", "means", "arithmetic")
    assert came[0]["link"] == came[1]["link"] == came[2]["link"]
    link = came[0]["link"]
    assert link.bandwidth > 0
    assert 0 < link.latency_s < 1
    assert came[0]["means"] == came[1]["means"] == came[2]["means"]
    assert min(came[0]["means"]) > 0
    for stages in came[0]["arithmetic"].stages.values():
        assert min(dataclasses.astuple(stages)) > 0


@pytest.mark.parametrize("way", ["bf16", "int8"])
def test_a_share_is_that_with_which_buckets_take_as_long(way: str) -> None:
    place = dataclasses.replace(setting(4), arithmetic=Arithmetic({way: Stages(1e-9, 2e-9, 3e-9)}))
    for alone, pair in ((0.5, 0.8), (0.9, 0.6), (1.0, 1.0)):
        both = in_a_row(1_000_000)
        one_s = _seconds(BY_NAME[way], [both[0]], (alone, alone), place)
        two_s = _seconds(BY_NAME[way], [*both], (alone, pair), place)
        assert one_s < two_s
        assert fit(BY_NAME[way], 1_000_000, one_s, two_s, place).exchange == pytest.approx(
            (alone, pair), rel=1e-6
        )
    faster = fit(BY_NAME[way], 1_000_000, one_s / 2, two_s / 2, place)
    assert faster.exchange == (1.0, 1.0)


def test_a_line_is_found_with_the_least_relative_errors() -> None:
    assert _line([1.0, 2.0, 3.0], [5.0, 7.0, 9.0]) == pytest.approx((3.0, 2.0))
    # One large value that is off counts as much as a small one.
    intercept, slope = _line([1.0, 2.0, 1000.0], [1.0, 2.0, 1100.0])
    assert slope == pytest.approx(1.07, abs=0.05)
    assert abs(intercept) < 0.1


# The record.


def test_how_well_it_did_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    assert record.kept() is None
    made = record.keep([(1.1, 1.0), (0.98, 1.0), (3.0, 3.0)])
    assert made.worst == pytest.approx(0.1)
    assert made.median == pytest.approx(0.02)
    assert record.kept() == made
    monkeypatch.setattr(record, "processor", lambda: "another")
    assert record.kept() is None
    monkeypatch.undo()
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    (tmp_path / "scaling.json").write_text("{")
    assert record.kept() is None
