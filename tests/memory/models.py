"""Models that hold far more in a step than their weights, and loops that train them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A transformer's layer, with dropout."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:  # [batch, length, width]
        y = self.norm_1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class Language(nn.Module):
    """A small language model whose head is tied to its embedding."""

    def __init__(self, vocabulary: int = 5000, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Residual(nn.Module):
    """A ResNet's block: batch norm, and activations in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_1, self.norm_2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_2(self.second(self.act(self.norm_1(self.first(x)))))
        y += x
        return self.act(y)


class Convolutional(nn.Module):
    """A small ResNet."""

    def __init__(self, width: int = 16, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(layers)))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def words(step: int, size: int = 16, length: int = 64, vocabulary: int = 5000) -> Tensor:
    return torch.randint(0, vocabulary, (size, length), generator=torch.Generator().manual_seed(step))


def language_loss(model: nn.Module, step: int) -> Tensor:
    ids = words(step)
    return F.cross_entropy(model(ids)[:, :-1].reshape(-1, 5000), ids[:, 1:].reshape(-1))


def picture_loss(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 32, 32, generator=generator)
    return F.cross_entropy(model(images), torch.randint(0, 10, (16,), generator=generator))


def make(kind: Callable[..., nn.Module], *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(*args).train()


class Loop:
    """One step after the other, the same for every model that is given the same seed."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, int], Tensor], lr: float = 1e-3) -> None:
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        self.count = 0

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.model, self.count)
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return float(loss.detach())

    def steps(self, count: int) -> list[float]:
        return [self.step() for _ in range(count)]

    def until_planned(self, run: Any, most: int = 12) -> list[float]:
        """Steps until one was measured that ran by a plan."""
        losses = []
        for _ in range(most):
            losses.append(self.step())
            run.wait()
            if all(row.planned and row.measured for row in run.report.rows.values()):
                break
        return losses


class Unsteady(nn.Module):
    """Computes something else each time, by random numbers that no checkpoint keeps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * random.random()
