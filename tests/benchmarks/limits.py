"""How good the limits of a training are: ``python -m tests.benchmarks.limits [mlp|norm|convolutions|memory ...]``.

Three kinds of models with three optimizers each, on scanned digits: the range that ``limits`` suggests, and the loss of
short trainings with constant learning rates in and beside it. ``memory``: the largest safe batch, trained for longer in
a process of its own.
"""

from __future__ import annotations

import functools
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepseek_lab.base.limits import LimitsReport, RateRange, number
from deepseek_lab.hpo.limits.measure import Measurement, Options, sealed, task_of

LOOP = """
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
STEPS, LAST = 150, 40
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    ),
    "norm": lambda: nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10)),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    ),
}
OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "SGD": lambda parameters, lr: torch.optim.SGD(parameters, lr),
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "AdamW": lambda parameters, lr: torch.optim.AdamW(parameters, lr),
}


def digits() -> TensorDataset:
    """1,797 scanned digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y))


def measured(names: dict[str, Any], **options: Any) -> LimitsReport:
    content = sealed(names, list(names))
    try:
        return Measurement(task_of(LOOP, "<cell>"), content, Options(**options)).run()
    finally:
        content.close()


def batches(data: TensorDataset, seed: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from DataLoader(data, 32, shuffle=True, drop_last=True, generator=generator)


def trained(model: str, optimizer: str, data: TensorDataset, lr: float) -> float:
    """Mean loss of the last steps, over two seeds."""
    found = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        made = MODELS[model]()
        steps, losses = OPTIMIZERS[optimizer](made.parameters(), lr), []
        for _, (x, y) in zip(range(STEPS), batches(data, seed), strict=False):
            loss = nn.functional.cross_entropy(made(x), y)
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
        found.append(statistics.fmean(losses[-LAST:]))
    return statistics.fmean(found)


def rates(model: str) -> None:
    data, grid = digits(), [10 ** (power / 2) for power in range(-8, 3)]
    print(f"{'':24}{'range':>14}  {'try':>5}   loss there   steepest   best of {len(grid)} constant rates")
    held = 0
    for optimizer in OPTIMIZERS:
        torch.manual_seed(0)
        made = MODELS[model]()
        names = {
            "model": made,
            "optimizer": OPTIMIZERS[optimizer](made.parameters(), 1e-3),
            "loader": DataLoader(data, 32, shuffle=True),
            "nn": nn,
        }
        report = measured(names, limit_bytes=1 << 30, time_s=60.0, timed_s=0.05)
        if report.rates is None:
            print(f"{model}, {optimizer}: {report.rates_reason}")
        else:
            loss_at = functools.partial(trained, model, optimizer, data)
            held += _tell(f"{model}, {optimizer}", report.rates, loss_at, grid)
    print(f"the best constant rate, to half a decade, lay in the range in {held} of {len(OPTIMIZERS)}")


def _tell(name: str, found: RateRange, loss_at: Callable[[float], float], grid: list[float]) -> bool:
    losses = {lr: loss_at(lr) for lr in grid}
    best = min(losses, key=lambda lr: losses[lr] if math.isfinite(losses[lr]) else math.inf)
    there, steepest = loss_at(found.value), loss_at(found.steepest)
    span = f"{number(found.low)} .. {number(found.high)}"
    beside = f"{losses[best]:.3f} at {best:.0e}"
    print(f"{name:24}{span:>14}  {number(found.value):>5}   {there:10.3f}   {steepest:8.3f}   {beside}")
    half = 10**0.25
    return found.low / half <= best <= found.high * half


_LONG = """
import resource, sys, torch
from tests.benchmarks.limits import wide
from torch import nn
names = wide(int(sys.argv[1]))
steps = 0
while steps < 30:
    for x, y in names["loader"]:
        names["optimizer"].zero_grad()
        nn.functional.cross_entropy(names["model"](x), y).backward()
        names["optimizer"].step()
        steps += 1
        if steps == 30: break
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def wide(batch: int) -> dict[str, Any]:
    """A model whose activations take most of the memory."""
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.LayerNorm(1024), nn.GELU()) for _ in range(6))
    model = nn.Sequential(nn.Linear(64, 1024), nn.GELU(), *blocks, nn.Linear(1024, 10))
    data = TensorDataset(torch.randn(20_000, 64), torch.randint(10, (20_000,)))
    loader = DataLoader(data, batch, shuffle=True, drop_last=True)
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": loader,
        "nn": nn,
    }


def memory() -> None:
    for limit in (450 << 20, 600 << 20):
        report = measured(wide(32), limit_bytes=limit, time_s=120.0, timed_s=0.2)
        largest = report.largest
        assert largest is not None
        assert largest.peak_bytes is not None
        done = subprocess.run(
            [sys.executable, "-c", _LONG, str(largest.size)], check=True, capture_output=True, text=True
        )
        held = int(done.stdout)
        print(
            f"limit {limit >> 20:,} MiB: batch {largest.size:,} safe, measured {largest.peak_bytes >> 20:,} MiB; "
            f"30 steps in a process of their own held {held >> 20:,} MiB ({held / limit:.0%} of the limit); "
            f"{len(report.rows)} sizes in {report.seconds:.0f} s with learning rates"
        )


if __name__ == "__main__":
    for part in sys.argv[1:] or [*MODELS, "memory"]:
        if part == "memory":
            memory()
        else:
            rates(part)
