"""What a profile costs and how true it is: ``python -m tests.benchmarks.profile [SECONDS]``.

Bars: training steps at most 5 % slower under ``%%deepseek profile``, at least 95 % of the time on a line, and the same
five largest operators as ``torch.profiler``'s. Steps with and without a profile alternate in one process.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

from deepseek_lab.measure.profiler import Session
from deepseek_lab.measure.race import Ratio

ROUNDS = 9
MAX_SLOWER, MIN_ATTRIBUTED = 1.05, 0.95


def resnet() -> Steps:
    """ResNet-50, batch 8, 128 px."""
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=10))
    x, y = torch.randn(8, 3, 128, 128), torch.randint(10, (8,))
    return _steps(model, lambda: nn.functional.cross_entropy(model(x).logits, y), x=x, y=y)


def gpt2() -> Steps:
    """A GPT-2 of 4 layers and 256 features, batch 4, 128 tokens: many small operators."""
    config = transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=5000)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(5000, (4, 128))
    return _steps(model, lambda: model(ids, labels=ids).loss, ids=ids)


def small() -> Steps:
    """Three small layers: nearly all of a step is Python and PyTorch's own overhead."""
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y = torch.randn(32, 64), torch.randint(10, (32,))
    return _steps(model, lambda: nn.functional.cross_entropy(model(x), y), x=x, y=y)


@dataclasses.dataclass
class Steps:
    """Training steps of one model; calling it takes one."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_of: Callable[[], Tensor]
    names: dict[str, object]
    """What a notebook would hold."""

    def __call__(self) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        loss = self.loss_of()
        loss.backward()
        self.optimizer.step()

    def states(self) -> list[Tensor]:
        """What the optimiser holds."""
        kept = self.optimizer.state.values()
        return [one for state in kept for one in state.values() if isinstance(one, Tensor)]


def _steps(model: nn.Module, loss_of: Callable[[], Tensor], **tensors: Tensor) -> Steps:
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()
    return Steps(model, optimizer, loss_of, {"model": model, "optimizer": optimizer, **tensors})


NEAR = 0.01
"""Operators whose shares differ by less are equally large: which of them is fifth is chance."""


def shares_of(step: Callable[[], None], num_steps: int) -> dict[str, float]:
    """PyTorch's own shares by time of their own."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as made:
        for _ in range(num_steps):
            step()
    events = [event for event in made.key_averages() if event.key.startswith("aten::")]
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key.removeprefix("aten::"): event.self_cpu_time_total / total for event in events}


def largest(shares: dict[str, float]) -> list[str]:
    """The five largest."""
    return sorted(shares, key=lambda name: -shares[name])[:5]


def main(seconds: float) -> int:
    """Print one row a model; the number of bars that were missed."""
    missed = 0
    Session(__file__, {}).open().stop()  # PyTorch's profiler takes its time when it is first used
    for build in (resnet, gpt2, small):
        torch.manual_seed(0)
        step = build()
        start = time.perf_counter()
        for _ in range(3):
            step()
        num_steps = max(2, int(seconds / ((time.perf_counter() - start) / 3)))

        def cell(step: Callable[[], None] = step, num_steps: int = num_steps) -> float:
            begun = time.perf_counter()
            for _ in range(num_steps):
                step()
            return time.perf_counter() - begun

        cell()
        plain, watched, reading, attributed = [], [], [], []
        costs = None
        for number in range(ROUNDS):
            for profiled in (False, True) if number % 2 else (True, False):
                if not profiled:
                    plain.append(cell())
                    continue
                session = Session(__file__, {})
                with session:
                    watched.append(cell())
                begun = time.perf_counter()
                costs = session.costs()
                reading.append(time.perf_counter() - begun)
                attributed.append(costs.attributed)
        assert costs is not None
        ratio = Ratio.of(watched, plain)
        ours = {one.name: one.self_s / costs.operators_s for one in costs.operators}
        theirs = shares_of(step, min(num_steps, 20))
        fifth = theirs[largest(theirs)[-1]]
        others = [name for name in largest(ours) if theirs.get(name, 0.0) < fifth - NEAR]
        share = statistics.median(attributed)
        same = 5 - len(others)
        low, high = ratio.ci95
        print(
            f"{build.__name__:8} {num_steps:5d} steps in {statistics.median(plain):5.2f} s: "
            f"{ratio.speedup - 1:+.1%} slower (95% {low - 1:+.1%} to {high - 1:+.1%}), {share:.1%} on a line, "
            f"{same} of the 5 largest operators the same, {costs.recorded_s:.2f} s recorded, "
            f"read in {statistics.median(reading):.2f} s",
            flush=True,
        )
        if same < 5:
            print(f"         ours {largest(ours)}\n         PyTorch's {largest(theirs)}")
        missed += (ratio.speedup > MAX_SLOWER) + (share < MIN_ATTRIBUTED) + (same < 5)
    print(f"{missed} bars missed" if missed else "every bar held")
    return missed


if __name__ == "__main__":
    raise SystemExit(min(1, main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0)))
