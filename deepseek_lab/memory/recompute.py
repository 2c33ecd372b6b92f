"""Recomputation of a part of a model in the backward pass: all of it, or all but the results of some operations.

It is ``torch.utils.checkpoint`` (Chen et al. 2016, arXiv:1604.06174) with policies by operation, and what a checkpoint
does not look after: buffers that a forward pass changes, and parts that compute something else the second time.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from deepseek_lab.capture.observe import ModuleObserver
from deepseek_lab.memory.patches import Patch
from deepseek_lab.memory.units import Unit

Keep = frozenset[int]
"""Numbers of operations, in the order in which a part runs them, whose results are kept."""
ALL_AGAIN: Keep = frozenset()
Watch = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_PLAIN = (int, float, bool, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class Recomputed:
    """A part of a model that is recomputed, once it has shown that it can be.

    Args:
        unit: Which.
        refused: Told why the part is left as it is.
        trusted: Take for granted that it can be, as for a copy of a part that has shown it.
    """

    def __init__(
        self, unit: Unit, refused: Callable[[str], None], *, trusted: Recomputed | None = None
    ) -> None:
        self.unit, self._refused = unit, refused
        self.keep: Keep | None = ALL_AGAIN
        """None leaves the part as it is."""
        self.asked = False
        """Whether to find out if it can be recomputed, although it is not yet."""
        self.watch: Watch | None = None
        """Makes the next call of the part's own forward, to look at it."""
        self.copies_inputs = False
        """Whether it keeps copies of what it is given, as somebody may write to that before the backward pass."""
        self.reason: str = trusted.reason if trusted is not None else ""
        self._known = trusted is not None
        self._uses_random: bool = trusted._uses_random if trusted is not None else True
        self._changing: frozenset[tuple[str, str]] = (
            trusted._changing if trusted is not None else frozenset[tuple[str, str]]()
        )
        self._restores_random = trusted is None
        self._patch = Patch(unit.module, self._forward)

    def install(self) -> Recomputed:
        """Recompute from the next call on."""
        self._patch.install()
        return self

    def remove(self) -> None:
        """The part as it was."""
        self._patch.remove()

    @property
    def usable(self) -> bool:
        """Whether the part has shown that it can be recomputed."""
        return self._known and not self.reason

    # -- a call ---------------------------------------------------------------------------------------

    def _forward(self, before: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        idle = self.keep is None and (self._known or not self.asked)
        if not torch.is_grad_enabled() or idle or self.reason or torch.compiler.is_compiling():
            return self._plain(before, args, kwargs)
        if not self._differs(args, kwargs):
            return before(*args, **kwargs)
        module = self.unit.module
        if any(one._forward_hooks or one._forward_pre_hooks for one in module.modules() if one is not module):
            if not self._known:
                self._refuse("a module in it has hooks, which would run twice")
            return self._plain(before, args, kwargs)
        if not self._known:
            self._try(before, args, kwargs)
            self._known = True
            if self.reason or self.keep is None:
                return self._plain(before, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            with ModuleObserver.unseen():  # the second time no module of the cell's calls it
                return self._plain(before, args, kwargs)

        if self.copies_inputs:
            args, kwargs = tree_map(_clone, (args, kwargs))
        tensors, again = _each_once(args, kwargs)

        def run_again(*tensors: Tensor) -> Any:
            args, kwargs = again(tensors)
            return run(*args, **kwargs)

        return checkpoint(
            run_again,
            *tensors,
            use_reentrant=False,
            preserve_rng_state=self._uses_random and self._restores_random,
            context_fn=self._contexts,
        )

    def _plain(self, before: Any, args: Any, kwargs: Any) -> Any:
        __tracebackhide__ = True
        watch, self.watch = self.watch, None  # the second time nobody watches
        return before(*args, **kwargs) if watch is None else watch(before, args, kwargs)

    def _differs(self, args: Any, kwargs: Any) -> bool:
        """Whether there is anything to differentiate."""
        return any(
            isinstance(one, Tensor) and one.requires_grad for one in tree_leaves((args, kwargs))
        ) or any(one.requires_grad for one in self.unit.module.parameters())

    def _contexts(self) -> tuple[Any, Any]:
        outer = contextlib.nullcontext(), _Buffers(self.unit.module, self._changing)
        if not self.keep:
            return outer
        keep, numbers = self.keep, itertools.count()

        def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            kept = next(numbers) in keep
            return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

        caching, cached = create_selective_checkpoint_contexts(policy)
        return caching, _Both(outer[1], cached)

    # -- whether it can be recomputed -------------------------------------------------------------------

    def _refuse(self, reason: str) -> None:
        self.reason, self._known = reason, True
        self._refused(reason)

    def leave_alone(self, reason: str) -> None:
        """Do not recompute this part."""
        if not self.reason:
            self._refuse(reason)

    def _try(self, before: Any, args: Any, kwargs: Any) -> None:
        """Run the part twice on what it is given, with nothing changed by it, and compare."""
        module = self.unit.module
        odd = next((type(one).__name__ for one in tree_leaves((args, kwargs)) if not _is_plain(one)), None)
        if odd is not None:
            self._refuse(f"it is given an object that it may change ({odd})")
            return
        attributes = _attributes(module)
        buffers = {
            (path, name): one._version
            for path, owner in module.named_modules()
            for name, one in owner._buffers.items()
            if one is not None
        }
        results = []
        written = False
        with torch.no_grad(), random_states():
            for _ in range(2):
                with random_states(foreign=False) as used, _Buffers(module, frozenset(buffers)) as copies:
                    own_args, own_kwargs = tree_map(_clone, (args, kwargs))
                    made = before(*own_args, **own_kwargs)
                    written = written or any(
                        one._version for one in tree_leaves((own_args, own_kwargs)) if isinstance(one, Tensor)
                    )
                    changed = copies.changed()
                self._uses_random = used()
                results.append([one for one in tree_leaves(made) if isinstance(one, Tensor)])
                del made
        self._changing = frozenset(changed)
        if _attributes(module) != attributes:
            self._refuse("its forward pass sets attributes")
        elif written:
            self._refuse("it writes to what it is given")
        elif not _same(*results):
            self._refuse("it does not compute the same a second time")


def _each_once(args: Any, kwargs: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a call, and what puts others in their place.

    One that is given twice is the same one again in a checkpoint's second run, which by itself it would not be:
    ``nn.MultiheadAttention`` computes something else for three tensors than for one three times.
    """
    leaves, spec = tree_flatten((args, kwargs))
    places: dict[int, int] = {}
    tensors: list[Tensor] = []
    for one in leaves:
        if isinstance(one, Tensor) and id(one) not in places:
            places[id(one)] = len(tensors)
            tensors.append(one)
    # Tensors themselves are not to be kept here.
    template = [(places[id(one)], None) if isinstance(one, Tensor) else (None, one) for one in leaves]

    def again(given: Sequence[Tensor]) -> Any:
        return tree_unflatten([one if at is None else given[at] for at, one in template], spec)

    return tensors, again


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, (Tensor, *_PLAIN))


def _attributes(module: nn.Module) -> list[Any]:
    """What a forward pass may set: which objects the attributes are, and what plain ones say."""
    return [
        (path, name, value if isinstance(value, _PLAIN) else id(value))
        for path, one in module.named_modules()
        for name, value in one.__dict__.items()
        if name != "forward"
    ]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not torch.equal(one, other):
            # A GPU adds in no fixed order; NaN is no reason either.
            rounding = 0.0 if one.device.type == "cpu" else 1e-3
            if not torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True):
                return False
    return True


def foreign_states() -> tuple[Any, ...]:
    """States of the random generators that are not PyTorch's."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (random.getstate(),)
    name, keys, *rest = numpy.random.get_state()
    return random.getstate(), name, keys.tobytes(), *rest


@contextlib.contextmanager
def random_states(*, foreign: bool = True) -> Iterator[Callable[[], bool]]:
    """Random states put back at the end, Python's and NumPy's too if ``foreign``, as a checkpoint does not.

    What it gives says whether PyTorch's has moved.
    """
    state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    numbers = numpy.random.get_state() if numpy is not None else None
    moved = False

    def has_moved() -> bool:
        return moved

    try:
        yield has_moved
    finally:
        moved = not torch.equal(state, torch.get_rng_state()) or any(
            not torch.equal(old, new) for old, new in zip(devices, _device_states(devices), strict=True)
        )
        torch.set_rng_state(state)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        if foreign:
            random.setstate(python)
        if foreign and numpy is not None:
            numpy.random.set_state(numbers)


def _device_states(devices: list[Tensor]) -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if devices else []


class _Buffers:
    """While entered, copies stand in for buffers: what a forward pass adds to them is not added a second time.

    They are exchanged, not written back: the backward pass asks that nobody has written to what it was given.
    """

    def __init__(self, module: nn.Module, places: frozenset[tuple[str, str]]) -> None:
        self._owners = [(module.get_submodule(path), path, name) for path, name in sorted(places)]
        self._before: list[Tensor | None] = []
        self._copies: list[Tensor | None] = []

    def __enter__(self) -> _Buffers:
        self._before = [owner._buffers[name] for owner, _, name in self._owners]
        with torch.no_grad():
            self._copies = [None if one is None else one.detach().clone() for one in self._before]
        for (owner, _, name), copy in zip(self._owners, self._copies, strict=True):
            owner._buffers[name] = copy
        return self

    def changed(self) -> set[tuple[str, str]]:
        """Places of the copies that were written to, or replaced.

        By their values: batch norm writes to its running statistics and tells no version counter.
        """
        return {
            (path, name)
            for (owner, path, name), copy, before in zip(
                self._owners, self._copies, self._before, strict=True
            )
            if (now := owner._buffers[name]) is not copy
            or (now is not None and before is not None and not torch.equal(now, before))
        }

    def __exit__(self, *error: object) -> None:
        for (owner, _, name), one in zip(self._owners, self._before, strict=True):
            owner._buffers[name] = one
        self._before, self._copies = [], []


class _Both:
    """Two context managers as one, entered in order."""

    def __init__(self, first: Any, second: Any) -> None:
        self._first, self._second = first, second

    def __enter__(self) -> None:
        self._first.__enter__()
        self._second.__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            self._second.__exit__(*error)
        finally:
            self._first.__exit__(*error)
