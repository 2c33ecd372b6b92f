"""The one schema: versioned, typed records that everything else is folded from.

An event is a frozen record of numbers and strings. A log of events, saved as JSON lines, reproduces
every report and every view offline. ``js/src/protocol.ts`` is generated from this module.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from deepseek_lab.base.costs import CellCosts
from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.base.series import Series

SCHEMA_VERSION = 1

REGISTRY: dict[str, type[Event]] = {}
"""Every event type by its wire name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Base record. ``run`` names the run (one region, or one call of ``optimize``) it belongs to."""

    kind: ClassVar[str] = "event"
    run: str
    at_s: float = dataclasses.field(default_factory=time.time)

    def __init_subclass__(cls) -> None:
        cls.kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("_")
        REGISTRY[cls.kind] = cls

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with the wire name under ``kind``."""
        return {"kind": self.kind, "version": SCHEMA_VERSION, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A region opened or a call of the public API began."""

    verb: str
    targets: tuple[str, ...] = ()
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""
    cell: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineSeen(Event):
    """What the numbers of this run were measured on."""

    processor: str
    num_threads: int
    memory_bytes: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetFound(Event):
    """Something the region called that can be optimised."""

    target: str
    type_name: str
    num_parameters: int = 0
    parameter_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class GraphNode:
    """One operation of a captured graph."""

    name: str
    op: str
    """The field's name of the operation, e.g. ``linear``; ``input``, ``parameter`` and ``output`` for the ends."""
    module: str = ""
    """Module path, dots between levels; empty outside of any module."""
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""
    file: str = ""
    line: int = 0
    """Line in ``file`` (the cell's own file name for notebook code) that led to the operation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphCaptured(Event):
    """A graph was captured from a call of the target."""

    target: str
    graph: str
    nodes: tuple[GraphNode, ...]
    signature: str
    """Shapes and dtypes of the call's inputs in words."""
    capture_s: float
    dynamic: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphBreak(Event):
    """Capture stopped here and Python went on by itself."""

    target: str
    reason: str
    file: str = ""
    line: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateStarted(Event):
    """The builder began to build a candidate."""

    graph: str
    candidate: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateEnded(Event):
    """A candidate's verdict.

    ``status`` is one of ``won`` (fastest, verified), ``lost`` (verified, slower), ``refused`` (not the
    same results, or not able to keep a promise), ``failed`` (raised, crashed, ran out of time or memory)
    and ``skipped`` (not installed, not asked for, or stopped by the user).
    """

    graph: str
    candidate: str
    status: str
    reason: str = ""
    build_s: float = 0.0
    cached: bool = False
    median_ms: float | None = None
    eager_ms: float | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    max_rel_error: float | None = None
    eager_rel_error: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanChosen(Event):
    """What runs for a graph from now on; ``code`` is the plan as readable Python."""

    graph: str
    candidate: str
    code: str
    nodes: tuple[GraphNode, ...] = ()
    """The graph as it is run, where the candidate rewrote it and can say so."""
    coverage: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveMeasured(Event):
    """The target raced as a whole, in the user's process, on the live inputs."""

    target: str
    graph: str
    eager_ms: float
    median_ms: float
    speedup: float
    speedup_ci95: tuple[float, float]
    num_rounds: int
    load: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decided(Event):
    """The final word on a graph: what was installed, or why eager was kept."""

    target: str
    graph: str
    chosen: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class MemoryStep:
    """One thing that a plan does to hold less."""

    action: str
    """In the field's words, e.g. ``full recomputation``."""
    where: tuple[str, ...]
    """Modules, by path."""
    saved_bytes: int
    """What these hold less from the forward to the backward pass."""
    seconds: float
    """What it adds to a training step, from measured times."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPlanned(Event):
    """How a model is to train within a limit, as a rehearsal without values predicts it."""

    target: str
    limit_bytes: int
    plain_bytes: int
    """The peak of a step with nothing changed."""
    predicted_bytes: int
    lasting_bytes: int
    """Parameters, buffers and optimiser state: what no plan changes."""
    phase: str
    """Where in the step the peak is: ``forward``, ``backward`` or ``update``."""
    fits: bool
    steps: tuple[MemoryStep, ...] = ()
    extra_ms: float = 0.0
    code: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryMeasured(Event):
    """What a training step really held, at most."""

    target: str
    peak_bytes: int
    """Of tensors."""
    process_bytes: int | None
    """What the process grew to beyond what it held without these tensors; None where the system does not say."""
    step_ms: float


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """A size of the micro-batches of an update that was tried."""

    size: int
    samples_per_s: float | None
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchAccumulated(Event):
    """Gradients are accumulated until an update has seen ``num_samples``; said once chosen, and at the cell's end.

    ``speedup`` is the time a sample in the loop's own batches over that in the micro-batches which were chosen.
    """

    num_samples: int
    micro_batch: int
    own_batch: int
    reduction: str
    """``mean`` or ``sum``: how the loss adds up its batch."""
    num_updates: int
    num_micro_batches: int
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    tried: tuple[MicroBatch, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FellBack(Event):
    """A call ran in eager mode although something faster was installed; ``reason`` says why."""

    target: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progressed(Event):
    """How far a run is; ``total`` is None where nobody knows it."""

    done: int
    total: int | None = None
    unit: str = "step"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(Event):
    """What one step of a run gave, by name: a loss, a rate, bytes in use."""

    step: int
    values: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RanksSeen(Event):
    """How all ranks of a training are doing; each word replaces the one before."""

    ranks: tuple[RankVitals, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchStarted(Event):
    """A search over the ranges that stand in a cell began."""

    study: str
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    """``min`` or ``max``, for each metric."""
    num_trials: int | None
    """Configurations at most."""
    limit_s: float | None
    num_workers: int
    sampler: str
    num_found: int = 0
    """Trials that the study had already."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceFound(Event):
    """A range stands in the cell."""

    name: str
    space: str
    """``log``, ``uniform``, ``integer``, ``log-integer`` or ``choice``."""
    low: float = 0.0
    high: float = 0.0
    labels: tuple[str, ...] = ()
    default: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialBegan(Event):
    """A trial runs. Its values are chosen as it asks for them and come when it has ended."""

    trial: int
    """Counted by this run."""
    config: str
    """Names the values: trials of the same ones, smaller or with other seeds, share it."""
    purpose: str
    """``defaults``, ``search`` or ``repeat``."""
    cost: float
    """Of a whole trial, the part that this one is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialReported(Event):
    """A trial has come so far."""

    trial: int
    step: int
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial is over."""

    trial: int
    config: str
    purpose: str
    cost: float
    status: str
    """``complete``, ``stopped`` (hopeless) or ``failed``."""
    numbers: dict[str, float]
    """Values by name, of ranges of numbers."""
    labels: dict[str, str]
    """Values by name, of choices."""
    values: tuple[float, ...] = ()
    """Of the metrics."""
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and what was reported there."""
    seconds: float = 0.0
    error: str = ""
    allowed: bool = True
    """Whether its constraints are met."""


@dataclasses.dataclass(frozen=True)
class Rank:
    """How well small trials tell what whole ones give."""

    cost: float
    """Of a whole trial, the part that the small ones are."""
    correlation: float
    """Spearman's rank correlation."""
    num: int
    """Configurations that ran as both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchJudged(Event):
    """What is known of the search as a whole; each word replaces the one before."""

    ranks: tuple[Rank, ...] = ()
    importances: dict[str, float] = dataclasses.field(default_factory=dict)
    """Share of the metric's variance that each range explains (PED-ANOVA, arXiv 2304.10255)."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A configuration beside the defaults, on the same fresh seeds."""

    config: str
    defaults: tuple[float, ...]
    """What the defaults gave, by seed."""
    found: tuple[float, ...]
    difference: float
    """Mean of the differences by seed."""
    ci95: tuple[float, float] | None
    """Student's interval of that mean; None with fewer than 2 seeds."""
    unseen: bool
    """Whether it was measured on data that the search never saw."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchCompared(Event):
    """The best configuration was run beside the defaults."""

    compared: Compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellProfiled(Event):
    """A cell or a statement has run while it was measured."""

    costs: CellCosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """One sentence for the user."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """Nothing more is under way for this run."""

    reason: str = ""


def _decode(hint: Any, value: Any) -> Any:
    """Turn JSON data back into the Python type that a field is annotated with."""
    origin = typing.get_origin(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _decode(inner[0], value)
    if origin is tuple:
        args = typing.get_args(hint)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], item) for item in value)
        return tuple(_decode(arg, item) for arg, item in zip(args, value, strict=True))
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _construct(typing.cast(type[Any], hint), value)
    return value


def _construct(cls: type[Any], data: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{key: _decode(hints[key], value) for key, value in data.items() if key in names})


def from_dict(data: dict[str, Any]) -> Event:
    """Rebuild an event from :meth:`Event.to_dict`'s data.

    Fields that this version does not know are dropped.

    Raises:
        ValueError: the kind is unknown or the version is newer than this package's.
    """
    if data.get("version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise ValueError(f"event schema version {data['version']} is newer than {SCHEMA_VERSION}")
    cls = REGISTRY.get(data.get("kind", ""))
    if cls is None:
        raise ValueError(f"unknown event kind {data.get('kind')!r}")
    event = _construct(cls, data)
    assert isinstance(event, Event)
    return event


class EventLog:
    """Thread-safe, append-only list of events with listeners.

    What steps measured is kept in columns, and of the words on progress and on ranks only the last one: a long run
    stays small.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._progress: dict[str, Progressed] = {}
        self._ranks: dict[str, RanksSeen] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.Lock()
        self._run = ""
        self.series = Series()

    def emit(self, event: Event) -> None:
        """Append and tell the listeners, outside of the lock."""
        if isinstance(event, Measured):
            self.measured(event.run, event.step, event.values, event.at_s)
            return
        with self._lock:
            if isinstance(event, Progressed):
                self._progress[event.run] = event
            elif isinstance(event, RanksSeen):
                self._ranks[event.run] = event
            else:
                self._events.append(event)
            listeners = self._listeners
        for listener in listeners:
            listener(event)

    def measured(self, run: str, step: int, values: Mapping[str, float], at_s: float) -> None:
        """Append what a step measured. Listeners are not told: a loop does this a thousand times a second."""
        self._run = run
        self.series.add(step, at_s, values)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` for every later event; returns the function that stops it."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def stop() -> None:
            with self._lock:
                self._listeners = [one for one in self._listeners if one is not listener]

        return stop

    def since(self, start: int = 0) -> list[Event]:
        """The events from number ``start`` on, without what steps measured and words that replace others."""
        with self._lock:
            return self._events[start:]

    @property
    def progress(self) -> Progressed | None:
        """The last word on how far the run is."""
        with self._lock:
            return next(reversed(self._progress.values()), None)

    @property
    def ranks(self) -> RanksSeen | None:
        """The last word on how ranks are doing."""
        with self._lock:
            return next(reversed(self._ranks.values()), None)

    def __iter__(self) -> Iterator[Event]:
        with self._lock:
            others = [*self._events, *self._progress.values(), *self._ranks.values()]
        measured = (
            Measured(run=self._run, at_s=at_s, step=step, values=values)
            for step, at_s, values in self.series.steps()
        )
        return (
            heapq.merge(others, measured, key=lambda event: event.at_s) if len(self.series) else iter(others)
        )

    def __len__(self) -> int:
        return len(self._events) + len(self.series)

    def save(self, path: Path) -> None:
        """Write one JSON object a line."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(event.to_dict()) + "\n" for event in self)

    @classmethod
    def load(cls, path: Path) -> EventLog:
        """Read what :meth:`save` wrote."""
        log = cls()
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    log.emit(from_dict(json.loads(line)))
        return log
