"""Time to a loss over slow links, way by way, and what is chosen: ``python -m tests.benchmarks.time_to_loss [PART]``.

``wall``: seconds until ``--allow-lossy`` reaches the loss that DDP ends at, over 200 Mbit/s; a network of 24.8 million
parameters, or as wide as the next argument says. Bar: 0.3 of DDP's.
``choice``: 4 links x 2 sizes; bar: the choice made reaches that loss within 10 % of the best way found by trying all.

Four ranks, scikit-learn's digits (1,797 real images), 8 a rank and update; SGD with the rate of a grid (0.03, 0.1, 0.2,
0.4) with which DDP ends lowest. The loss is that of all images without dropout, every 32 updates, not timed.
What a link does not change, the loss after so many updates, is found once for each way without a limit; what an
update takes, on each link. The choice itself runs on each link, and what it costs counts. In ``wall`` it runs to the
end there; DDP's time is its updates times what one takes.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from deepseek_lab.distributed.launchers import Local
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import EVERY, Trained, train
from deepseek_lab.distributed.worker.choice import WAYS
from deepseek_lab.distributed.worker.hosts import NAME
from tests.benchmarks.links import HOST, NoLinks, inside, links, shape
from tests.distributed.cells import notebook

NUM_RANKS, STEPS, AT_MOST = 4, 384, 1.5
LOOKS = 32
FEW, ROUNDS = 24, 4
CHOOSING = 6 * LOOKS
"""Updates in which the choice is made."""
LINKS = (50.0, 200.0, 1000.0, None)
SIZES = (256, 1024)
SEEDS = (0, 1)
TRIED = (*(way for way in WAYS if not way.startswith(NAME)), *EVERY)
"""All that can be taken where every rank is on a host of its own."""

DEFINE = """
import time
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
digits = load_digits()
x_all, y_all = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
data = TensorDataset(x_all, y_all)
torch.manual_seed(SEED)
model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                      nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(data, batch_size=8, shuffle=True)
loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
seconds, losses = [], []
"""
LOOP = """
while len(seconds) < STEPS:
    for x, y in loader:
        began = time.perf_counter()
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        if len(seconds) % LOOKS == 0:
            model.eval()
            with torch.no_grad():
                losses.append(loss_of(model(x_all), y_all).item())
            model.train()
            if losses[-1] < GOAL:
                STEPS = len(seconds)
        if len(seconds) == STEPS:
            break
"""


class Trainings:
    """Trainings on ranks that are joined by links.

    Args:
        ranks: They.
        width: Of the network.
    """

    def __init__(self, ranks: Ranks, width: int) -> None:
        self._ranks, self._width = ranks, width

    def run(self, way: str, steps: int, seed: int = 0, goal: float = 0.0) -> tuple[dict[str, Any], Trained]:
        """Train; gives the notebook's names and what was told."""
        names = notebook(
            f"SEED, WIDTH, STEPS, LOOKS, GOAL = {seed}, {self._width}, {steps}, {LOOKS}, {goal}\n{DEFINE}"
        )
        uses = {name for name in names if not name.startswith("_")}
        binds = {"seconds", "losses", "STEPS"}
        trained = train(
            self._ranks, names, LOOP, "cell", uses=uses, binds=binds, seed=seed, way=way, save_s=0
        )
        assert not trained.failed, trained.answers[0].text
        return names, trained

    def losses(self, way: str, steps: int, seeds: tuple[int, ...]) -> list[float]:
        """By look, means over seeds."""
        runs = [self.run(way, steps, seed)[0]["losses"] for seed in seeds]
        return [statistics.fmean(each) for each in zip(*runs, strict=True)]

    def step_s(self, way: str) -> float:
        """Of an update, on the link as it is; with what ranks do only now and then as its share."""
        every = EVERY.get(way)
        if every is None:
            return float(statistics.median(self.run(way, FEW)[0]["seconds"][4:]))
        seconds: list[float] = self.run(way, ROUNDS * every)[0]["seconds"][every:]
        together = seconds[every - 1 :: every]
        alone = statistics.median(each for at, each in enumerate(seconds, 1) if at % every)
        return alone + (statistics.median(together) - alone) / every


def updates_to(losses: list[float], goal: float) -> float | None:
    """Updates after which the loss is at the goal, between two looks by proportion; None where it never is."""
    before = None
    for look, loss in enumerate(losses, start=1):
        if loss <= goal:
            share = 1.0 if before is None else (before - goal) / (before - loss)
            return LOOKS * (look - 1 + share)
        before = loss
    return None


def goal_of(losses: list[float]) -> float:
    """What a training ends at: the mean of its last looks."""
    return statistics.fmean(losses[-3:])


def wall(ranks: Ranks, width: int) -> int:
    """How long ``--allow-lossy`` takes, of DDP's time."""
    trainings = Trainings(ranks, width)
    shape(NUM_RANKS, None)
    plain = trainings.losses("plain", STEPS, (0,))
    goal = goal_of(plain)
    shape(NUM_RANKS, 200)
    ddp_s = trainings.step_s("plain")
    names, trained = trainings.run("auto", int(AT_MOST * STEPS), goal=goal)
    ours_s, steps = sum(names["seconds"]), len(names["seconds"])
    arrived = names["losses"][-1] < goal
    needed = updates_to(plain, goal) or STEPS
    ratio = ours_s / (needed * ddp_s)
    ok = arrived and ratio <= 0.3
    print(
        f"width {width}, 200 Mbit/s: DDP {needed:.0f} updates of {ddp_s:.3f} s to a loss of {goal:.4f}; "
        f"ours {steps} updates, {ours_s:.1f} s{'' if arrived else ', and not there'}: {ratio:.3f} "
        f"({'met' if ok else 'MISSED'})"
    )
    print(f"  {'; '.join(trained.notes)}", flush=True)
    return not ok


def choice(ranks: Ranks, width: int) -> int:
    """The way chosen on each link beside all of them; the number of links on which the bar is missed."""
    trainings = Trainings(ranks, width)
    shape(NUM_RANKS, None)
    losses = {way: trainings.losses(way, int(AT_MOST * STEPS), SEEDS) for way in TRIED}
    goal = goal_of(losses["plain"][: STEPS // LOOKS])
    needed = {way: updates_to(each, goal) for way, each in losses.items()}
    print(f"width {width}: updates to a loss of {goal:.4f}")
    print(
        "  " + ", ".join(f"{way} {'never' if one is None else f'{one:.0f}'}" for way, one in needed.items())
    )
    missed = 0
    for mbit in LINKS:
        shape(NUM_RANKS, mbit)
        step_s = {way: trainings.step_s(way) for way in TRIED}
        total = {way: updates * step_s[way] for way, updates in needed.items() if updates is not None}
        best = min(total, key=lambda way: total[way])
        names, trained = trainings.run("auto", CHOOSING)
        details = trained.answers[0].details
        assert details["step_s"], "it was not chosen yet"
        chosen = details["way"]
        updates = needed[chosen]
        ours_s = sum(names["seconds"]) + (
            (updates - CHOOSING) * step_s[chosen] if updates is not None else float("inf")
        )
        ok = ours_s <= 1.1 * total[best]
        missed += not ok
        first = min(total.keys() - EVERY.keys(), key=lambda way: total[way])
        beside = ", ".join(f"{way} {one:.1f}" for way, one in total.items())
        print(
            f"  {'no limit' if mbit is None else f'{mbit:.0f} Mbit/s'}: {beside} s; chosen {chosen}: {ours_s:.1f} s, "
            f"{ours_s / total[best]:.2f} of {best}'s ({'met' if ok else 'MISSED'}); of those that send gradients "
            f"{ours_s / total[first]:.2f} of {first}'s",
            flush=True,
        )
    return missed


def main(words: list[str]) -> int:
    """Measure and print; the number of bars that are missed."""
    part, widths = (words[0] if words else ""), [int(word) for word in words[1:]]
    missed = 0
    try:
        with links(NUM_RANKS, None):
            ranks = Ranks(NUM_RANKS, launcher=Local(HOST, "eth0", lambda rank: inside(rank, [])))
            ranks.start()
            try:
                if part in {"", "choice"}:
                    missed += sum(choice(ranks, width) for width in widths or SIZES)
                if part in {"", "wall"}:
                    missed += sum(wall(ranks, width) for width in widths or (3500,))
            finally:
                ranks.stop()
    except NoLinks as why:
        print(f"links cannot be emulated here: {why}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
