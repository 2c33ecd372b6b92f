"""Faults planted in trainings that are sound without them, and what must be said of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deepseek_lab.base.inspection import Inspection
from deepseek_lab.inspector.api import inspect
from tests.inspector import data
from tests.inspector.models import CNN, Transformer, mlp

NUM_STEPS = 120


@dataclasses.dataclass
class Training:
    """A loop, as a notebook would have it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: data.Batches
    loss: data.Loss = data.cross_entropy
    before_step: Callable[[int], None] = lambda step: None
    num_steps: int = NUM_STEPS

    def run(self) -> None:
        """Train."""
        for step, (x, y) in zip(range(self.num_steps), self.batches, strict=False):
            self.before_step(step)
            loss = self.loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def inspected(self, **options: Any) -> Inspection:
        """Train and be watched; an error of the loop's ends it, as it would end a cell."""
        seen = inspect(found=lambda finding: None, namespace={"model": self.model}, **options)
        try:
            with seen:
                self.run()
        except (IndexError, RuntimeError):
            pass
        return seen.report


@dataclasses.dataclass(frozen=True)
class Planted:
    """One fault: what makes it, and what counts as found.

    ``kinds`` and ``modules``: a finding of one of these kinds at one of these modules, no other.
    """

    name: str
    make: Callable[[], Training]
    kinds: tuple[str, ...]
    modules: tuple[str, ...]

    def is_found(self, seen: Inspection) -> bool:
        """Whether it was found, and put on the right module."""
        return any(one.kind in self.kinds and one.module in self.modules for one in seen.findings)


PLANTED: list[Planted] = []


def planted(
    name: str, kinds: str | tuple[str, ...], *modules: str
) -> Callable[[Callable[[], Training]], Any]:
    """Register what makes a fault."""

    def register(make: Callable[[], Training]) -> Callable[[], Training]:
        PLANTED.append(
            Planted(
                name, make, (kinds,) if isinstance(kinds, str) else kinds, tuple(f"model{m}" for m in modules)
            )
        )
        return make

    return register


def _scale(module: nn.Module, factor: float) -> None:
    with torch.no_grad():
        next(one for one in module.parameters() if one.dim() > 1).mul_(factor)


def _adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr)


def _spoiled(
    batches: data.Batches, at: int, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> data.Batches:
    for number, (x, y) in enumerate(batches):
        yield change(x, y) if number == at else (x, y)


def _changed(
    batches: data.Batches, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> data.Batches:
    for x, y in batches:
        yield change(x, y)


# -- a chain of layers on digits -------------------------------------------------------------------------


def _mlp(model: nn.Module | None = None, lr: float = 1e-3, **more: Any) -> Training:
    model = model or mlp()
    return Training(
        model,
        more.pop("optimizer", None) or _adam(model, lr),
        more.pop("batches", None) or data.batches(data.digits()),
        **more,
    )


@planted("mlp: ten sigmoid layers", "vanishing gradient", *(f".{2 * n}" for n in range(10)))
def _() -> Training:
    return _mlp(mlp(10, activation=nn.Sigmoid))


@planted("mlp: weights six times too large", "exploding gradient", *(f".{n}" for n in range(17)))
def _() -> Training:
    model = mlp(8)
    for layer in model:
        if isinstance(layer, nn.Linear):
            _scale(layer, 6)
    return _mlp(model, optimizer=torch.optim.SGD(model.parameters(), 1e-3))


@planted("mlp: biases of the second layer at -30", "dead units", ".3")
def _() -> Training:
    model = mlp()
    nn.init.constant_(model[2].bias, -30.0)  # type: ignore[arg-type]
    return _mlp(model)


@planted("mlp: tanh after weights a hundred times too large", "saturation", ".3")
def _() -> Training:
    model = mlp(activation=nn.Tanh)
    _scale(model[2], 100)
    return _mlp(model)


class _LogLayer(nn.Module):
    """Takes a logarithm of what may be zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().log()


@planted("mlp: the logarithm of a ReLU", "nonfinite", ".4")
def _() -> Training:
    return _mlp(nn.Sequential(*list(mlp(2))[:4], _LogLayer(), nn.Linear(64, 10)))


@planted("mlp: a learning rate of 1e-8", "update ratio", "")
def _() -> Training:
    return _mlp(lr=1e-8)


@planted("mlp: a batch of inputs times 100 with shuffled labels", "loss spike", "")
def _() -> Training:
    return _mlp(batches=_spoiled(data.batches(data.digits()), 80, lambda x, y: (x * 100, y.flip(0))))


@planted("mlp: the third layer needs no gradient", "frozen", ".4")
def _() -> Training:
    model = mlp()
    model[4].requires_grad_(False)
    return _mlp(model)


@planted("mlp: the optimiser was made before the head", "optimizer", ".8")
def _() -> Training:
    model = mlp()
    return _mlp(
        model,
        optimizer=torch.optim.Adam([one for name, one in model.named_parameters() if name[0] != "8"], 1e-3),
    )


@planted("mlp: pixels from 0 to 255", "input", ".0")
def _() -> Training:
    return _mlp(batches=_changed(data.batches(data.digits()), lambda x, y: (x * 255, y)))


# -- convolutions on digits ----------------------------------------------------------------------------


def _cnn(model: nn.Module | None = None, lr: float = 2e-3, **more: Any) -> Training:
    return _mlp(model or CNN(), lr, **more)


class _Cut(nn.Module):
    """A weight so small that hardly any gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(16, 16, 1, bias=False)
        nn.init.eye_(self.scale.weight.data[:, :, 0, 0]).mul_(1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x)  # type: ignore[no-any-return]


@planted("cnn: a layer with weights of 1e-5", "vanishing gradient", ".norm1.scale", ".norm1")
def _() -> Training:
    model = CNN(norm=False)
    model.norm1 = _Cut()
    return _cnn(model, optimizer=torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9))


@planted("cnn: convolutions thirty times too large", "exploding gradient", ".conv1", ".conv2", ".conv3")
def _() -> Training:
    model = CNN(norm=False)
    for layer in (model.conv1, model.conv2, model.conv3):
        _scale(layer, 30)
    return _cnn(model, optimizer=torch.optim.SGD(model.parameters(), 1e-5))


@planted("cnn: the third convolution's filters cannot be above zero", "dead units", ".conv3")
def _() -> Training:
    model = CNN()
    nn.init.constant_(model.conv3.bias, -20.0)  # type: ignore[arg-type]
    return _cnn(model)


class _Sigmoids(CNN):
    """The same with a gate between."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()
        _scale(self.conv2, 500)
        self.norm2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.norm1(self.conv1(x.view(-1, 1, 8, 8))))
        x = nn.functional.max_pool2d(self.gate(self.conv2(x)), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv3(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@planted("cnn: a sigmoid after weights five hundred times too large", "saturation", ".gate")
def _() -> Training:
    return _cnn(_Sigmoids())


class _Norm(nn.Module):
    """Divides each picture by its norm, whose derivative is infinite where the picture is empty."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-6)


@planted("cnn: the norm of an empty picture", "nonfinite", ".norm2")
def _() -> Training:
    model = CNN(norm=False)
    model.norm2 = _Norm()
    for one in (model.conv1.bias, model.conv2.bias):
        nn.init.zeros_(one)  # type: ignore[arg-type]

    def emptied(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        x[3] = 0
        return x, y

    optimizer = torch.optim.SGD(
        [model.conv3.weight, model.conv1.weight, model.conv2.weight, model.head.weight], 0.05
    )
    for one in (model.conv1.bias, model.conv2.bias, model.conv3.bias, model.head.bias):
        assert one is not None
        one.requires_grad_(False)
    return _cnn(model, optimizer=optimizer, batches=_spoiled(data.batches(data.digits()), 30, emptied))


@planted("cnn: a learning rate of 1", "update ratio", "")
def _() -> Training:
    return _cnn(lr=1.0)


@planted("cnn: the learning rate times a thousand for one step", ("loss spike",), "")
def _() -> Training:
    training = _cnn(optimizer=None)

    def jump(step: int) -> None:
        training.optimizer.param_groups[0]["lr"] = 1.0 if step == 70 else 2e-3

    training.before_step = jump
    return training


class _Detached(CNN):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.norm1(self.conv1(x.view(-1, 1, 8, 8)))).detach()
        x = nn.functional.max_pool2d(nn.functional.relu(self.norm2(self.conv2(x))), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv3(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@planted("cnn: detached after the first convolution", "unused", ".conv1")
def _() -> Training:
    return _cnn(_Detached())


@planted("cnn: the optimiser is of another model", "optimizer", "")
def _() -> Training:
    return _cnn(optimizer=_adam(CNN()))


@planted("cnn: labels from 1 to 10", "label", "")
def _() -> Training:
    return _cnn(batches=_changed(data.batches(data.digits()), lambda x, y: (x, y + 1)))


# -- a transformer on text: written after every threshold and rule, and never used to set one ---------------


def _transformer(model: nn.Module | None = None, lr: float = 1e-3, **more: Any) -> Training:
    model = model or Transformer(data.text()[1])
    more.setdefault("optimizer", torch.optim.AdamW(model.parameters(), lr))
    more.setdefault("batches", data.sentences())
    return Training(model, loss=more.pop("loss", data.over_letters), **more)


class _Plain(Transformer):
    """Without residual connections and norms: a deep chain of tanh."""

    def __init__(self) -> None:
        super().__init__(data.text()[1])
        self.chain = nn.ModuleList(nn.Linear(48, 48) for _ in range(12))
        for layer in self.chain:
            nn.init.normal_(layer.weight, std=0.03)  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.chain:
            x = layer(x).tanh()
        return self.head(x)  # type: ignore[no-any-return]


@planted(
    "transformer: twelve tanh layers of small weights",
    "vanishing gradient",
    *(f".chain.{n}" for n in range(12)),
    ".embed",
)
def _() -> Training:
    model = _Plain()
    used = [*model.embed.parameters(), *model.chain.parameters(), *model.head.parameters()]
    return _transformer(model, optimizer=torch.optim.AdamW(used, 1e-3))


class _Grown(Transformer):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = x + block.down(block.act(block.up(x)))  # type: ignore[union-attr, operator]
        return self.head(x)  # type: ignore[no-any-return]


@planted(
    "transformer: no norm, and second layers fifty times too large",
    "exploding gradient",
    *(f".blocks.{n}.{m}" for n in range(3) for m in ("up", "down")),
)
def _() -> Training:
    model = _Grown(data.text()[1])
    for block in model.blocks:
        _scale(block.down, 50)  # type: ignore[arg-type]
    return _transformer(model, lr=1e-4)


@planted("transformer: biases of a feed-forward layer at -15", "dead units", ".blocks.1.act")
def _() -> Training:
    model = Transformer(data.text()[1])
    nn.init.constant_(model.blocks[1].up.bias, -15.0)  # type: ignore[union-attr, arg-type]
    return _transformer(model)


@planted(
    "transformer: attention scores three hundred times too large", "saturation", ".blocks.1.attention.softmax"
)
def _() -> Training:
    model = Transformer(data.text()[1])
    _scale(model.blocks[1].attention.qkv, 300)  # type: ignore[union-attr, arg-type]
    return _transformer(model)


class _Masked(Transformer):
    """Masks whole rows of attention from the fortieth call on."""

    def __init__(self) -> None:
        super().__init__(data.text()[1])
        self.calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        attention = self.blocks[2].attention  # type: ignore[union-attr]
        attention.softmax = _AllMasked() if self.calls > 40 else nn.Softmax(-1)  # type: ignore[union-attr]
        return super().forward(ids)


class _AllMasked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[0, 0, 3] = True
        return x.masked_fill(mask, float("-inf")).softmax(-1)


@planted(
    "transformer: a row of attention that is masked as a whole", "nonfinite", ".blocks.2.attention.softmax"
)
def _() -> Training:
    return _transformer(_Masked())


@planted("transformer: SGD with a learning rate of 1e-7", "update ratio", "")
def _() -> Training:
    model = Transformer(data.text()[1])
    return _transformer(model, optimizer=torch.optim.SGD(model.parameters(), 1e-7))


@planted("transformer: one batch of labels from elsewhere", "loss spike", "")
def _() -> Training:
    def other(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rare = int(torch.bincount(data.text()[0]).argmin())
        return x, torch.full_like(y, rare)

    return _transformer(batches=_spoiled(data.sentences(), 100, other), lr=3e-3)


@planted("transformer: a module of the model that is never called", "unused", ".place")
def _() -> Training:
    class Unplaced(Transformer):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))  # type: ignore[no-any-return]

    return _transformer(Unplaced(data.text()[1]))


@planted(
    "transformer: the optimiser has the first block only",
    "optimizer",
    ".blocks.1",
    ".blocks.2",
    ".head",
    ".norm",
)
def _() -> Training:
    model = Transformer(data.text()[1])
    return _transformer(model, optimizer=torch.optim.AdamW(model.blocks[0].parameters(), 1e-3))


@planted("transformer: more letters than the embedding has rows", "input", ".embed")
def _() -> Training:
    model = Transformer(data.text()[1])
    model.embed = nn.Embedding(40, 48)
    return _transformer(model)


def run(chosen: list[Planted], **options: Any) -> Iterator[tuple[Planted, Inspection]]:
    """Each of them, from its seed."""
    for one in chosen:
        torch.manual_seed(0)
        yield one, one.make().inspected(**options)
