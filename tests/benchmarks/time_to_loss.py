"""Time to a loss over slow links, way by way, and what is chosen: ``python -m tests.benchmarks.time_to_loss [PART]``.

``wall``: seconds until ``--allow-lossy`` reaches the loss that DDP ends at, over 200 Mbit/s; a network of 24.8 million
parameters, or as wide as the next argument says. Bar: 0.3 of DDP's.
``choice``: 4 links x 2 sizes; bar: the choice made reaches that loss within 10 % of the best way found by trying all.

Four ranks, scikit-learn's digits (1,797 real images), 8 a rank and update; SGD with the rate of a grid (0.03, 0.1, 0.2,
0.4) with which DDP ends lowest. The loss is that of all images without dropout, every 32 updates, not timed.
What a link does not change, the loss after so many updates, is found once for each way for gradients without a limit,
and what an update takes, the median, on each link. Means of parameters, which not every update has, and the choice,
all costs of which count, run to the end on each link; in ``wall`` the choice does, and DDP's time is its updates times
what one takes. Ways have the same two seeds.
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
FEW = 24
LINKS = (None, 1000.0, 200.0, 50.0)
"""The fastest first: ways that never come to the loss there need not be tried again."""
SIZES = (256, 1024)
SEEDS = (0, 1)
GRADIENTS = tuple(way for way in WAYS if not way.startswith(NAME))
"""All that can be taken where every rank is on a host of its own."""
APART = {"local": ("local", None), "local every 8": ("local", EVERY["local"]), "diloco": ("diloco", None)}

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
        way, every = APART.get(way, (way, None))
        options: dict[str, Any] = {"way": way, "every": every, "seed": seed, "save_s": 0}
        trained = train(self._ranks, names, LOOP, "cell", uses=uses, binds=binds, **options)
        assert not trained.failed, trained.answers[0].text
        return names, trained

    def losses(self, way: str, steps: int, seeds: tuple[int, ...]) -> list[float]:
        """By look, means over seeds."""
        runs = [self.run(way, steps, seed)[0]["losses"] for seed in seeds]
        return [statistics.fmean(each) for each in zip(*runs, strict=True)]

    def step_s(self, way: str) -> float:
        """Of an update, on the link as it is."""
        return float(statistics.median(self.run(way, FEW)[0]["seconds"][4:]))

    def seconds_to(self, way: str, goal: float) -> tuple[float | None, list[str]]:
        """Until the loss is at the goal, on the link as it is; and what was told of each seed's way."""
        runs = [self.run(way, int(AT_MOST * STEPS), seed) for seed in SEEDS]
        each = zip(*(names["losses"] for names, _ in runs), strict=True)
        updates = updates_to([statistics.fmean(looks) for looks in each], goal)
        details = [trained.answers[0].details for _, trained in runs]
        told = [f"{one['way']} every {one['every']}" if one["every"] else one["way"] for one in details]
        if updates is None:
            return None, told
        whole, part = int(updates), updates % 1
        taken = [sum(names["seconds"][:whole]) + part * names["seconds"][whole] for names, _ in runs]
        return statistics.fmean(taken), told


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
    losses = {way: trainings.losses(way, int(AT_MOST * STEPS), SEEDS) for way in GRADIENTS}
    goal = goal_of(losses["plain"][: STEPS // LOOKS])
    needed = {way: updates_to(each, goal) for way, each in losses.items()}
    print(f"width {width}: updates to a loss of {goal:.4f}")
    print(
        "  " + ", ".join(f"{way} {'never' if one is None else f'{one:.0f}'}" for way, one in needed.items()),
        flush=True,
    )
    missed, apart = 0, set(APART)
    for mbit in LINKS:
        shape(NUM_RANKS, mbit)
        total = {
            way: updates * trainings.step_s(way) for way, updates in needed.items() if updates is not None
        }
        arrived = {way: trainings.seconds_to(way, goal)[0] for way in APART if way in apart}
        total |= {way: taken_s for way, taken_s in arrived.items() if taken_s is not None}
        apart &= total.keys()
        best = min(total, key=lambda way: total[way])
        ours_s, chosen = trainings.seconds_to("auto", goal)
        ours_s = float("inf") if ours_s is None else ours_s
        ok = ours_s <= 1.1 * total[best]
        missed += not ok
        beside = ", ".join(f"{way} {one:.1f}" for way, one in total.items())
        print(
            f"  {'no limit' if mbit is None else f'{mbit:.0f} Mbit/s'}: {beside} s; chosen {' and '.join(chosen)}: "
            f"{ours_s:.1f} s, {ours_s / total[best]:.2f} of {best}'s ({'met' if ok else 'MISSED'}); of the best of "
            f"gradients {ours_s / min(total[way] for way in GRADIENTS if way in total):.2f}",
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
