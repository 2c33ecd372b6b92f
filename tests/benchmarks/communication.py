"""Communication time of a training step against DDP over emulated links. ``python -m tests.benchmarks.communication``.

Arguments: Mbit/s of the links, by default ``200 1000``. Four ranks, 25.5 million parameters in layers of the sizes of a
ResNet-50, tiny compute. What counts is a step minus the same step without communication; ways take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.benchmarks.links import NoLinks, inside, links

NUM_RANKS = 4
ROUNDS = 7
WAYS = ("ddp", "plain", "bf16", "int8")


def rank_main(rank: int, store: str, out: str) -> None:
    """One rank: every way's steps in turn, and those without communication."""
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from deepseek_lab.distributed.worker.exchange import Exchange

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, NUM_RANKS), rank=rank, world_size=NUM_RANKS)
    torch.manual_seed(0)
    sizes = [2048 * 1000, *[512 * 512 * 9] * 3, *[1024 * 512] * 12, *[256 * 256 * 9] * 6, *[64 * 64 * 9] * 9]
    sizes.append(25_500_000 - sum(sizes))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(nn.Parameter(torch.randn(size) * 0.01) for size in sizes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(((weight * x).sum() for weight in self.weights), torch.zeros(()))

    exchange = Exchange()
    made = {}
    for name in WAYS:
        net = DistributedDataParallel(Net())
        if name != "ddp":
            exchange.install(net)
        made[name] = net

    def step(net: nn.Module, name: str) -> float:
        dist.barrier()
        began = time.perf_counter()
        if name != "ddp":
            exchange.way = name
        net(torch.tensor(float(rank + 1))).backward()
        taken = time.perf_counter() - began
        net.zero_grad(set_to_none=False)
        return taken

    times: dict[str, list[float]] = {name: [] for name in [*WAYS, "compute"]}
    for turn in range(ROUNDS + 2):  # buckets are made anew after the first
        for name in WAYS:
            taken = step(made[name], name)
            if turn > 1:
                times[name].append(taken)
        with made["ddp"].no_sync():
            taken = step(made["ddp"], "ddp")
        if turn > 1:
            times["compute"].append(taken)
    if rank == 0:
        Path(out).write_text(json.dumps(times))
    dist.barrier()
    os._exit(0)


def measure(mbit: float | None) -> dict[str, list[float]]:
    """Seconds of steps by way, as rank 0 sees them."""
    with tempfile.TemporaryDirectory() as folder, links(NUM_RANKS, mbit):
        store, out = f"{folder}/store", f"{folder}/times"
        words = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.communication", "rank"]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(inside(rank, [*words, str(rank), store, out]), env=environment)
            for rank in range(NUM_RANKS)
        ]
        for process in processes:
            process.wait()
        if any(process.returncode for process in processes):
            raise RuntimeError("a rank failed")
        times: dict[str, list[float]] = json.loads(Path(out).read_text())
        return times


def main(speeds: list[float]) -> int:
    """Measure and print; the number of bars that are missed."""
    missed = 0
    for mbit in speeds:
        try:
            times = measure(mbit)
        except NoLinks as why:
            print(f"links cannot be emulated here: {why}")
            return 0
        compute = statistics.median(times["compute"])
        ddp = statistics.median(times["ddp"]) - compute
        print(f"{mbit:.0f} Mbit/s: compute {compute:.3f} s, DDP's communication {ddp:.3f} s")
        for name in WAYS[1:]:
            mine = [
                1 - (one - compute) / (other - compute)
                for one, other in zip(times[name], times["ddp"], strict=True)
            ]
            print(f"  {name:6s} {statistics.median(mine):+.1%} less ({min(mine):.1%} to {max(mine):.1%})")
            if name == "int8":
                bar = 0.60 if mbit <= 200 else 0.45
                missed += statistics.median(mine) < bar
                print(f"  bar {bar:.0%}: {'met' if statistics.median(mine) >= bar else 'MISSED'}")
    return missed


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank_main(int(sys.argv[2]), *sys.argv[3:])
    raise SystemExit(main([float(word) for word in sys.argv[1:]] or [200.0, 1000.0]))
