"""What ranks cost and stand: ``python -m tests.benchmarks.ranks [start|cell|interrupts|kills|resumptions]``.

Four ranks on this machine. ``start``: from nothing to the first collective; ``cell``: what a cell costs beyond its
work; ``interrupts``: 100 of them at random moments of a loop of collectives; ``kills``: 20 ranks killed at random
moments of one, each named, replaced, and the next cell run; ``resumptions``: 20 killed at random moments of a
training on scikit-learn's digits, whose losses are to be those of the unbroken one. Without a name, all.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import sys
import threading
import time

import psutil

from deepseek_lab.distributed.ranks import Ranks, RanksError
from deepseek_lab.distributed.request import Request
from deepseek_lab.distributed.training import train
from tests.distributed.cells import notebook

NUM_RANKS = 4
REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nx[0].item()"
BUSY = "import torch, torch.distributed as dist\nfor _ in range(400): dist.all_reduce(torch.ones(300_000))"


def run(ranks: Ranks, source: str) -> Request:
    return ranks.ask("run", {"source": source, "file": "cell"})


def works(ranks: Ranks) -> bool:
    answers = run(ranks, REDUCE).answers
    return {one.value for one in answers.values()} == {str(float(sum(range(NUM_RANKS))))}


def start() -> int:
    """Bar: 12 s."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        ranks = Ranks(NUM_RANKS)
        ranks.start()
        assert works(ranks)
        times.append(time.perf_counter() - began)
        ranks.stop()
    print(
        f"start: first collective of {NUM_RANKS} ranks after {', '.join(f'{one:.1f}' for one in times)} s (bar 12)"
    )
    return int(statistics.median(times) > 12)


def cell() -> int:
    """Bar: 30 ms."""
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    times = []
    for _ in range(200):
        began = time.perf_counter()
        run(ranks, "1 + 1")
        times.append(time.perf_counter() - began)
    ranks.stop()
    median = 1000 * statistics.median(times)
    print(f"cell: {median:.1f} ms median, {1000 * sorted(times)[-10]:.1f} ms at 95 % (bar 30)")
    return int(median > 30)


def interrupts() -> int:
    """Bar: the ranks are usable after each, none is replaced, no process is left."""
    chance = random.Random(0)
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    pids = [one.pid for one in ranks.states]
    usable = 0
    for _ in range(100):
        timer = threading.Timer(chance.random(), lambda: os.kill(os.getpid(), signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            timer.start()
            run(ranks, BUSY)
            timer.join()
            time.sleep(0.1)
        timer.join()
        with contextlib.suppress(RanksError):
            usable += works(ranks)
    same = [one.pid for one in ranks.states] == pids
    ranks.stop()
    left = sum(psutil.pid_exists(pid) for pid in pids)
    print(
        f"interrupts: usable after {usable} of 100, {'no rank' if same else 'a rank'} replaced, {left} processes left"
    )
    return int(usable < 100 or not same or left > 0)


def kills() -> int:
    """Bar: each is named, within 5 s, and the ranks go on."""
    chance = random.Random(0)
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    named, usable, slowest, every = 0, 0, 0.0, set()
    for _ in range(20):
        victim = chance.randrange(NUM_RANKS)
        pid = ranks.states[victim].pid
        every |= {one.pid for one in ranks.states}
        died: list[float] = []

        def kill(pid: int = pid, died: list[float] = died) -> None:
            died.append(time.perf_counter())
            os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(0.2 + chance.random(), kill)
        seen = threading.Event()
        timer.start()

        def watch(victim: int = victim, seen: threading.Event = seen, died: list[float] = died) -> None:
            nonlocal slowest
            while ranks.states[victim].state != "dead":
                time.sleep(0.005)
            slowest = max(slowest, time.perf_counter() - died[0])
            seen.set()

        threading.Thread(target=watch, daemon=True).start()
        with contextlib.suppress(RanksError):
            request = run(ranks, BUSY.replace("400", "40_000"))
            named += request.answers[victim].status == "dead"
        timer.join()
        seen.wait(10)
        ranks.restart()
        usable += works(ranks)
    every |= {one.pid for one in ranks.states}
    ranks.stop()
    left = sum(psutil.pid_exists(pid) for pid in every)
    print(
        f"kills: {named} of 20 named, the slowest after {slowest:.2f} s (bar 5), usable after {usable}, {left} left"
    )
    return int(named < 20 or usable < 20 or slowest > 5 or left > 0)


DIGITS = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.8)
loader = DataLoader(data, batch_size=16, shuffle=True)
losses = []
"""
LOOP = """
for epoch in range(60):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    schedule.step()
"""


def resumptions() -> int:
    """Bar: each rank is named and replaced, and no loss is more than 1e-5 from the unbroken training's."""
    chance = random.Random(0)
    ranks = Ranks(NUM_RANKS)
    ranks.start()

    def losses() -> tuple[list[float], float, str]:
        names = notebook(DIGITS)
        began = time.perf_counter()
        uses, binds = {"model", "optimizer", "schedule", "loader", "losses", "nn"}, {"losses"}
        trained = train(ranks, names, LOOP, "cell", uses=uses, binds=binds, seed=0, save_s=0.5)
        assert not trained.failed, trained.answers
        return names["losses"], time.perf_counter() - began, " ".join(trained.notes)

    unbroken, taken_s, _ = losses()
    tries, named, farthest = 0, 0, 0.0
    while tries < 20:
        victim = chance.randrange(NUM_RANKS)
        pid = ranks.states[victim].pid
        timer = threading.Timer(chance.uniform(0.05, 0.9) * taken_s, os.kill, (pid, signal.SIGKILL))
        timer.start()
        broken, _, told = losses()
        if timer.is_alive():  # this time the training was faster
            timer.cancel()
            continue
        tries += 1
        if f"rank {victim} was ended by SIGKILL" in told and "replaced" in told:
            named += 1
        else:
            print(f"resumptions: rank {victim} was ended, and what was told is {told!r}", flush=True)
        assert len(broken) == len(unbroken)
        farthest = max(farthest, *(abs(one - other) for one, other in zip(broken, unbroken, strict=True)))
    ranks.stop()
    print(
        f"resumptions: {named} of 20 named and replaced, {len(unbroken):,} losses each, "
        f"at most {farthest:.1e} from the unbroken training's (bar 1e-5)"
    )
    return int(named < 20 or farthest > 1e-5)


PARTS = {"start": start, "cell": cell, "interrupts": interrupts, "kills": kills, "resumptions": resumptions}

if __name__ == "__main__":
    raise SystemExit(sum(PARTS[name]() for name in sys.argv[1:] or PARTS))
