"""Whether training with changed gradients ends where DDP does: ``python -m tests.benchmarks.convergence_lossy``.

Four ranks, scikit-learn's digits (1,797 real images), a network of three layers of as many units as the argument says
(1024: 2.2 million parameters; 3500, the default: 24.8 million), 1,000 steps, three seeds. The figure is the mean of
the last 50 losses; the bar, that each is within the spread of DDP's three, widened by that spread on either side.
Means of parameters and what is chosen are tried too. Ways named after the number of units are tried beside DDP alone:
``convergence_lossy 3500 int8`` is the bar's, which takes most of an hour.
"""

from __future__ import annotations

import sys
from typing import Any

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import train
from deepseek_lab.distributed.worker.choice import LOCAL, WAYS
from deepseek_lab.distributed.worker.hosts import NAME
from tests.distributed.cells import notebook

NUM_RANKS, STEPS, SEEDS = 4, 1000, (0, 1, 2)

DEFINE = """
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
losses = []
"""
LOOP = """
while len(losses) < STEPS:
    for x, y in loader:
        if len(losses) == STEPS:
            break
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
"""


def final_loss(ranks: Ranks, way: str, seed: int, width: int) -> float:
    """Mean of the last 50 losses."""
    names: dict[str, Any] = notebook(f"SEED, WIDTH, STEPS = {seed}, {width}, {STEPS}\n{DEFINE}")
    uses = {"losses", "STEPS", "loader", "nn", "model", "optimizer"}
    trained = train(ranks, names, LOOP, "cell", uses=uses, binds={"losses"}, seed=seed, way=way)
    assert not trained.failed, trained.answers[0].text
    return float(sum(names["losses"][-50:]) / 50)


def main(width: int, *only: str) -> int:
    """Measure and print; the number of ways that miss the bar."""
    ways = [way for way in (*WAYS, LOCAL, "auto") if not way.startswith(NAME)]
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    missed = 0
    try:
        found: dict[str, list[float]] = {}
        for way in ("plain", *only) if only else ways:
            for seed in SEEDS:
                found.setdefault(way, []).append(final_loss(ranks, way, seed, width))
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
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3500, *sys.argv[2:]))
