"""What it costs a rank to remember its operations: ``python -m tests.benchmarks.flight``.

Bar: 1 % of a training step of 20 ms with 30 collectives, which is ten buckets that go as int8 codes. Processor time of
what is added to a collective and to a message, where PyTorch's own ring is there with and without; of that ring, from a
process in which it is off; and of telling all of it, which happens where ranks hang or somebody asks.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist

STEP_S, NUM_COLLECTIVES = 0.020, 30
ROUNDS, COUNT = 15, 1000


def collectives_s() -> float:
    """Processor seconds of a collective of one rank, all threads."""
    x = torch.ones(8)
    began_s = time.process_time()
    for _ in range(COUNT):
        dist.all_reduce(x)
    return (time.process_time() - began_s) / COUNT


def added_s() -> float:
    """Processor seconds that are added to a collective, measured in turns; says what telling everything takes."""
    from deepseek_lab.distributed.worker.flight import Flight

    plain = {name: vars(dist.ProcessGroup).get(name) for name in dir(dist.ProcessGroup)}
    wait = dist.Work.wait
    flight = Flight()
    flight.install()
    watched = {name: vars(dist.ProcessGroup).get(name) for name in plain}
    watched_wait = dist.Work.wait
    changed = [name for name, one in watched.items() if one is not plain[name]]

    def use(methods: dict[str, object], waits: object) -> None:
        for name in changed:
            setattr(dist.ProcessGroup, name, methods[name])
        dist.Work.wait = waits  # type: ignore[method-assign,assignment]

    differences = []
    for number in range(ROUNDS):
        times = {}
        for watches in (False, True) if number % 2 else (True, False):
            use(watched if watches else plain, watched_wait if watches else wait)
            times[watches] = collectives_s()
        differences.append(times[True] - times[False])
    began_s = time.process_time()
    operations, _ = flight.told(10_000)
    print(f"{len(operations):,} operations are told in {1e3 * (time.process_time() - began_s):.0f} ms")
    return statistics.median(differences)


def main() -> int:
    """Print; 1 where the bar was missed."""
    with tempfile.NamedTemporaryFile() as file:
        os.environ["OMP_NUM_THREADS"] = "1"
        dist.init_process_group("gloo", store=dist.FileStore(file.name, 1), rank=0, world_size=1)
        if sys.argv[1:] == ["ring"]:
            collectives_s()
            print(statistics.median(collectives_s() for _ in range(ROUNDS)))
            os._exit(0)
        ours_s = added_s()
        ring_s = _ring_s("2000") - _ring_s("0")
    share = NUM_COLLECTIVES * ours_s / STEP_S
    print(
        f"added: {1e6 * ours_s:.1f} us a collective, {share:.2%} of a step of 20 ms with {NUM_COLLECTIVES}; PyTorch's "
        f"own ring, on by itself: {1e6 * ring_s:.1f} us"
    )
    return int(share > 0.01)


def _ring_s(size: str) -> float:
    words = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.flight", "ring"]
    environment = {**os.environ, "TORCH_FR_BUFFER_SIZE": size}
    return float(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
