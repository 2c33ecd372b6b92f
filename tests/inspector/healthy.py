"""Trainings that are sound: nothing may be said of them. Written after every threshold, and never used to set one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.inspector import data
from tests.inspector.models import CNN, LSTM, Transformer, mlp
from tests.inspector.planted import Training

HEALTHY: dict[str, Callable[[], Training]] = {}


def healthy(name: str) -> Callable[[Callable[[], Training]], Any]:
    """Register one."""

    def register(make: Callable[[], Training]) -> Callable[[], Training]:
        HEALTHY[name] = make
        return make

    return register


def _training(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: data.Batches, **more: Any
) -> Training:
    return Training(model, optimizer, batches, num_steps=more.pop("num_steps", 300), **more)


@healthy("mlp on digits, Adam 1e-3")
def _() -> Training:
    model = mlp()
    return _training(model, torch.optim.Adam(model.parameters(), 1e-3), data.batches(data.digits()))


@healthy("mlp on digits, Adam 1e-2, until it knows them by heart")
def _() -> Training:
    model = mlp(2, 128)
    return _training(
        model, torch.optim.Adam(model.parameters(), 1e-2), data.batches(data.digits(), 128), num_steps=600
    )


@healthy("mlp with dropout on tumours, SGD 0.1 with momentum, weight decay")
def _() -> Training:
    model = nn.Sequential(
        nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return _training(model, optimizer, data.batches(data.cancer(), 32, seed=3))


@healthy("tanh network on diabetes, Adam 3e-3, mean squared error")
def _() -> Training:
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    batches = data.batches(data.diabetes(), 32)  # type: ignore[arg-type]
    return _training(model, torch.optim.Adam(model.parameters(), 3e-3), batches, loss=nn.functional.mse_loss)


@healthy("CNN with batch norm on digits, AdamW 2e-3")
def _() -> Training:
    model = CNN()
    return _training(
        model, torch.optim.AdamW(model.parameters(), 2e-3), data.batches(data.digits(), seed=1), num_steps=200
    )


@healthy("CNN without norm on digits, SGD 0.05 with momentum, cosine schedule")
def _() -> Training:
    model = CNN(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    training = _training(model, optimizer, data.batches(data.digits(), 32), num_steps=250)
    training.before_step = lambda step: schedule.step() if step else None
    return training


@healthy("transformer on text, AdamW 1e-3")
def _() -> Training:
    model = Transformer(data.text()[1])
    return _training(
        model,
        torch.optim.AdamW(model.parameters(), 1e-3),
        data.sentences(),
        loss=data.over_letters,
        num_steps=200,
    )


@healthy("transformer with dropout on text, AdamW 3e-3 with warm-up, gradient clipping")
def _() -> Training:
    torch.manual_seed(7)
    model = Transformer(data.text()[1], dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    training = _training(model, optimizer, data.sentences(seed=5), loss=data.over_letters, num_steps=200)

    def clipped(logits: Tensor, y: Tensor) -> Tensor:
        return data.over_letters(logits, y)

    def before(step: int) -> None:
        if step:
            schedule.step()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    training.loss, training.before_step = clipped, before
    return training


@healthy("LSTM on text, Adam 3e-3")
def _() -> Training:
    model = LSTM(data.text()[1])
    return _training(
        model,
        torch.optim.Adam(model.parameters(), 3e-3),
        data.sentences(),
        loss=data.over_letters,
        num_steps=200,
    )


@healthy("sigmoid output on tumours, binary cross-entropy, RMSprop 1e-3")
def _() -> Training:
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def loss(shares: Tensor, y: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(shares[:, 0], y.float())

    return _training(
        model,
        torch.optim.RMSprop(model.parameters(), 1e-3),
        data.batches(data.cancer(), 64, seed=2),
        loss=loss,
    )
