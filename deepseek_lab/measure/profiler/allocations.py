"""From what the profiler recorded to a timeline of memory: what every block was for, and who made it."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.multiprocessing.reductions import StorageWeakRef

from deepseek_lab.base.timeline import MemoryEvent, MemoryTimeline
from deepseek_lab.measure.profiler.digest import BACKWARD, OPTIMIZER, is_small, walk
from deepseek_lab.measure.profiler.recorder import Module
from deepseek_lab.measure.profiler.sampler import Place


@dataclasses.dataclass(frozen=True)
class Known:
    """A block that was there before the recording began."""

    address: int
    bytes: int
    category: str
    module: str
    storage: StorageWeakRef


class Held:
    """What models, optimisers and tensors of the user's names hold now, and when each of it goes.

    The profiler knows nothing of blocks that were there before it, not even that they are freed.

    Args:
        namespace: The user's names.
        device: The kind of device whose memory it is about.
    """

    def __init__(self, namespace: Mapping[str, Any], device: str = "cpu") -> None:
        self.device = device
        self.blocks: dict[int, Known] = {}
        """By address."""
        self._freed_ns: dict[int, int] = {}
        self._tensors: list[weakref.ref[torch.Tensor]] = []
        values = [(name, value) for name, value in list(namespace.items()) if not name.startswith("_")]
        for name, value in values:
            if isinstance(value, torch.nn.Module):
                for path, module in value.named_modules(prefix=name):
                    for one in module._parameters.values():
                        self._add(one, "parameters", path)
                        self._add(None if one is None else one.grad, "gradients", path)
                    for one in module._buffers.values():
                        self._add(one, "parameters", path)
        for name, value in values:
            if isinstance(value, torch.optim.Optimizer):
                for state in value.state.values():
                    for one in state.values() if isinstance(state, dict) else ():
                        self._add(one, "optimizer state", name)
        for name, value in values:
            self._add(value, "tensors", name)

    def _add(self, tensor: Any, category: str, module: str) -> None:
        if (
            not isinstance(tensor, torch.Tensor)
            or tensor.layout != torch.strided
            or tensor.device.type != self.device
        ):
            return
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self.blocks:
            return
        self.blocks[address] = Known(address, size, category, module, StorageWeakRef(storage))

        def gone(_: object) -> None:
            self._freed_ns[address] = time.time_ns()

        self._tensors.append(weakref.ref(tensor, gone))

    def freed_ns(self, address: int) -> int | None:
        """When a block was freed, in ns of the system's clock; None where it is still there."""
        at_ns = self._freed_ns.get(address)
        return at_ns if at_ns is not None and self.blocks[address].storage.expired() else None


@dataclasses.dataclass
class _Block:
    """One block's life, as far as it was recorded."""

    start_ns: int
    bytes: int
    address: int
    operator: str
    modules: tuple[str, ...]
    line: Place | None
    phase: str
    turn: int
    """Number of the phase: how many phases had begun before it."""
    end_ns: int | None = None
    end_turn: int | None = None
    end_phase: str = ""


@dataclasses.dataclass(frozen=True)
class _Where:
    line: Place | None = None
    modules: tuple[str, ...] = ()
    operator: str = ""
    phase: str = ""


class Allocations:
    """The blocks of windows that follow each other without a gap.

    Args:
        places: Lines by the name of their range.
        modules: Modules by the name of theirs.
    """

    def __init__(self, places: Mapping[str, Place], modules: Mapping[str, Module]) -> None:
        self._places, self._known = places, modules
        self._device = "cpu"
        self._made_by: dict[int, tuple[str, ...]] = {}
        self._alive: dict[int, _Block] = {}
        self._blocks: list[_Block] = []
        self._phase, self._turn = "", 0

    def timeline(self, windows: Sequence[Any], held: Held) -> MemoryTimeline:
        """Every allocation and free on the device that ``held`` is about; what is held from the start comes first.

        Categories: what a forward pass leaves for the backward pass is ``activations``; what a backward pass leaves,
        ``gradients``; what an optimiser's step leaves, ``optimizer state``; all else that is freed in the phase that
        allocated it, ``temporary``.
        """
        self._device = held.device
        start_ns = 0
        for window in windows:
            roots = window.experimental_event_tree()
            start_ns = start_ns or min((event.start_time_ns for event in roots), default=0)
            walk(roots, _Where(), self._take)
        events = list(self._before(held, start_ns))
        events += [one for block in self._blocks for one in self._rows(block, start_ns)]
        # At one instant a free comes first: its address may be used again at once.
        events.sort(key=lambda item: (item[0], item[1].bytes > 0))
        return MemoryTimeline.of([one for _, one in events], device=held.device)

    def _take(self, event: Any, where: _Where) -> _Where:
        kind, fields = event.typed
        if kind == _EventType.Allocation:
            if fields.device.type == self._device:
                self._allocated(fields, event.start_time_ns, where)
            return where
        if kind != _EventType.TorchOp:
            return where
        name = fields.name
        if name in self._places:
            return dataclasses.replace(where, line=self._places[name])
        if name in self._known:
            return dataclasses.replace(where, modules=(*where.modules, name), phase=where.phase or "forward")
        if name.startswith(BACKWARD):
            modules = self._made_by.get(fields.sequence_number, ())
            return dataclasses.replace(
                where, modules=modules, phase="backward", operator=name[len(BACKWARD) :]
            )
        if name.startswith(OPTIMIZER):
            return dataclasses.replace(where, phase="optimizer", operator=name)
        if fields.sequence_number >= 0 and where.phase != "backward":
            self._made_by[fields.sequence_number] = where.modules
        if is_small(name) and where.operator:
            return where
        return dataclasses.replace(where, operator=name.removeprefix("aten::"))

    def _allocated(self, fields: Any, at_ns: int, where: _Where) -> None:
        phase = where.phase or "forward"
        if phase != self._phase:
            self._phase, self._turn = phase, self._turn + 1
        size, address = fields.alloc_size, fields.ptr
        if size > 0:
            self._freed(address, at_ns, phase)  # unseen, by another thread, if it is alive: it is used again
            block = _Block(at_ns, size, address, where.operator, where.modules, where.line, phase, self._turn)
            self._alive[address] = block
            self._blocks.append(block)
        elif size < 0:
            self._freed(address, at_ns, phase)

    def _freed(self, address: int, at_ns: int, phase: str) -> None:
        block = self._alive.pop(address, None)
        if block is not None:
            block.end_ns, block.end_turn, block.end_phase = at_ns, self._turn, phase

    def _before(self, held: Held, start_ns: int) -> Iterable[tuple[int, MemoryEvent]]:
        """Blocks that were there from the start and are known by name."""
        first: dict[int, _Block] = {}
        for block in self._blocks:
            first.setdefault(block.address, block)
        for address, one in held.blocks.items():
            reused = first.get(address)
            end_ns = held.freed_ns(address)
            if reused is not None:
                # Its address was used again, so it was freed before that.
                end_ns = min(end_ns or reused.start_ns, reused.start_ns)
            yield -1, MemoryEvent(0.0, one.bytes, address, one.category, one.module)
            if end_ns is not None:
                yield end_ns, MemoryEvent(max(0, end_ns - start_ns) * 1e-9, -one.bytes, address)

    def _rows(self, block: _Block, start_ns: int) -> Iterable[tuple[int, MemoryEvent]]:
        category = _category(block)
        module = block.modules[-1] if block.modules else ""
        file, line = block.line or ("", 0)
        at_s = max(0, block.start_ns - start_ns) * 1e-9
        yield (
            block.start_ns,
            MemoryEvent(at_s, block.bytes, block.address, category, module, block.operator, file, line),
        )
        if block.end_ns is not None:
            at_s = max(0, block.end_ns - start_ns) * 1e-9
            yield block.end_ns, MemoryEvent(at_s, -block.bytes, block.address)


def _category(block: _Block) -> str:
    stays = block.end_turn is None or block.end_turn > block.turn
    if not stays:
        return "temporary"
    if block.phase == "backward":
        return "gradients"
    if block.phase == "optimizer":
        return "optimizer state"
    return "activations" if block.end_phase == "backward" or block.end_turn is None else "temporary"
