"""What the inspector costs, what it finds, and how soon: ``python -m tests.benchmarks.inspector [PART ...]``.

``cost``: training steps at most 5 % slower under ``%%deepseek inspect``; cells with and without it alternate in one
process. ``found``: 30 planted faults (10 kinds in 3 models on real data), at least 28 found and put on the right
module, and no alarm in 10 sound trainings. ``anomaly``: the time from the start of a loop to the answer, beside
autograd's anomaly mode.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch
import transformers
from torch import nn

from deepseek_lab.inspector.api import inspect
from deepseek_lab.measure.race import Ratio
from tests.benchmarks.profile import gpt2, small
from tests.inspector import data, healthy, planted
from tests.inspector.models import LSTM

ROUNDS = 11
MAX_SLOWER, MIN_FOUND = 1.05, 28


def lstm() -> Callable[[], None]:
    """An LSTM of 256 features over 64 letters, batch 16."""
    model = LSTM(data.text()[1], 256)
    return _loop(model, data.sentences(16, 64))


def resnet() -> Callable[[], None]:
    """ResNet-18, batch 8, 96 px."""
    config = transformers.ResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        embedding_size=64,
        num_labels=10,
    )
    model = transformers.ResNetForImageClassification(config)
    x, y = torch.randn(8, 3, 96, 96), torch.randint(10, (8,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).logits, y).backward()
        optimizer.step()

    return step


def vit() -> Callable[[], None]:
    """A small vision transformer."""
    config = transformers.ViTConfig(
        image_size=64,
        patch_size=8,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        num_labels=10,
    )
    model = transformers.ViTForImageClassification(config)
    x, y = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).logits, y).backward()
        optimizer.step()

    return step


def _loop(model: nn.Module, batches: data.Batches) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        data.over_letters(model(x), y).backward()
        optimizer.step()

    return step


def cost(seconds: float = 6.0) -> int:
    """One row a model; the number of models for which the bar is missed."""
    missed = 0
    for build in (resnet, gpt2, vit, lstm, small):
        torch.manual_seed(0)
        step = build()
        start = time.perf_counter()
        for _ in range(5):
            step()
        num_steps = max(10, int(seconds / ((time.perf_counter() - start) / 5)))

        def cell(step: Callable[[], None] = step, num_steps: int = num_steps) -> float:
            begun = time.perf_counter()
            for _ in range(num_steps):
                step()
            return time.perf_counter() - begun

        plain, watched, shares, samples = [], [], [], []
        for number in range(ROUNDS):
            for is_watched in (False, True) if number % 2 else (True, False):
                if not is_watched:
                    plain.append(cell())
                    continue
                seen = inspect(found=lambda finding: None)
                with seen:
                    watched.append(cell())
                shares.append(seen.report.spent_s / seen.report.wall_s)
                samples.append(seen.report.num_samples)
        ratio = Ratio.of(watched, plain)
        low, high = ratio.ci95
        print(
            f"{build.__name__:8} {num_steps:6d} steps in {statistics.median(plain):6.2f} s: {ratio.speedup - 1:+.1%} "
            f"slower (95% {low - 1:+.1%} to {high - 1:+.1%}), {statistics.median(samples):.0f} steps looked at, which "
            f"took {statistics.median(shares):.1%} by its own clock",
            flush=True,
        )
        missed += ratio.speedup > MAX_SLOWER
    return missed


def found() -> int:
    """Planted faults and sound trainings at the default sampling."""
    num_found = 0
    for one, seen in planted.run(planted.PLANTED):
        is_found = one.is_found(seen)
        num_found += is_found
        said = next((f for f in seen.findings if f.kind in one.kinds), None)
        words = f"{said.kind} at {said.module} since step {said.since}" if said else "nothing of the kind"
        print(f"{'found ' if is_found else 'MISSED'} {one.name}: {words}", flush=True)
    alarms = 0
    for name, make in healthy.HEALTHY.items():
        torch.manual_seed(0)
        findings = make().inspected().findings
        alarms += bool(findings)
        print(
            f"{'ALARM ' if findings else 'quiet '} {name}" + "".join(f"; {f.text}" for f in findings),
            flush=True,
        )
    print(
        f"{num_found} of {len(planted.PLANTED)} found (bar {MIN_FOUND}), {alarms} alarms in {len(healthy.HEALTHY)}"
    )
    return (num_found < MIN_FOUND) + (alarms > 0)


def _until_answer(make: Callable[[], planted.Training], anomaly: bool) -> tuple[float, str]:
    """Seconds until the loop's fault is named, and in what words; the loop ends there."""
    torch.manual_seed(0)
    training = make()
    training.num_steps = 2000

    class Answered(Exception):
        pass

    answer: list[str] = []
    if anomaly:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("always")
            try:
                training.run()
            except RuntimeError as error:
                forward = [line for one in caught for line in str(one.message).splitlines() if "File" in line]
                own = [line.strip() for line in forward if "tests/inspector" in line]
                return time.perf_counter() - start, f"{error}; forward: {own[-1] if own else 'not told'}"
        return time.perf_counter() - start, "nothing: no backward pass gave a NaN"

    def tell(finding: object) -> None:
        if getattr(finding, "kind", "") == "nonfinite":
            answer.append(f"{finding.text}; {finding.evidence}")  # type: ignore[attr-defined]

    before = training.before_step

    def stop(step: int) -> None:
        if answer:
            raise Answered
        before(step)

    training.before_step = stop
    start = time.perf_counter()
    try:
        with inspect(found=tell, namespace={"model": training.model}):
            training.run()
    except Answered:
        pass
    return time.perf_counter() - start, answer[0] if answer else "nothing"


def anomaly() -> int:
    """Side by side on the planted faults that end in NaN, each once late in a loop."""
    for one in planted.PLANTED:
        if "nonfinite" not in one.kinds:
            continue
        ours, theirs = _until_answer(one.make, False), _until_answer(one.make, True)
        print(one.name)
        print(f"  inspect      {ours[0]:7.2f} s  {ours[1]}")
        print(f"  anomaly mode {theirs[0]:7.2f} s  {_short(theirs[1])}")
    return 0


def _short(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:400]


def main(names: list[str]) -> int:
    """Run the named parts, or all."""
    parts = {"cost": cost, "found": found, "anomaly": anomaly}
    for name in names:
        if name not in parts:
            print(f"not known: {name}; there are {', '.join(parts)}", file=sys.stderr)
            return 2
    try:
        return min(1, sum(parts[name]() for name in names or parts))
    except Exception:
        traceback.print_exc()
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
