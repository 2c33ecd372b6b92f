"""Sums on each host first, against one ring: ``python -m tests.benchmarks.hierarchy``.

Arguments: Mbit/s between the hosts, by default 200, and million parameters, by default 6. Two hosts of two ranks,
each a network namespace; within a host ranks reach each other over its loopback. Steps compute next to nothing and take
turns.
With ranks in turn on both hosts a ring crosses between them at every rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from deepseek_lab.measure.race import Ratio
from tests.benchmarks.links import NoLinks, inside, links

NUM_RANKS = 4
ROUNDS = 7
WAYS = ("ddp", "plain", "hierarchical")
LAYOUTS = {"one host after the other": (0, 0, 1, 1), "in turn": (0, 1, 0, 1)}


def rank_main(rank: int, hosts: tuple[int, ...], millions: float, store: str, out: str) -> None:
    """One rank: every way's steps in turn."""
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from deepseek_lab.distributed.worker.exchange import Exchange
    from deepseek_lab.distributed.worker.hosts import Hosts

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, NUM_RANKS), rank=rank, world_size=NUM_RANKS)
    torch.manual_seed(0)
    size = int(1e6 * millions / 24)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(nn.Parameter(torch.randn(size) * 0.01) for _ in range(24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(((weight * x).sum() for weight in self.weights), torch.zeros(()))

    exchange = Exchange("plain", Hosts(hosts))
    made = {}
    for way in WAYS:
        made[way] = DistributedDataParallel(Net())
        if way != "ddp":
            exchange.install(made[way])

    def step(way: str) -> float:
        if way != "ddp":
            exchange.way = way
        dist.barrier()
        began_s = time.perf_counter()
        made[way](torch.tensor(float(rank + 1))).backward()
        taken_s = time.perf_counter() - began_s
        made[way].zero_grad(set_to_none=False)
        return taken_s

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(ROUNDS + 2):  # buckets are made anew after the first
        for way in WAYS:
            taken_s = step(way)
            if turn > 1:
                times[way].append(taken_s)
    if rank == 0:
        Path(out).write_text(json.dumps(times))
    dist.barrier()
    os._exit(0)


def measure(hosts: tuple[int, ...], mbit: float, millions: float) -> dict[str, list[float]]:
    """Seconds of steps by way, as rank 0 sees them."""
    with tempfile.TemporaryDirectory() as folder, links(2, mbit):
        store, out = f"{folder}/store", f"{folder}/times"
        words = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.hierarchy", "rank"]
        layout = ",".join(map(str, hosts))
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                inside(hosts[rank], [*words, str(rank), layout, str(millions), store, out]), env=environment
            )
            for rank in range(NUM_RANKS)
        ]
        for process in processes:
            process.wait()
        if any(process.returncode for process in processes):
            raise RuntimeError("a rank failed")
        times: dict[str, list[float]] = json.loads(Path(out).read_text())
        return times


def main(mbit: float = 200.0, millions: float = 6.0) -> int:
    """Measure and print; the number of layouts in which it is not faster."""
    missed = 0
    for where, hosts in LAYOUTS.items():
        try:
            times = measure(hosts, mbit, millions)
        except NoLinks as why:
            print(f"links cannot be emulated here: {why}")
            return 0
        for other in ("ddp", "plain"):
            ratio = Ratio.of(times["hierarchical"], times[other])
            low, high = ratio.ci95
            print(
                f"{mbit:.0f} Mbit/s between hosts, ranks {where}: hierarchical {ratio.speedup:.2f} of {other}'s step "
                f"(95% {low:.2f} to {high:.2f}; {sorted(times[other])[ROUNDS // 2]:.2f} s)",
                flush=True,
            )
        missed += ratio.speedup >= 1
    return missed


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        number, layout, millions, *files = sys.argv[2:]
        rank_main(int(number), tuple(map(int, layout.split(","))), float(millions), *files)
    raise SystemExit(main(*map(float, sys.argv[1:])))
