"""Training steps: ``python -m tests.benchmarks.training [resnet50 | float32 | convergence]``.

``resnet50``: ``%%deepseek optimize --precision bf16`` around a loop that trains ResNet-50, against float32 in eager
mode and against every combination of channels-last, autocast, ``torch.compile`` and the fused optimiser made by hand.
Bars: 1.67 times eager, and no slower than the best of those. ``float32``: six models in their own precision, none
slower than 0.97 of eager, none diverging. ``convergence``: 200 steps on real images from three seeds in float32 and in
what was chosen with bf16; bar: the last losses lie within the spread of the seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import torch
import transformers
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.measure.race import Ratio

ROUNDS = 15
FASTER, OF_THE_BEST, NOT_SLOWER = 1.67, 1.0, 0.97
SETTLED_S, REST_S = 900.0, 4.0


def resnet() -> nn.Module:
    """ResNet-50 for ten classes."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=10))


def images() -> tuple[Tensor, Tensor]:
    """Scanned digits of scikit-learn, 1,797 of them, as RGB of 128 by 128."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return small, torch.tensor(found.target)


def enlarged(small: Tensor, size: int = 128) -> Tensor:
    """A batch of digits as images."""
    return (
        nn.functional.interpolate(small, size=(size, size), mode="bilinear")
        .expand(-1, 3, -1, -1)
        .contiguous()
    )


def batches(size: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images without an end."""
    small, labels = images()
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(small), generator=generator)
        for chosen in order.split(size):
            if len(chosen) == size:
                yield enlarged(small[chosen]), labels[chosen]


@dataclasses.dataclass
class Loop:
    """A training loop that takes one step at a time."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_of: Callable[[], Tensor]

    def step(self) -> float:
        """One step; its loss."""
        self.optimizer.zero_grad()
        loss = self.loss_of()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def raced(loops: dict[str, Callable[[], object]], base: str, rounds: int = ROUNDS) -> dict[str, Ratio]:
    """Interleaved steps of all loops, each timed after one that is not."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name in loops if number % 2 == 0 else reversed(list(loops)):
            loops[name]()
            start = time.perf_counter()
            loops[name]()
            times[name].append(time.perf_counter() - start)
    return {name: Ratio.of(times[base], times[name]) for name in loops}


def settle(model: nn.Module, step: Callable[[], object], **options: object) -> deepseek_lab.Optimized:
    """Train under the engine until it has decided, with rests: what is built is built while nobody else computes."""
    fast = deepseek_lab.optimize(model, **options)
    until = time.monotonic() + SETTLED_S
    while time.monotonic() < until:
        step()
        lanes = [lane for one in fast.run.dispatchers.values() for lane in one.lanes.values()]
        if any(lane.training is not None and lane.training.phase in ("kept", "eager") for lane in lanes):
            break
        if lanes and all(lane.state == "eager" for lane in lanes):
            break
        if any(lane.training is not None and lane.training.phase == "searching" for lane in lanes):
            time.sleep(REST_S)
    return fast


def by_hand(
    model: nn.Module, x: Tensor, y: Tensor, *, last: bool, bf16: bool, compiled: bool, fused: bool
) -> Loop:
    """One combination as people write it."""
    if last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    run = torch.compile(model) if compiled else model

    def loss_of() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = run(x).logits
        return nn.functional.cross_entropy(logits.float(), y)

    return Loop(model, torch.optim.AdamW(model.parameters(), 1e-4, fused=fused), loss_of)


def combinations() -> dict[str, dict[str, bool]]:
    """Everything that can be made by hand, by name; ``eager`` is none of it."""
    made = {}
    for last, bf16, compiled, fused in itertools.product((False, True), repeat=4):
        words = [("channels-last", last), ("bf16", bf16), ("torch.compile", compiled), ("fused", fused)]
        name = " + ".join(word for word, on in words if on) or "eager"
        made[name] = {"last": last, "bf16": bf16, "compiled": compiled, "fused": fused}
    return made


def _serve(pipe: Connection) -> None:
    """Loops made by hand, in a process that nothing of this package has touched: what it keeps of freed memory, say."""
    torch.manual_seed(0)
    first, (x, y) = resnet().train(), next(batches(8))
    loops = {}
    while (name := pipe.recv()) is not None:
        if name not in loops:
            loops[name] = by_hand(copy.deepcopy(first), x, y, **combinations()[name])
        pipe.send(loops[name].step())


def resnet50() -> int:
    """The table against eager and against what can be made by hand; the number of bars that were missed."""
    torch.manual_seed(0)
    first = resnet().train()
    x, y = next(batches(8))
    optimizer = torch.optim.AdamW(first.parameters(), 1e-4)
    mine = Loop(first, optimizer, lambda: nn.functional.cross_entropy(first(x).logits, y))
    start = time.monotonic()
    fast = settle(first, mine.step, precision="bf16", name="resnet")
    print(f"decided after {time.monotonic() - start:.0f} s: {fast.report.summary()}", flush=True)
    for row in fast.report.candidates:
        print(f"  {row.name}: {row.status} {row.speedup or math.nan:.2f}x {row.reason}")
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_serve, args=(other,), daemon=True)
    process.start()

    def step(name: str) -> float:
        pipe.send(name)
        return float(pipe.recv())

    loops: dict[str, Callable[[], object]] = {"deepseek_lab": mine.step}
    for name in combinations():
        start = time.monotonic()
        step(name)
        print(f"  {name}: first step after {time.monotonic() - start:.1f} s", flush=True)
        loops[name] = functools.partial(step, name)
    found = raced(loops, "eager")
    pipe.send(None)
    print("\n| | times eager's speed (95 %) |\n| --- | --- |")
    for name, ratio in sorted(found.items(), key=lambda item: -item[1].speedup):
        print(f"| {name} | {ratio.speedup:.2f} ({ratio.ci95[0]:.2f}-{ratio.ci95[1]:.2f}) |")
    ours = found["deepseek_lab"].speedup
    best = max(ratio.speedup for name, ratio in found.items() if name != "deepseek_lab")
    missed = (ours < FASTER) + (ours / best < OF_THE_BEST)
    print(f"\n{ours:.2f}x (bar {FASTER}), {ours / best:.3f} of the best by hand (bar {OF_THE_BEST})")
    return missed


def convergence(num_steps: int = 200) -> int:
    """The last losses of training in bf16 as chosen, beside three seeds in float32."""

    def last_loss(seed: int, precision: str | None) -> float:
        torch.manual_seed(seed)
        model = resnet().train()
        data, box = batches(8, seed), {}

        def loss_of() -> Tensor:
            x, y = next(data)
            return nn.functional.cross_entropy(model(x).logits, y)

        loop = Loop(model, torch.optim.AdamW(model.parameters(), 1e-4), loss_of)
        if precision is not None:
            box["fast"] = deepseek_lab.optimize(model, precision=precision)
        losses = [loop.step() for _ in range(num_steps)]
        if precision is not None:
            print(f"  {box['fast'].report.summary()}")
            box["fast"].restore()
        return statistics.mean(losses[-20:])

    torch.manual_seed(9)
    first, data = resnet().train(), batches(8, 9)
    optimizer = torch.optim.AdamW(first.parameters(), 1e-4)

    def first_loss() -> Tensor:
        x, y = next(data)
        return nn.functional.cross_entropy(first(x).logits, y)

    settle(
        first, Loop(first, optimizer, first_loss).step, precision="bf16"
    ).restore()  # the next ones begin with it
    plain = [last_loss(seed, None) for seed in range(3)]
    lowered = [last_loss(seed, "bf16") for seed in range(3)]
    print(
        f"mean loss of the last 20 of {num_steps} steps, float32: {', '.join(f'{one:.3f}' for one in plain)}"
    )
    print(f"with --precision bf16: {', '.join(f'{one:.3f}' for one in lowered)}")
    spread = max(plain) - min(plain)
    low, high = min(plain) - spread, max(plain) + spread
    return 0 if all(low <= one <= high for one in lowered) else 1


def _tokens(vocabulary: int, shape: tuple[int, int]) -> Tensor:
    return torch.randint(vocabulary, shape)


def models() -> dict[str, tuple[nn.Module, Callable[[nn.Module], Tensor]]]:
    """Six models small enough for some hundreds of steps, each with its loss."""
    x, y = torch.randn(8, 3, 96, 96), torch.randint(10, (8,))
    ids = _tokens(4000, (4, 128))

    def classify(model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(x).logits, y)

    def language(model: nn.Module) -> Tensor:
        loss = model(ids, labels=ids).loss
        assert isinstance(loss, Tensor)
        return loss

    size = {"vocab_size": 4000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {
        "ResNet-18": (
            transformers.ResNetForImageClassification(
                transformers.ResNetConfig(
                    depths=[2, 2, 2, 2],
                    hidden_sizes=[64, 128, 256, 512],
                    layer_type="basic",
                    embedding_size=64,
                    num_labels=10,
                )
            ),
            classify,
        ),
        "MobileNetV2": (
            transformers.MobileNetV2ForImageClassification(
                transformers.MobileNetV2Config(image_size=96, num_labels=10)
            ),
            classify,
        ),
        "BERT": (
            transformers.BertForMaskedLM(transformers.BertConfig(**size, intermediate_size=1024)),
            language,
        ),
        "GPT-2": (
            transformers.GPT2LMHeadModel(
                transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=4000)
            ),
            language,
        ),
        "ViT": (
            transformers.ViTForImageClassification(
                transformers.ViTConfig(
                    image_size=96,
                    hidden_size=192,
                    num_hidden_layers=6,
                    num_attention_heads=3,
                    intermediate_size=768,
                    num_labels=10,
                )
            ),
            classify,
        ),
        "LSTM": (
            _Tagger(),
            lambda model: nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()),
        ),
    }


class _Tagger(nn.Module):
    """An LSTM that says each token again."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4000, 256)
        self.lstm = nn.LSTM(256, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, 4000)

    def forward(self, ids: Tensor) -> Tensor:
        out = self.head(self.lstm(self.embedding(ids))[0])
        assert isinstance(out, Tensor)
        return out


def float32() -> int:
    """Six models in their own precision; the number of those that are slower or diverge."""
    missed = 0
    print("| | times eager's speed (95 %) | chosen | last loss, eager's |\n| --- | --- | --- | --- |")
    for name in models():
        torch.manual_seed(0)
        made, loss_of = models()[name]
        made.train()
        plain, ours = copy.deepcopy(made), made
        loops = {
            which: Loop(one, torch.optim.AdamW(one.parameters(), 1e-4), lambda one=one: loss_of(one))
            for which, one in (("eager", plain), ("deepseek_lab", ours))
        }
        fast = settle(ours, loops["deepseek_lab"].step)
        for which in loops:  # the same state to begin with
            loops[which].model.load_state_dict(made.state_dict())
            loops[which].optimizer.load_state_dict(loops["deepseek_lab"].optimizer.state_dict())
        found = raced({which: loop.step for which, loop in loops.items()}, "eager")["deepseek_lab"]
        losses = [loop.step() for loop in loops.values()]
        chosen = fast.report.chosen
        fast.restore()
        diverged = abs(losses[0] - losses[1]) > 0.1 * max(losses) + 0.05
        missed += found.speedup < NOT_SLOWER or diverged
        low, high = found.ci95
        print(
            f"| {name} | {found.speedup:.2f} ({low:.2f}-{high:.2f}) | {chosen} | {losses[1]:.3f}, {losses[0]:.3f} |",
            flush=True,
        )
    return missed


def main(names: list[str]) -> int:
    """Run the named parts, or all."""
    parts = {"resnet50": resnet50, "float32": float32, "convergence": convergence}
    for name in names:
        if name not in parts:
            print(f"not known: {name}; there are {', '.join(parts)}", file=sys.stderr)
            return 2
    return sum(parts[name]() for name in names or parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
