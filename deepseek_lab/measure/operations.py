"""A captured graph measured node by node: time, work, memory, values and gradients of each operation.

The user's state stays as it was: what the graph would write to is copied first, no gradient reaches a parameter, and
random numbers, gradient mode and autocast are afterwards as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.base.profile import GraphProfile, OperationProfile, Statistics
from deepseek_lab.measure.nodes import NodeByNode
from deepseek_lab.measure.operators import Operators, WouldWrite, distinct_bytes, storage, tensors_in
from deepseek_lab.measure.race import involuntary_switches, is_quiet
from deepseek_lab.measure.values import statistics_of

BUDGET_S = 5.0
MAX_ROUNDS = 15
TIMING_SHARE = 0.7
"""Share of the time that rounds may take; the rest is for looking at values."""
GRADIENT_OF = "the sum of the outputs"
MIN_QUIET = 3
"""Rounds without another process in the way from which on only those count."""
_LARGE_BYTES = 1 << 26
_NUM_EMPTY = 1001
"""Calls of nothing from which the cost of measuring is told."""


class _Over(Exception):
    """The time for measuring is used up."""


@dataclasses.dataclass
class _Seen:
    """What is known of one node so far."""

    flops: int | None = None
    read_bytes: int | None = None
    result_bytes: int | None = None
    values: Statistics | None = None
    gradient: Statistics | None = None


@dataclasses.dataclass
class _Round:
    """Seconds of one time through the graph, as one call and by node."""

    whole_s: float | None = None
    nodes_s: dict[str, float] = dataclasses.field(default_factory=dict)
    complete: bool = False
    quiet: bool = False
    """Whether no other process took the processor away."""


class _Measuring:
    """One graph being measured; what is known can be asked for at any time."""

    def __init__(self, module: fx.GraphModule, arguments: Sequence[Any]) -> None:
        self.graph, self.module = NodeByNode(module), module
        self.arguments = [one.detach() if isinstance(one, Tensor) else one for one in arguments]
        self.seen = {node.name: _Seen() for node in self.graph.nodes}
        self._rounds: list[_Round] = []
        self.notes: list[str] = []
        self.written: frozenset[int] = frozenset()
        """Positions of the arguments that the graph writes to."""
        cuda = any(one.is_cuda for one in tensors_in(self.arguments))
        self._wait: Callable[[], None] | None = torch.cuda.synchronize if cuda else None

    def copies(self, positions: Collection[int]) -> list[Any]:
        """The arguments, those at ``positions`` as copies."""
        return [
            one.clone() if index in positions and isinstance(one, Tensor) else one
            for index, one in enumerate(self.arguments)
        ]

    def look(self, copied: Collection[int]) -> None:
        """Run once under the eyes of a mode: work and memory of every node, and what the graph writes to."""
        positions = frozenset(copied)
        while True:
            try:
                return self._look(positions)
            except WouldWrite as found:
                positions |= found.positions

    def _look(self, copied: frozenset[int]) -> None:
        arguments = self.copies(copied)
        others = frozenset(range(len(arguments))) - copied
        mode = Operators(_memory(arguments, others), _memory(arguments, copied))

        def given(node: fx.Node, value: Any) -> None:
            if isinstance(value, Tensor):
                self.seen[node.name].result_bytes = value.numel() * value.element_size()

        def execute(
            node: fx.Node, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
        ) -> Any:
            mode.restart()
            with mode:
                value = call(*args, **kwargs)
            seen = self.seen[node.name]
            seen.flops, seen.read_bytes = mode.flops, mode.read_bytes
            results = tensors_in(value)
            if results:
                seen.result_bytes = sum(one.numel() * one.element_size() for one in results)
            return value

        self.graph.run(arguments, execute, given)
        self.written = mode.written

    def rounds(self, count: int, until_s: float) -> None:
        """Time the whole and the nodes in turns, until the rounds or the time are used up; one round at least."""
        with contextlib.suppress(_Over):
            while len(self._rounds) < count and (not self._rounds or time.perf_counter() < until_s):
                self._round(len(self._rounds) % 2 == 0, until_s if self._rounds else None)

    def _round(self, whole_first: bool, until_s: float | None) -> None:
        before, start = involuntary_switches(), time.perf_counter()
        made = _Round()
        self._rounds.append(made)
        for whole in (whole_first, not whole_first):
            if whole:
                made.whole_s = self._time_whole()
            else:
                self._time_nodes(made.nodes_s, until_s)
        made.complete = True
        made.quiet = is_quiet(involuntary_switches() - before, 2, time.perf_counter() - start)

    def _time_whole(self) -> float:
        arguments = self.copies(self.written)
        self._clear()
        start = time.perf_counter()
        self.module.forward(*arguments)
        self._clear()
        return time.perf_counter() - start

    def _clear(self) -> None:
        if self._wait is not None:
            self._wait()

    def _time_nodes(self, times_s: dict[str, float], until_s: float | None) -> None:
        def execute(
            node: fx.Node, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
        ) -> Any:
            if until_s is not None and time.perf_counter() >= until_s:
                raise _Over
            value, times_s[node.name] = timed(call, args, kwargs, self._wait)
            return value

        self.graph.run(self.copies(self.written), execute)

    def values(self, live: Collection[int], until_s: float) -> None:
        """Run once more and look at every result and at the arguments at ``live``, while there is time."""
        skipped = 0
        inputs = {node.name for node in (self.graph.nodes[index] for index in live)}

        def given(node: fx.Node, value: Any) -> None:
            if node.name in inputs:
                look(node, value)

        def look(node: fx.Node, value: Any) -> None:
            nonlocal skipped
            if isinstance(value, Tensor) and time.perf_counter() < until_s:
                self.seen[node.name].values = statistics_of(value)
            elif isinstance(value, Tensor):
                skipped += 1

        def execute(
            node: fx.Node, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
        ) -> Any:
            value = call(*args, **kwargs)
            look(node, value)
            return value

        if time.perf_counter() >= until_s:
            self.notes.append(
                "the time was used up before values were looked at; give more of it to see them"
            )
            return
        self.graph.run(self.copies(self.written), execute, given)
        if skipped:
            self.notes.append(
                f"the time was used up before the values of {skipped:,} results were looked at; give more of it"
            )

    def backward(self, wants_gradient: Sequence[bool]) -> None:
        """Differentiate the sum of the outputs once; gradients are looked at where they arise and then dropped."""

        def note(name: str, gradient: Tensor) -> None:
            self.seen[name].gradient = statistics_of(gradient)

        def note_leaf(name: str, leaf: Tensor) -> None:
            if leaf.grad is not None:
                note(name, leaf.grad)
            leaf.grad = None

        def given(node: fx.Node, value: Any) -> None:
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_post_accumulate_grad_hook(functools.partial(note_leaf, node.name))

        def execute(
            node: fx.Node, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
        ) -> Any:
            value = call(*args, **kwargs)
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(functools.partial(note, node.name))
            return value

        arguments = self.copies(self.written)
        for index, wanted in enumerate(wants_gradient):
            one = arguments[index]
            if wanted and isinstance(one, Tensor) and one.is_floating_point():
                arguments[index] = one.detach().requires_grad_()
        with torch.enable_grad():
            outputs = [
                one for one in tensors_in(self.graph.run(arguments, execute, given)) if one.requires_grad
            ]
        if not outputs:
            self.notes.append("there is no gradient: no result depends on a parameter that asks for one")
            return
        torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])

    def profile(self) -> GraphProfile:
        """What is known of the graph and of every node, in order."""
        complete = [one for one in self._rounds if one.complete]
        quiet = [one for one in complete if one.quiet]
        counted = quiet if len(quiet) >= MIN_QUIET else self._rounds
        if complete and len(counted) > len(quiet):
            self.notes.append(
                f"other processes took the processor away in {len(complete) - len(quiet)} of {len(complete)} rounds; "
                "times may be too long"
            )
        whole_s = [one.whole_s for one in counted if one.whole_s is not None]
        operations = []
        for name, seen in self.seen.items():
            times_s = [one.nodes_s[name] for one in counted if name in one.nodes_s]
            operations.append(
                OperationProfile(
                    name=name,
                    time_s=statistics.median(times_s) if times_s else None,
                    num_times=len(times_s),
                    **vars(seen),
                )
            )
        return GraphProfile(
            graph="",
            target="",
            operations=tuple(operations),
            whole_s=statistics.median(whole_s) if whole_s else None,
            num_rounds=sum(one.complete for one in counted),
            notes=tuple(self.notes),
        )


def timed(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    wait: Callable[[], None] | None = None,
) -> tuple[Any, float]:
    """A call's value and its seconds; ``wait`` ends when the device has done all that it was told."""
    if wait is not None:
        wait()
        start = time.perf_counter()
        value = call(*args, **kwargs)
        wait()
        return value, time.perf_counter() - start
    start = time.perf_counter()
    value = call(*args, **kwargs)
    return value, time.perf_counter() - start


def overhead_s() -> float:
    """Seconds that :func:`timed` says a call of nothing takes: what measuring adds to each node."""
    return statistics.median(timed(_nothing, (), {})[1] for _ in range(_NUM_EMPTY))


def _nothing() -> None:
    pass


def _memory(arguments: Sequence[Any], positions: Collection[int]) -> dict[int, frozenset[int]]:
    """Memory of the arguments at ``positions``, and which of them have it."""
    made: dict[int, frozenset[int]] = {}
    for index in positions:
        one = arguments[index]
        if isinstance(one, Tensor) and (memory := storage(one)) is not None:
            made[memory] = made.get(memory, frozenset()) | {index}
    return made


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Without gradients; random numbers are afterwards as before."""
    random = torch.get_rng_state()
    others = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.set_rng_state(random)
        if others is not None:
            torch.cuda.set_rng_state_all(others)


def measure(
    module: fx.GraphModule,
    arguments: Sequence[Any],
    *,
    is_weight: Sequence[bool],
    wants_gradient: Sequence[bool] | None = None,
    budget_s: float = BUDGET_S,
    max_rounds: int = MAX_ROUNDS,
) -> tuple[GraphProfile, bool]:
    """Run a graph node by node on its arguments and measure every node.

    An interrupt ends it; what was measured until then is kept.

    Args:
        module: The graph.
        arguments: One for each placeholder. None of them is changed.
        is_weight: Which of them are parameters or buffers.
        wants_gradient: Which of them to differentiate by; None measures no gradients.
        budget_s: Seconds for all but gradients. The graph is run three times in any case.
        max_rounds: Rounds at most.

    Returns:
        The profile, and whether it was interrupted.

    Raises:
        CaptureError: a node raised; the message says which and what.
    """
    state, start = _Measuring(module, arguments), time.perf_counter()
    # Inputs and buffers are what graphs write to: copied before it is known, where they are not large.
    likely = [index for index, one in enumerate(arguments) if not isinstance(one, torch.nn.Parameter)]
    copied = [
        index for index in likely if sum(map(distinct_bytes, tensors_in(arguments[index]))) <= _LARGE_BYTES
    ]
    live = [index for index, weight in enumerate(is_weight) if not weight]
    interrupted, overhead = False, 0.0
    try:
        with untouched():
            overhead = overhead_s()
            state.look(copied)
            state.rounds(max_rounds, start + TIMING_SHARE * budget_s)
            state.values(live, start + budget_s)
            if wants_gradient is not None:
                _backward(state, wants_gradient)
    except KeyboardInterrupt:
        interrupted = True
        state.notes.append("interrupted: what was measured until then is here")
    except Exception as error:
        raise CaptureError(
            f"the graph cannot be run node by node, at {state.graph.at}: {_words(error)}",
            hint="%deepseek why",
        ) from None
    gradient_of = GRADIENT_OF if wants_gradient is not None else ""
    return dataclasses.replace(state.profile(), overhead_s=overhead, gradient_of=gradient_of), interrupted


def _backward(state: _Measuring, wants_gradient: Sequence[bool]) -> None:
    try:
        state.backward(wants_gradient)
    except RuntimeError as error:  # what can be run cannot always be differentiated
        state.notes.append(f"gradients were not measured: {_words(error)}")


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
