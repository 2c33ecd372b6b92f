"""Whether training with changed gradients ends where DDP does: ``python -m tests.benchmarks.convergence_lossy``.

Four ranks, three seeds. ``convergence_lossy 3500``, the default: scikit-learn's digits (1,797 real images), a network
of three layers of as many units (1024: 2.2 million parameters; 3500: 24.8 million), SGD, 1,000 updates; the figure is
the mean of the last 50 losses. ``convergence_lossy fashion``: 24,000 images of Fashion-MNIST, a CNN with batch norms,
Adam, 1,128 updates; the figure is the loss of the 10,000 images of its test part.

The bar is that each figure is within the spread of DDP's three, widened by that spread on either side. Means of
parameters and what is chosen are tried too. Ways named after that are tried beside DDP alone: ``convergence_lossy 3500
int8`` is the bar's, which takes most of an hour.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import train
from deepseek_lab.distributed.worker.choice import LOCAL, WAYS
from deepseek_lab.distributed.worker.hosts import NAME
from tests.distributed.cells import notebook

NUM_RANKS, SEEDS = 4, (0, 1, 2)
FASHION = "fashion"
WIDE = "3500"

DIGITS = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
torch.manual_seed(SEED)
model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                      nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
loader = DataLoader(data, batch_size=8, shuffle=True)
losses, STEPS, SMOOTHING = [], 1000, 0.1
"""
CNN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tests.benchmarks.search_tasks import fashion_parts
train, _, test = fashion_parts(24_000)
torch.manual_seed(SEED)
model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(*train), batch_size=32, shuffle=True)
losses, STEPS, SMOOTHING = [], 1128, 0.0
"""
LOOP = """
while len(losses) < STEPS:
    for x, y in loader:
        if len(losses) == STEPS:
            break
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
"""


def final_loss(ranks: Ranks, way: str, seed: int, task: str) -> float:
    """What a training ends at."""
    names: dict[str, Any] = notebook(
        f"SEED = {seed}\n{CNN}" if task == FASHION else f"SEED, WIDTH = {seed}, {int(task)}\n{DIGITS}"
    )
    uses = {"losses", "STEPS", "SMOOTHING", "loader", "nn", "model", "optimizer"}
    trained = train(ranks, names, LOOP, "cell", uses=uses, binds={"losses"}, seed=seed, way=way)
    assert not trained.failed, trained.answers[0].text
    if task != FASHION:
        return float(sum(names["losses"][-50:]) / 50)
    images, classes = names["test"]
    with torch.no_grad():
        return cross_entropy(names["model"].eval()(images), classes).item()


def main(task: str = WIDE, *only: str) -> int:
    """Measure and print; the number of ways that miss the bar."""
    ways = [way for way in (*WAYS, LOCAL, "auto") if not way.startswith(NAME)]
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    missed = 0
    try:
        found: dict[str, list[float]] = {}
        for way in ("plain", *only) if only else ways:
            for seed in SEEDS:
                found.setdefault(way, []).append(final_loss(ranks, way, seed, task))
                print(f"{way}, seed {seed}: {found[way][-1]:.4f}", flush=True)
    finally:
        ranks.stop()
    low, high = min(found["plain"]), max(found["plain"])
    for way, losses in found.items():
        inside = all(low - (high - low) <= one <= high + (high - low) for one in losses)
        missed += not inside
        words = ", ".join(f"{one:.4f}" for one in losses)
        print(f"{way:11s} {words}  {'' if way == 'plain' else 'met' if inside else 'MISSED'}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
