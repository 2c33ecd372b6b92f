"""Seeded random graphs: functions of tensors out of views, updates in place, dtypes, broadcasting, reductions,
matrix products, indexing and sizes of zero, with or without weights."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPES = ((4, 6), (1, 6), (4, 1), (6,), (), (2, 4, 6), (2, 1, 6), (3, 4), (0, 6), (4, 0), (1, 1), (8, 4))
FLOATS = (
    torch.float32,
    torch.float32,
    torch.float32,
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
)
WHOLE = (torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)

Step = tuple[str, tuple[int, ...], int]
"""An operation, the values that it reads and a number that picks its options."""


def _whole(x: Tensor) -> Tensor:
    return x if not x.is_floating_point() else x.nan_to_num(0.0, 9.0, -9.0).clamp(-9, 9).to(torch.int64)


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


def _dim(x: Tensor, n: int) -> int:
    return n % x.dim() - (x.dim() if n % 3 == 0 else 0)


def _needs_dim(call: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, n: call(x, n) if x.dim() else x + 1


def _needs_elements(call: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, n: call(x, n) if x.dim() and x.numel() else x * 2


UNARY: dict[str, Callable[[Tensor, int], Tensor]] = {
    "neg": lambda x, n: -x if x.dtype != torch.bool else ~x,
    "abs": lambda x, n: x.abs() if x.dtype != torch.bool else x,
    "relu": lambda x, n: F.relu(_real(x)),
    "tanh": lambda x, n: torch.tanh(x),
    "sigmoid": lambda x, n: torch.sigmoid(x),
    "gelu": lambda x, n: F.gelu(_real(x), approximate=("none", "tanh")[n % 2]),
    "silu": lambda x, n: F.silu(_real(x)),
    "exp": lambda x, n: torch.exp(_real(x).clamp(-4, 4)),
    "log1p": lambda x, n: torch.log1p(_real(x).abs()),
    "sqrt": lambda x, n: _real(x).abs().sqrt(),
    "rsqrt": lambda x, n: torch.rsqrt(_real(x).abs() + 0.5),
    "erf": lambda x, n: torch.erf(_real(x)),
    "sin": lambda x, n: torch.sin(_real(x)),
    "round": lambda x, n: (torch.round, torch.floor, torch.ceil, torch.trunc)[n % 4](_real(x) + 0.25),
    "sign": lambda x, n: torch.sign(x) if x.dtype != torch.bool else x,
    "pow": lambda x, n: _real(x) ** (2, 3, 0.0, 1)[n % 4],
    "clamp": lambda x, n: _real(x).clamp((-0.5, None)[n % 2], 0.75),
    "leaky": lambda x, n: F.leaky_relu(_real(x), 0.1),
    "hardswish": lambda x, n: F.hardswish(_real(x)),
    "elu": lambda x, n: F.elu(_real(x)),
    "softplus": lambda x, n: F.softplus(_real(x)),
    "reciprocal": lambda x, n: torch.reciprocal(_real(x).abs() + 0.5),
    "nan_to_num": lambda x, n: torch.nan_to_num(_real(x) / (_real(x) > 0).to(_real(x).dtype)),
    "isfinite": lambda x, n: torch.isfinite(_real(x)),
    "scalar add": lambda x, n: x + (1, 2.5, -3)[n % 3],
    "scalar mul": lambda x, n: x * (2, 0.5, -1)[n % 3],
    "scalar from left": lambda x, n: 1.5 - _real(x),
    "whole mod": lambda x, n: _whole(x).to(torch.int64) % (3, 5, -4)[n % 3],
    "whole div": lambda x, n: _whole(x).to(torch.int64) // (2, -3, 7)[n % 3],
    "shift": lambda x, n: _whole(x).to(torch.int64) >> (n % 3),
    "logical not": lambda x, n: torch.logical_not(x),
    "to float32": lambda x, n: x.to(torch.float32),
    "to float64": lambda x, n: x.double(),
    "to half": lambda x, n: x.half(),
    "to bfloat16": lambda x, n: x.bfloat16(),
    "to int64": lambda x, n: _whole(x).long(),
    "to int32": lambda x, n: _whole(x).int(),
    "to bool": lambda x, n: x > 0,
    "transpose": _needs_dim(lambda x, n: x.transpose(0, -1)),
    "permute": _needs_dim(lambda x, n: x.permute(*reversed(range(x.dim())))),
    "reshape": lambda x, n: x.reshape(-1),
    "unsqueeze": lambda x, n: x.unsqueeze(n % (x.dim() + 1)),
    "squeeze": lambda x, n: x.squeeze(),
    "flatten": lambda x, n: x.flatten(),
    "slice": _needs_dim(lambda x, n: x[n % 2 :: 1 + n % 2]),
    "slice last": _needs_dim(lambda x, n: x[..., : max(1, x.shape[-1] // 2)]),
    "narrow to nothing": _needs_dim(lambda x, n: x[..., :0]),
    "select": _needs_elements(lambda x, n: x.select(0, n % x.shape[0] - x.shape[0] * (n % 2))),
    "flip": _needs_dim(lambda x, n: x.flip(_dim(x, n))),
    "roll": _needs_dim(lambda x, n: x.roll(n % 3 - 1, _dim(x, n))),
    "expand": lambda x, n: x.unsqueeze(0).expand(3, *x.shape),
    "repeat": lambda x, n: x.repeat(2, *([1] * x.dim())),
    "chunk": _needs_elements(lambda x, n: x.chunk(2, _dim(x, n))[-1]),
    "diagonal": lambda x, n: x.diagonal(dim1=-2, dim2=-1) if x.dim() >= 2 else x,
    "tril": lambda x, n: (torch.tril, torch.triu)[n % 2](x, n % 3 - 1) if x.dim() >= 2 else x,
    "pad": _needs_dim(lambda x, n: F.pad(x, (1, n % 2), value=float(n % 2))),
    "contiguous": lambda x, n: x.contiguous(),
    "sum": lambda x, n: x.sum(),
    "sum dim": _needs_dim(lambda x, n: x.sum(_dim(x, n), keepdim=bool(n % 2))),
    "mean": _needs_dim(lambda x, n: _real(x).mean(_dim(x, n), keepdim=bool(n % 2))),
    "amax": _needs_elements(lambda x, n: x.amax(_dim(x, n), keepdim=bool(n % 2))),
    "amin": _needs_elements(lambda x, n: x.amin(_dim(x, n))),
    "argmax": _needs_elements(lambda x, n: _real(x).argmax(_dim(x, n))),
    "max with index": _needs_elements(lambda x, n: x.max(_dim(x, n))[n % 2]),
    "var": _needs_elements(lambda x, n: _real(x).var(_dim(x, n), correction=0)),
    "norm": lambda x, n: torch.linalg.vector_norm(_real(x)),
    "prod": _needs_dim(lambda x, n: _real(x).clamp(-1.5, 1.5).prod(_dim(x, n))),
    "cumsum": _needs_dim(lambda x, n: x.cumsum(_dim(x, n))),
    "any": lambda x, n: (torch.any, torch.all)[n % 2](x),
    "softmax": _needs_dim(lambda x, n: F.softmax(_real(x), _dim(x, n))),
    "log softmax": _needs_dim(lambda x, n: F.log_softmax(_real(x), -1)),
    "logsumexp": _needs_elements(lambda x, n: torch.logsumexp(_real(x), _dim(x, n))),
    "layer norm": _needs_elements(lambda x, n: F.layer_norm(_real(x), x.shape[-1:], eps=(1e-5, 1e-2)[n % 2])),
    "normalise": _needs_elements(lambda x, n: F.normalize(_real(x), dim=-1)),
    "sort": _needs_elements(lambda x, n: x.sort(-1, descending=bool(n % 2))[0]),
    "topk": _needs_elements(lambda x, n: x.float().topk(1, -1)[0]),
    "glu": lambda x, n: F.glu(_real(x)) if x.dim() and x.shape[-1] % 2 == 0 else x,
    "own square": lambda x, n: _real(x) @ _real(x).transpose(-1, -2) if x.dim() >= 2 else x * x,
    "add in place": lambda x, n: x.clone().add_(1),
    "multiply in place": lambda x, n: (y := x + 0, y.mul_(2), y)[-1],
    "write a slice": _needs_dim(lambda x, n: (y := x.clone(), y[..., :1].fill_(1), y)[-1]),
    "write through a view": _needs_dim(lambda x, n: (y := x.clone(), y.view(-1)[::2].zero_(), y * 1)[-1]),
    "masked fill": lambda x, n: x.masked_fill(x > 0, 1),
    "masked write": lambda x, n: (y := x.clone(), y.__setitem__(y > 0, 0), y)[-1],
    "index": _needs_elements(lambda x, n: x[torch.tensor([0, -1, n % x.shape[0]])]),
    "one hot": _needs_elements(lambda x, n: F.one_hot(_whole(x).long().clamp(0, 4).flatten(), 5)),
    "arange": _needs_dim(lambda x, n: x + torch.arange(x.shape[-1])),
    "zeros like": lambda x, n: torch.zeros_like(x) + torch.ones_like(x),
    "full": lambda x, n: x * torch.full((), 1.5),
    "item shape": lambda x, n: x * x.shape[0] if x.dim() else x,
    "max pool": lambda x, n: F.max_pool1d(x.float(), 2) if x.dim() == 3 and x.numel() else x,
    "average pool": lambda x, n: F.avg_pool1d(x.float(), 2) if x.dim() == 3 and x.numel() else x,
    "interpolate": lambda x, n: (
        F.interpolate(x.float(), scale_factor=2.0) if x.dim() == 3 and x.numel() else x
    ),
}

BINARY: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "add": lambda a, b, n: a + b,
    "subtract": lambda a, b, n: _real(a) - b,
    "multiply": lambda a, b, n: a * b,
    "divide": lambda a, b, n: a / (_real(b).abs() + 1),
    "divide by zero": lambda a, b, n: _real(a).round() / _real(b).round(),
    "maximum": lambda a, b, n: torch.maximum(a, b),
    "minimum": lambda a, b, n: torch.minimum(a, b),
    "less": lambda a, b, n: (torch.lt, torch.le, torch.eq, torch.ne)[n % 4](a, b),
    "logical": lambda a, b, n: (torch.logical_and, torch.logical_or, torch.logical_xor)[n % 3](a, b),
    "where": lambda a, b, n: torch.where(a > 0, a, b),
    "remainder": lambda a, b, n: torch.remainder(_real(a), _real(b).abs() + 1),
    "fmod": lambda a, b, n: torch.fmod(_real(a), 1.5) + b,
    "add scaled": lambda a, b, n: torch.add(a.float(), b.float(), alpha=2),
    "lerp": lambda a, b, n: torch.lerp(a.float(), b.float(), 0.25),
    "matmul": lambda a, b, n: a.float() @ b.float().transpose(-1, -2),
    "outer": lambda a, b, n: torch.outer(a.float().flatten(), b.float().flatten()[:5]),
    "einsum": lambda a, b, n: torch.einsum("...i,...i->...", a.float(), b.float()),
    "cat": lambda a, b, n: torch.cat([a, b], -1),
    "stack": lambda a, b, n: torch.stack([a, b], n % 2),
    "gather": lambda a, b, n: torch.gather(a, -1, _whole(b).long().abs() % a.shape[-1]),
    "index select": lambda a, b, n: a.index_select(0, _whole(b).long().flatten().abs()[:4] % a.shape[0]),
    "masked by other": lambda a, b, n: a.masked_fill(b > 0, 0),
    "add into clone": lambda a, b, n: a.clone().add_(b),
    "copy into slice": lambda a, b, n: (y := a.clone(), y[..., :1].copy_(b[..., :1]), y)[-1],
    "distance": lambda a, b, n: F.mse_loss(
        *torch.broadcast_tensors(a.float(), b.float()), reduction=("none", "sum")[n % 2]
    ),
    "embedding": lambda a, b, n: F.embedding(_whole(a).long().abs() % b.shape[0], b),
}

EFFECTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "update an input": lambda x, n: x.add_(1),
    "random": lambda x, n: x + torch.rand(()),
    "dropout": lambda x, n: F.dropout(_real(x), 0.5),
}
"""What a graph must not do if anything is to replace it; rare, and never to be installed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A graph as plain data: printing it is enough to see and to repeat a failure."""

    seed: int
    inputs: tuple[tuple[tuple[int, ...], torch.dtype, str], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    layer: str = ""


class Graph(nn.Module):
    """A recipe as a module."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        width = 6
        layers: dict[str, Callable[[], nn.Module]] = {
            "": nn.Identity,
            "linear": lambda: nn.Linear(width, width),
            "norm": lambda: nn.LayerNorm(width),
            "batch norm": lambda: nn.BatchNorm1d(width).eval(),
            "convolution": lambda: nn.Conv1d(4, 4, 3, padding=1),
        }
        self.layer = layers[recipe.layer]()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        if self.recipe.layer:
            values[0] = self.layer(values[0])
        for name, reads, number in self.recipe.steps:
            if name in BINARY:
                values.append(BINARY[name](values[reads[0]], values[reads[1]], number))
            else:
                values.append({**UNARY, **EFFECTS}[name](values[reads[0]], number))
        return tuple(values[index] for index in self.recipe.outputs)


_LAYER_SHAPES = {"linear": (4, 6), "norm": (4, 6), "batch norm": (4, 6), "convolution": (2, 4, 6)}


def make_input(shape: tuple[int, ...], dtype: torch.dtype, layout: str, generator: torch.Generator) -> Tensor:
    """A tensor of a kind of input; ``layout`` is ``plain``, ``transposed``, ``strided`` or ``offset``."""
    wide = tuple(2 * size for size in shape) if layout == "strided" else shape
    if layout == "transposed":
        wide = tuple(reversed(shape))
    if layout == "offset":
        wide = (shape[0] + 1, *shape[1:])
    if dtype.is_floating_point:
        made = torch.randn(wide, generator=generator).to(dtype)
    elif dtype == torch.bool:
        made = torch.randint(0, 2, wide, generator=generator).bool()
    else:
        made = torch.randint(0 if dtype == torch.uint8 else -5, 6, wide, generator=generator).to(dtype)
    if layout == "strided":
        return made[tuple(slice(None, None, 2) for _ in shape)]
    if layout == "transposed":
        return made.permute(*reversed(range(made.dim())))
    return made[1:] if layout == "offset" else made


def inputs_for(recipe: Recipe, seed: int) -> tuple[Tensor, ...]:
    """Inputs of a recipe's kinds; another seed gives other values."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(make_input(shape, dtype, layout, generator) for shape, dtype, layout in recipe.inputs)


def random_recipe(seed: int) -> Recipe:
    """A recipe that eager can run; the same for the same seed."""
    chance = random.Random(seed)
    layer = chance.choice(("", "", "", *_LAYER_SHAPES))
    inputs = []
    for index in range(chance.randint(1, 3)):
        dtype = chance.choice(FLOATS) if chance.random() < 0.75 else chance.choice(WHOLE)
        shape = chance.choice(SHAPES)
        if layer and index == 0:
            dtype, shape = torch.float32, _LAYER_SHAPES[layer]
        layout = chance.choice(("plain",) * 5 + ("transposed", "strided", "offset")) if shape else "plain"
        inputs.append((shape, dtype, layout))
    recipe = Recipe(seed, tuple(inputs), (), (0,), layer)
    wanted, tries = chance.randint(2, 9), 0
    while len(recipe.steps) < wanted and tries < 80:
        tries += 1
        count = len(recipe.inputs) + len(recipe.steps)
        recent = lambda: chance.randint(max(0, count - 4), count - 1)  # noqa: E731, B023 - used in this turn only
        pool = BINARY if chance.random() < 0.35 else EFFECTS if chance.random() < 0.02 else UNARY
        step = (chance.choice(sorted(pool)), (recent(), recent()), chance.randint(0, 11))
        longer = dataclasses.replace(recipe, steps=(*recipe.steps, step), outputs=(count,))
        if _runs(longer):
            recipe = longer
    first, last = len(recipe.inputs), len(recipe.inputs) + len(recipe.steps) - 1
    outputs = [last]
    while chance.random() < 0.35 and len(outputs) < 3:
        outputs.append(chance.randint(0 if chance.random() < 0.1 else min(first, last), last))
    return dataclasses.replace(recipe, outputs=tuple(outputs))


def _runs(recipe: Recipe) -> bool:
    """Whether eager can run it, within sizes that stay small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            with torch.no_grad():
                outputs = Graph(recipe)(*inputs_for(recipe, recipe.seed))
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError, ZeroDivisionError):
            return False
    return all(output.numel() <= 4096 for output in outputs)
