"""What a block and the ends of a model need while they run: measured once, on fake tensors of a skeleton."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from deepseek_lab.memory.devices.anatomy import skeleton
from deepseek_lab.memory.devices.runtime.loss import WithLoss
from deepseek_lab.memory.devices.runtime.shard import recompute
from deepseek_lab.memory.devices.way import Recompute


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Attention on fake tensors as fused kernels of a GPU do it, which keep a seed where there is dropout: a CPU's
    would keep the whole matrix of weights. Calls on real tensors are as ever.
    """
    original = functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if isinstance(query, FakeTensor):
            args = (*args[:3], 0.0, *args[4:]) if len(args) > 3 else args
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return original(query, *args, **kwargs)

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


class Alive(TorchDispatchMode):
    """Bytes of the storages that are alive, those known beforehand left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.peak = 0, 0
        self.flops, self.traffic = 0, 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def ignore(self, tensor: torch.Tensor) -> None:
        """Never count this tensor."""
        self._add(tensor, 0)

    def _add(self, tensor: torch.Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known and self._known[key][0]() is storage:
            return
        num_bytes = storage.nbytes() if size is None else size
        self.bytes += num_bytes
        self.peak = max(self.peak, self.bytes)

        def gone(_: Any, key: int = key, num_bytes: int = num_bytes) -> None:
            self.bytes -= num_bytes
            self._known.pop(key, None)

        self._known[key] = (weakref.ref(storage, gone), num_bytes)

    def mark(self) -> tuple[int, int]:
        """Bytes now, and the most since the last mark."""
        peak, self.peak = self.peak, self.bytes
        return self.bytes, peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        moved = count is None and not func.is_view and func.namespace != "prim"  # which tell of a tensor
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
                self.traffic += moved * leaf.numel() * leaf.element_size()
        if moved:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, torch.Tensor):
                    self.traffic += leaf.numel() * leaf.element_size()
        return result


@dataclasses.dataclass(frozen=True)
class Step:
    """What one block needs, in bytes and floating-point operations of one sample batch."""

    saved: int
    """Kept from its forward pass for its backward pass, its output included."""
    forward_peak: int
    """Most in its forward pass, above what was there before."""
    backward_peak: int
    """Most in its backward pass, above what was there before: gradients of its parameters included."""
    forward_flops: int
    recomputed_flops: int
    traffic: int
    """Bytes that operators other than matrix products read and write in both passes."""


@dataclasses.dataclass(frozen=True)
class Ends:
    """What comes before the first block and after the last one."""

    start_saved: int
    start_peak: int
    end_saved: int
    """What the end holds when the backward pass comes to the last block: gradients of its parameters, and of the
    block's output.
    """
    end_peak: int
    """Most in the end's forward and backward passes, above what was there before."""
    start_backward_peak: int
    """Most after the backward pass of the first block, above what was there before the start."""
    flops: int
    traffic: int
    input_bytes: int
    """The inputs, and what they become in the type that units compute in."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the model is called with: fake copies are made of it."""

    kwargs: Mapping[str, Any]
    labels: Any
    kind: str
    """The loss, see :class:`~deepseek_lab.memory.devices.runtime.loss.WithLoss`."""
    head: str = ""
    args: tuple[Any, ...] = ()


def fake(value: Any, mode: FakeTensorMode) -> Any:
    """The same with tensors of no content."""
    if isinstance(value, torch.Tensor):
        with mode:
            return torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, Mapping):
        return {key: fake(each, mode) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fake(each, mode) for each in value)
    return value


def measure(
    model: nn.Module, inputs: Inputs, how: Recompute, chunk: int, dtype: torch.dtype | None
) -> tuple[dict[int, Step], Ends]:
    """Steps by kind of block, and the ends, from a forward and a backward pass of a skeleton that computes in
    ``dtype`` (None: in the model's own).
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made, kept = skeleton(model, mode, dtype)
    marks: list[tuple[str, int, int, int, int, int]] = []
    alive = Alive()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mode)
        for each in (*made.parameters(), *made.buffers()):
            alive.ignore(each)
        whole = WithLoss(made, inputs.kind, inputs.head, chunk)
        args, kwargs, labels = (
            fake(each, mode) for each in (inputs.args, dict(inputs.kwargs), inputs.labels)
        )
        given = [leaf for leaf in tree_leaves((args, kwargs, labels)) if isinstance(leaf, torch.Tensor)]
        if dtype is not None:
            args, kwargs = cast(args, dtype), cast(kwargs, dtype)
        given += [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        for leaf in given:
            alive.ignore(leaf)

        def mark(what: str, at: int) -> None:
            now, peak = alive.mark()
            marks.append((what, at, now, peak, alive.flops, alive.traffic))

        for at, (path, _) in enumerate(kept):
            block = made.get_submodule(path)
            recompute(block, how)
            stack.enter_context(_watched(block, at, mark, alive.mark))
        stack.enter_context(alive)
        stack.enter_context(fused_attention())
        mark("begin", 0)
        loss = whole(labels, *args, **kwargs)
        mark("loss", 0)
        loss.backward()
        mark("end", 0)
    different = {leaf.untyped_storage()._cdata: leaf.untyped_storage().nbytes() for leaf in given}
    return _told(marks, [kind for _, kind in kept], sum(different.values()))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in ``dtype``, as FSDP casts a unit's inputs."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast(each, dtype) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cast(each, dtype) for each in value)
    return value


@contextlib.contextmanager
def _watched(block: nn.Module, at: int, mark: Any, forget: Any) -> Iterator[None]:
    parameters = list(block.parameters())

    def first(value: Any) -> torch.Tensor | None:
        return next(
            (leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor) and leaf.requires_grad),
            None,
        )

    def left(_: torch.Tensor) -> None:
        mark("left", at)
        for parameter in parameters:
            parameter.grad = None
        forget()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        mark("enter", at)
        entered = first((args, kwargs))
        if entered is not None:
            entered.register_hook(left)

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        mark("exit", at)
        made = first(output)
        if made is not None:
            made.register_hook(lambda _: mark("back", at))

    handles = [
        block.register_forward_pre_hook(before, with_kwargs=True),
        block.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _told(marks: list[Any], kinds: list[int], input_bytes: int) -> tuple[dict[int, Step], Ends]:
    places = {(what, at): index for index, (what, at, *_) in enumerate(marks)}

    def now(what: str, at: int) -> int:
        return int(marks[places[what, at]][2])

    def most(what: str, at: int, until: str, until_at: int) -> int:
        span = marks[places[what, at] + 1 : places[until, until_at] + 1]
        return int(max(mark[3] for mark in span))

    def between(what: str, at: int, until: str, until_at: int, column: int) -> int:
        return int(marks[places[until, until_at]][column] - marks[places[what, at]][column])

    last = len(kinds) - 1
    steps: dict[int, Step] = {}
    for at, kind in enumerate(kinds):
        forward = between("enter", at, "exit", at, 4)
        backward = between("back", at, "left", at, 4) if ("left", at) in places else 2 * forward
        steps[kind] = Step(
            saved=now("exit", at) - now("enter", at),
            forward_peak=most("enter", at, "exit", at) - now("enter", at),
            backward_peak=(
                most("back", at, "left", at) if ("left", at) in places else most("back", at, "end", 0)
            )
            - now("back", at),
            forward_flops=forward,
            recomputed_flops=max(0, backward - 2 * forward),
            traffic=between("enter", at, "exit", at, 5)
            + (between("back", at, "left", at, 5) if ("left", at) in places else 0),
        )
    first_left = ("left", 0) if ("left", 0) in places else ("back", 0)
    total = marks[places["end", 0]]
    inner_flops = sum(steps[kind].forward_flops * 3 + steps[kind].recomputed_flops for kind in kinds)
    inner_traffic = sum(steps[kind].traffic for kind in kinds)
    ends = Ends(
        start_saved=now("enter", 0) - now("begin", 0),
        start_peak=most("begin", 0, "enter", 0) - now("begin", 0),
        end_saved=now("back", last) - now("exit", last),
        end_peak=most("exit", last, "back", last) - now("exit", last),
        start_backward_peak=most(*first_left, "end", 0) - now("begin", 0),
        flops=max(0, total[4] - inner_flops),
        traffic=max(0, total[5] - inner_traffic),
        input_bytes=input_bytes,
    )
    return steps, ends
