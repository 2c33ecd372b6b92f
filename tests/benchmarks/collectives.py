"""What of a link collectives reach, PyTorch's and ours: ``python -m tests.benchmarks.collectives``.

All-to-all, all-gather and reduce-scatter. Arguments: Mbit/s of the links, by default ``200 1000 4000``. Two and four
ranks, each in a network namespace; messages as large as a bucket of 25 MB becomes as int8 codes and in bfloat16, four
of them in a row, in one thread and in two at a time. Figures are bytes sent, headers of TCP and IP with them, by what
the link sends in the same time; medians of five that take turns. The exit status is the number of settings in which
ours take longer than PyTorch's.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import torch

from tests.benchmarks.links import NoLinks, links, shape
from tests.benchmarks.scaling import Crew

SIZES = (2, 4)
BYTES = (6_656_000, 13_107_200)
IN_A_ROW, ROUNDS = 4, 5
FRAME, PAYLOAD = 1514, 1448
KINDS = ("all-to-all", "all-gather", "reduce-scatter")


def rank_main(rank: int, num_ranks: int, store: str) -> None:
    """One rank: does what it reads, a line of JSON a time, and writes the seconds."""
    import torch.distributed as dist

    from deepseek_lab.distributed.worker import collectives

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, num_ranks), rank=rank, world_size=num_ranks)
    groups = [dist.new_group() for _ in range(2)]

    def calls(kind: str, whose: str, num_bytes: int, group: Any) -> None:
        sent, came = (torch.zeros(num_ranks, num_bytes // num_ranks // 4) for _ in range(2))
        known = {
            ("ours", "all-to-all"): lambda: collectives.all_to_all(came, sent, group),
            ("PyTorch", "all-to-all"): lambda: dist.all_to_all_single(came, sent, group=group),
            ("ours", "all-gather"): lambda: collectives.all_gather(came, sent[0], group),
            ("PyTorch", "all-gather"): lambda: collectives.gather(came.view(-1), sent[0], group=group),
            ("ours", "reduce-scatter"): lambda: collectives.reduce_scatter(came[0], sent, group),
            ("PyTorch", "reduce-scatter"): lambda: dist.reduce_scatter_tensor(
                came[0], sent.view(-1), group=group
            ),
        }
        for _ in range(IN_A_ROW):
            known[whose, kind]()

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        kind, whose, num_bytes, num_threads = json.loads(line)
        if whose == "link":
            collectives.try_again()
            print("0", flush=True)
            continue
        threads = [
            threading.Thread(target=calls, args=(kind, whose, num_bytes, one)) for one in groups[:num_threads]
        ]
        time.sleep(0.2)  # shapers have filled up
        dist.barrier()
        began = time.perf_counter()
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        print(json.dumps(time.perf_counter() - began), flush=True)
    os._exit(0)


def main(speeds: list[float]) -> int:
    """Measure and print; the number of settings in which ours take longer."""
    slower = 0
    try:
        with tempfile.TemporaryDirectory() as folder, links(max(SIZES), None):
            for num_ranks in SIZES:
                crew = Crew(num_ranks, folder, "tests.benchmarks.collectives")
                try:
                    for mbit in speeds:
                        shape(max(SIZES), mbit)
                        slower += sum(compared(crew, mbit, kind) for kind in KINDS)
                finally:
                    crew.close()
    except NoLinks as why:
        print(f"links cannot be emulated here: {why}")
    return slower


def compared(crew: Crew, mbit: float, kind: str) -> int:
    """Print a line for each size and number of threads; in how many ours take longer."""
    num, slower = crew.num_ranks, 0
    for num_bytes in BYTES:
        for num_threads in (1, 2):
            crew.ask(kind, "link", 0, 0)
            crew.ask(kind, "ours", num_bytes, num_threads)  # tries what is faster
            words = {whose: (kind, whose, num_bytes, num_threads) for whose in ("PyTorch", "ours")}
            taken: dict[str, list[float]] = {whose: [] for whose in words}
            for _ in range(ROUNDS):
                for whose, each in words.items():
                    taken[whose].append(statistics.mean(crew.ask(*each)))
            sent = IN_A_ROW * num_threads * num_bytes * (num - 1) / num * FRAME / PAYLOAD
            reached = {
                whose: sent / (mbit * 1e6 / 8) / statistics.median(each) for whose, each in taken.items()
            }
            slower += reached["ours"] < reached["PyTorch"]
            shown = ", ".join(f"{whose} {one:.0%}" for whose, one in reached.items())
            threads = f"{num_threads} thread{'s' if num_threads > 1 else ''}"
            print(
                f"{num} ranks, {mbit:.0f} Mbit/s, {kind} of {num_bytes / 1e6:.1f} MB, {threads}: {shown}",
                flush=True,
            )
    return slower


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank_main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    raise SystemExit(main([float(word) for word in sys.argv[1:]] or [200.0, 1000.0, 4000.0]))
