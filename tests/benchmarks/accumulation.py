"""Larger updates from smaller batches: ``python -m tests.benchmarks.accumulation [--rounds N]``.

Three models are trained with ``effective_batch`` by a loop whose DataLoader has batches of 4, and by the same loop with
whole batches. Told: how far the gradients of an update are from the whole batch's (rel. length of all differences), the
most that tensors hold in a step of each, and how much faster the chosen micro-batches are than the loop's own ones,
epoch by epoch in turn.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import deepseek_lab
from deepseek_lab.base.sizes import words
from deepseek_lab.measure.race import Ratio
from deepseek_lab.memory.meter import Meter
from tests.benchmarks.memory import tokens

GOAL, OWN = 64, 4
Loss = Callable[[nn.Module, Any], Tensor]


class Sentences(Dataset[dict[str, Tensor]]):
    """Text with as many labels as each sentence is long."""

    def __init__(self, num_samples: int, length: int, vocabulary: int) -> None:
        self._ids = tokens(vocabulary, num_samples, length, 0)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self._ids[index]
        labels = ids.clone()
        labels[8 + index * 7 % (len(ids) - 8) :] = -100
        return {"input_ids": ids, "labels": labels}


def _gpt2() -> tuple[nn.Module, Dataset[Any], Loss]:
    sizes: dict[str, Any] = {"vocab_size": 4000, "n_embd": 192, "n_layer": 4, "n_head": 6}
    config = transformers.GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return (
        transformers.GPT2LMHeadModel(config),
        Sentences(256, 64, 4000),
        lambda model, batch: model(**batch).loss,
    )


def _digits() -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[:256] / 16
    pictures = nn.functional.interpolate(pictures, size=(32, 32), mode="bilinear").repeat(1, 3, 1, 1)
    return TensorDataset(pictures, torch.tensor(labels)[:256])


def _classified(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).logits, batch[1])


def _vit() -> tuple[nn.Module, Dataset[Any], Loss]:
    sizes: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 3}
    sizes |= {"num_hidden_layers": 4, "image_size": 32, "patch_size": 4, "num_labels": 10}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.ViTConfig(**sizes)
    return transformers.ViTForImageClassification(config), _digits(), _classified


def _convnext() -> tuple[nn.Module, Dataset[Any], Loss]:
    sizes: dict[str, Any] = {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1], "num_labels": 10}
    config = transformers.ConvNextConfig(**sizes)
    return transformers.ConvNextForImageClassification(config), _digits(), _classified


MODELS = {"GPT-2, 4 layers": _gpt2, "ViT, 4 layers": _vit, "ConvNeXt, 5 blocks": _convnext}


def epoch(model: nn.Module, data: Dataset[Any], loss: Loss, batch: int) -> Iterator[None]:
    """The user's loop; whoever steps through it comes by after each step, when its gradients are still there."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for part in DataLoader(data, batch_size=batch):
        optimizer.zero_grad()
        loss(model, part).backward()
        optimizer.step()
        yield


def run(model: nn.Module, data: Dataset[Any], loss: Loss, batch: int) -> None:
    """The same to its end."""
    for _ in epoch(model, data, loss, batch):
        pass


def gradients(model: nn.Module) -> list[Tensor]:
    """Copies of what is there."""
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]


def _apart(found: list[Tensor], reference: list[Tensor]) -> float:
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(found, reference, strict=True))
    return math.sqrt(difference / sum(float(b.double().square().sum()) for b in reference))


def _peak(call: Callable[[], object], model: nn.Module) -> int:
    with Meter() as meter:
        meter.hold(model.parameters())
        call()
    peak: int = meter.peak_bytes
    meter.release()
    return peak


def measure(name: str, rounds: int) -> None:
    """One model."""
    torch.manual_seed(0)
    model, data, loss = MODELS[name]()
    model.train()
    initial = copy.deepcopy(model.state_dict())

    whole = [gradients(model) for _ in epoch(model, data, loss, GOAL)]
    parts: list[list[Tensor]] = []
    with deepseek_lab.effective_batch(GOAL) as accumulation:
        for _ in range(20):
            model.load_state_dict(initial)
            parts.clear()
            before = accumulation.num_updates
            for _ in epoch(model, data, loss, OWN):
                if accumulation.num_updates > before + len(parts):
                    parts.append(gradients(model))
            if accumulation.is_settled:
                break
        event = accumulation.event("")
    size = event.micro_batch
    apart = max(map(_apart, parts, whole))

    model.load_state_dict(initial)
    peaks = [_peak(lambda: run(model, data, loss, GOAL), model)]
    with deepseek_lab.effective_batch(GOAL):
        model.load_state_dict(initial)
        peaks.append(_peak(lambda: run(model, data, loss, OWN), model))

    def seconds(batch: int) -> float:
        start = time.perf_counter()
        run(model, data, loss, batch)
        return time.perf_counter() - start

    seconds(OWN), seconds(size)
    times = [(seconds(OWN), seconds(size)) for _ in range(rounds)]
    ratio = Ratio.of([one for one, _ in times], [other for _, other in times])
    low, high = ratio.ci95
    print(
        f"{name}: an update per {GOAL} in micro-batches of {size} (the loop's own {OWN}): gradients within {apart:.1e} "
        f"of the whole batch's over {len(whole)} updates; peak {words(peaks[1])} in batches of {OWN}, whole "
        f"{words(peaks[0])}; micro-batches of {size} run {ratio.speedup:.2f}x (95% {low:.2f}-{high:.2f}) as fast",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Measure every model; 0."""
    rounds = int(arguments[arguments.index("--rounds") + 1]) if "--rounds" in arguments else 7
    print(f"effective batch, {torch.get_num_threads()} threads", flush=True)
    for name in MODELS:
        measure(name, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
