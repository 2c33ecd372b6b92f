"""Real data that is installed with what the tests need anyway."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from sklearn import datasets
from torch import Tensor, nn

Batches = Iterator[tuple[Tensor, Tensor]]


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits of 8 x 8 pixels from 0 to 1."""
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


@functools.cache
def cancer() -> tuple[Tensor, Tensor]:
    """569 tumours by 30 features, standardised."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    values = torch.tensor(x, dtype=torch.float32)
    return (values - values.mean(0)) / values.std(0), torch.tensor(y)


@functools.cache
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients by 10 features, and how their disease went on, both standardised."""
    x, y = datasets.load_diabetes(return_X_y=True)
    values, target = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return (values - values.mean(0)) / values.std(0), ((target - target.mean()) / target.std())[:, None]


@functools.cache
def text() -> tuple[Tensor, int]:
    """English prose as numbers of its characters: what scikit-learn says of its data sets."""
    loaders = (
        datasets.load_digits,
        datasets.load_breast_cancer,
        datasets.load_diabetes,
        datasets.load_iris,
        datasets.load_wine,
        datasets.load_linnerud,
    )
    whole = "".join(load().DESCR for load in loaders)
    letters = sorted(set(whole))
    return torch.tensor([letters.index(one) for one in whole]), len(letters)


def batches(data: tuple[Tensor, Tensor], size: int = 64, seed: int = 0) -> Batches:
    """Random rows without end."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(x), (size,), generator=generator)
        yield x[rows], y[rows]


def sentences(size: int = 16, length: int = 32, seed: int = 0) -> Batches:
    """Random stretches of the text, and the same one letter on."""
    letters, _ = text()
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(letters) - length - 1, (size,), generator=generator)
        rows = torch.stack([letters[start : start + length + 1] for start in starts.tolist()])
        yield rows[:, :-1], rows[:, 1:]


Loss = Callable[[Tensor, Tensor], Tensor]


def over_letters(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the next letter."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """PyTorch's, found when it is called, as a cell does."""
    return nn.functional.cross_entropy(logits, y)
