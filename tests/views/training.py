"""The memory of real training steps of a small model, followed storage by storage.

``python -m tests.views.training PATH EVENTS`` writes a page; steps are repeated end to end until there are so many.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.timeline import MemoryEvent, MemoryTimeline
from deepseek_lab.views import _timeline

CELL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = parts[0] @ parts[1].transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = (scores.softmax(-1) @ parts[2]).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self, layers=6, width=64, heads=4, words=500):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.layers = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, ids):
        return self.head(self.norm(self.layers(self.embed(ids))))


def step(model, optimizer, ids):
    logits = model(ids)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
"""


class Recorder(TorchDispatchMode):
    """Sees a storage when an operator first returns it, and when nothing holds it any more."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.rows: list[list[Any]] = []
        self.category: dict[int, str] = {}
        self.modules: list[str] = []
        self.operator, self.phase = "", "forward"
        self._file = file
        self._blocks: dict[int, int] = {}
        self._start = time.perf_counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operator = str(func).removesuffix(".default")
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf, "temporary")
        return result

    def see(self, tensor: torch.Tensor, category: str) -> None:
        """A tensor that is there; its storage counts where it is new."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._blocks or storage.nbytes() == 0:
            return
        block = len(self.category)
        self._blocks[storage._cdata] = block
        self.category[block] = category
        self._row(storage.nbytes(), block)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes(), block).atexit = False

    def mark(self, tensor: torch.Tensor, category: str) -> None:
        """Say what a tensor that was seen is."""
        block = self._blocks.get(tensor.untyped_storage()._cdata)
        if block is not None:
            self.category[block] = category

    def alive(self, category: str) -> list[int]:
        """Blocks of a category that are there."""
        return [block for block in self._blocks.values() if self.category[block] == category]

    def _gone(self, key: int, size: int, block: int) -> None:
        if self._blocks.pop(key, None) is not None:
            self._row(-size, block)

    def _row(self, size: int, block: int) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self._file:
            frame = frame.f_back
        line = frame.f_lineno if frame is not None else 0
        module = self.modules[-1] if self.modules else ""
        now = time.perf_counter() - self._start
        self.rows.append([now, size, block, module, self.operator, self._file if line else "", line])

    def events(self) -> list[MemoryEvent]:
        """What was seen, with what its blocks turned out to be."""
        return [
            MemoryEvent(at, size, block, self.category[block], module, operator, file, line)
            for at, size, block, module, operator, file, line in self.rows
        ]


def record(steps: int = 2) -> tuple[list[MemoryEvent], list[MemoryEvent]]:
    """Real steps: what happened in the first, which makes the optimizer's state, and in others, which leave nothing."""
    torch.manual_seed(0)
    file = "cell.py"
    names: dict[str, Any] = {}
    exec(compile(CELL, file, "exec"), names)  # the cell's lines are what is to be found again
    model = names["Model"]()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = torch.randint(0, 500, (4, 48))
    recorder = Recorder(file)
    _follow(model, recorder)
    for name, parameter in model.named_parameters():
        recorder.modules = [name.rpartition(".")[0]]
        recorder.see(parameter, "parameters")
        parameter.register_post_accumulate_grad_hook(
            lambda leaf: recorder.mark(leaf.grad, "gradients") if leaf.grad is not None else None
        )
    recorder.modules = []
    recorder.see(ids, "inputs")
    ends = []
    for _ in range(steps):
        with recorder:
            names["step"](model, optimizer, ids)
        for state in optimizer.state.values():
            for value in state.values():
                recorder.mark(value, "optimizer state")
        ends.append(len(recorder.rows))
    events = recorder.events()
    return events[: ends[0]], events[ends[0] :]


def _follow(model: torch.nn.Module, recorder: Recorder) -> None:
    """Keep the path of the module that runs, in the forward and in the backward pass."""

    def entered(path: str) -> Callable[..., None]:
        return lambda *_: recorder.modules.append(path)

    def left(*_: Any) -> None:
        if recorder.modules:
            recorder.modules.pop()

    def begun(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        for block in recorder.alive(
            "temporary"
        ):  # what the forward pass leaves is kept for the backward pass
            recorder.category[block] = "activations"

    for path, module in model.named_modules():
        if path:
            module.register_forward_pre_hook(entered(path))
            module.register_forward_hook(left)
        if path and not isinstance(module, torch.nn.Embedding):  # whose inputs have no gradient to hook on
            module.register_full_backward_pre_hook(entered(path))
            module.register_full_backward_hook(left)
    model.register_forward_hook(begun)


def repeated(count: int, steps: int = 24) -> MemoryTimeline:
    """So many events: real steps, each with its own times, again and again."""
    before, step = record(steps)
    events = list(before)
    length = step[-1].at_s - step[0].at_s + 1e-6
    blocks = 1 + max(event.block for event in step)
    copy = 0
    while len(events) < count:
        events += [
            event._replace(at_s=event.at_s + copy * length, block=event.block + copy * blocks)
            for event in step
        ]
        copy += 1
    return MemoryTimeline.of(events[:count], device="cpu")


def main(path: str, count: int) -> None:
    """Write the page."""
    timeline = repeated(count)
    page = _timeline.timeline_page(timeline, "training steps")
    Path(path).write_text(page, encoding="utf-8")
    sys.stdout.write(f"{len(timeline)} events, page of {len(page) / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
