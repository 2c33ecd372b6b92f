"""What keeps tensors alive: every root that leads to them, and the bytes that go when it lets go.

Memory is counted once, by storage, and belongs to the first root that leads to it, in the order in which roots are
given. A result that can be differentiated also holds what its graph has saved for the backward pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_OBJECTS = 2_000_000
"""Objects that are looked at from one root."""
_PASSED_BY = (
    type,
    types.ModuleType,
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.dtype,
    torch.device,
)


@dataclasses.dataclass(frozen=True)
class Root:
    """Where a search begins.

    Attributes:
        kind: What kind of holder it is: ``name``, ``output``, ``error``, ``closure``, ``optimizer``,
            ``compiler cache``, ``module`` or ``other``.
        name: What people call it.
        values: The objects that it holds.
    """

    kind: str
    name: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Holder:
    """One root with what it holds.

    Attributes:
        kind, name: The root's.
        num_bytes: Bytes of storages to which it is the first to lead.
        num_tensors: How many storages those are.
        graph_bytes: Of those bytes, what backward passes that were not run hold.
    """

    kind: str
    name: str
    num_bytes: int
    num_tensors: int
    graph_bytes: int = 0


def alive() -> dict[int, int]:
    """Bytes of every storage that a tensor of Python's is on, or a graph behind one, by address."""
    seen = _Seen()
    for one in _tensors():
        seen.tensor(one)
    return seen.storages


def _tensors() -> list[Tensor]:
    # ``isinstance`` would ask proxies for their class, and those may load or compute something.
    return [one for one in gc.get_objects() if issubclass(type(one), Tensor)]


class _Seen:
    """Storages and graph nodes that were counted."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}
        self.graph_bytes = 0
        self._nodes: set[Any] = set()

    def tensor(self, tensor: Tensor) -> None:
        """Count a tensor, its gradient and its graph."""
        self._storage(tensor)
        if tensor.is_leaf and tensor.grad is not None:
            self._storage(tensor.grad)
        if (node := tensor.grad_fn) is not None:
            before = sum(self.storages.values())
            self._graph(node)
            self.graph_bytes += sum(self.storages.values()) - before

    def _storage(self, tensor: Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
        except (RuntimeError, NotImplementedError):  # meta, fake, sparse: no memory of this kind
            return
        if address and size:
            self.storages.setdefault(address, size)

    def _graph(self, first: Any) -> None:
        left = [first]
        while left:
            node = left.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes.add(node)
            left.extend(following for following, _ in node.next_functions)
            for saved in _saved(node):
                self._storage(saved)


def _saved(node: Any) -> Iterator[Tensor]:
    """Tensors that a node of the graph has kept for the backward pass; none where that was run."""
    names = [name for name in dir(type(node)) if name.startswith("_saved_")]
    for name in [*names, "saved_tensors"]:
        try:
            value = getattr(node, name, None)
        except RuntimeError:  # freed, or changed in place since
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Tensor):
                yield one


def survey(roots: Iterable[Root]) -> tuple[list[Holder], int]:
    """Find out what holds tensors.

    Args:
        roots: Where to look, in the order in which memory is told to belong to them.

    Returns:
        The holders that hold any bytes, in the same order and then what is found without a root: closures, optimisers,
        compiler caches, modules of Python, the rest. And the bytes of all tensors together.
    """
    seen, visited = _Seen(), set[int]()
    found: list[Holder] = []

    def take(root: Root) -> None:
        before, count = sum(seen.storages.values()), len(seen.storages)
        seen.graph_bytes = 0
        for one in _reachable(root.values, visited):
            seen.tensor(one)
        gained = sum(seen.storages.values()) - before
        if gained:
            found.append(
                Holder(
                    root.kind, root.name, gained, len(seen.storages) - count, min(seen.graph_bytes, gained)
                )
            )

    for root in roots:
        take(root)
    for root in _without_a_name():
        take(root)
    take(Root("other", "not found from any name", tuple(_tensors())))
    return found, sum(seen.storages.values())


def _without_a_name() -> Iterator[Root]:
    """Objects that are known to hold tensors although nobody can name them."""
    objects = gc.get_objects()
    optimizers = [one for one in objects if issubclass(type(one), torch.optim.Optimizer)]
    for one in optimizers:
        held = (one.state, one.param_groups)
        yield Root("optimizer", f"{type(one).__name__} of {len(one.state)} parameters", held)
    for one in objects:
        if type(one) is types.FunctionType and one.__closure__ and not _is_library(one.__module__):
            yield Root(
                "closure", f"{one.__module__}.{one.__qualname__}", tuple(map(_content, one.__closure__))
            )
    graphs = [one for one in objects if issubclass(type(one), torch.fx.GraphModule)]
    if graphs:
        yield Root("compiler cache", "graphs of torch.compile", tuple(graphs))
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and not _is_library(name) and name != "__main__":
            for attribute, value in list(vars(module).items()):
                if isinstance(value, list | dict | tuple | set | Tensor | torch.nn.Module):
                    yield Root("module", f"{name}.{attribute}", (value,))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty so far
        return None


def _is_library(name: str | None) -> bool:
    own = (
        "torch",
        "deepseek_lab",
        "IPython",
        "ipykernel",
        "traitlets",
        "triton",
        "numpy",
        "_pytest",
        "pytest",
    )
    first = (name or "").partition(".")[0]
    return first in own or first in sys.stdlib_module_names


def _reachable(values: Sequence[Any], visited: set[int]) -> Iterator[Tensor]:
    """Tensors to which objects lead, by way of containers, attributes, closures and frames."""
    left, count = list(values), 0
    while left and count < MAX_OBJECTS:
        one = left.pop()
        if isinstance(one, _PASSED_BY) or id(one) in visited:
            continue
        visited.add(id(one))
        count += 1
        if issubclass(type(one), Tensor):
            yield one
        left.extend(_next(one))


def _next(one: Any) -> Iterable[Any]:
    """What an object holds, without the namespaces that functions and frames only look things up in."""
    if isinstance(one, types.FrameType):
        # A library's frame leads to whatever its objects know; a cell's own has the notebook's names, told elsewhere.
        module = one.f_globals.get("__name__")
        cell = one.f_locals is one.f_globals
        return [] if cell or (_is_library(module) and module != "__main__") else list(one.f_locals.values())
    if isinstance(one, types.TracebackType):
        return [one.tb_frame, one.tb_next]
    if isinstance(one, types.FunctionType):
        return [*map(_content, one.__closure__ or ()), one.__defaults__, one.__kwdefaults__, vars(one)]
    if isinstance(one, BaseException):
        return [one.__traceback__, one.__cause__, one.__context__, one.args, vars(one)]
    return gc.get_referents(one)


def frames_of(error: BaseException | types.TracebackType | None) -> list[tuple[str, Any]]:
    """Each frame of an error's traceback, by function and line, with its local variables."""
    traceback = error.__traceback__ if isinstance(error, BaseException) else error
    made = []
    while traceback is not None:
        frame = traceback.tb_frame
        made.append((f"{frame.f_code.co_name}, line {traceback.tb_lineno}", frame))
        traceback = traceback.tb_next
    return made


def give_back() -> None:
    """Collect garbage, and have PyTorch's caches and the C library give freed memory back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
