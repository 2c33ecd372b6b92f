"""Models that learn the data of ``data.py`` in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(
    depth: int = 4, width: int = 64, activation: type[nn.Module] = nn.ReLU, inputs: int = 64
) -> nn.Sequential:
    """A plain chain of layers."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(inputs if number == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class CNN(nn.Module):
    """Three convolutions whose activations are functions, and a head."""

    def __init__(self, norm: bool = True, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(2 * width) if norm else nn.Identity()
        self.head = nn.Linear(2 * width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 1, 8, 8)
        x = nn.functional.relu(self.norm1(self.conv1(x)))
        x = nn.functional.max_pool2d(nn.functional.relu(self.norm2(self.conv2(x))), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv3(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal self-attention with its softmax as a module."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = self.softmax(scores.masked_fill(mask, float("-inf")))
        return self.out((weights @ v).transpose(1, 2).reshape(rows, length, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two layers, each around a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.down(self.act(self.up(self.norm2(x)))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A small language model over letters."""

    def __init__(
        self, letters: int, width: int = 48, depth: int = 3, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.place = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, letters)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class LSTM(nn.Module):
    """An LSTM over letters."""

    def __init__(self, letters: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0])  # type: ignore[no-any-return]
