"""What this room asks of the engine, as types, and the one place that reaches for it.

The engine imports torch, so nothing here imports the engine before a verb needs it.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from deepseek_lab.base.events import EventLog
from deepseek_lab.base.profile import GraphProfile
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.notebook.parse import Command


class Run(Protocol):
    """One region, or one call of ``optimize``, as the engine sees it."""

    @property
    def id(self) -> str: ...
    @property
    def report(self) -> OptimizeReport: ...
    @property
    def log(self) -> EventLog: ...
    @property
    def working(self) -> bool:
        """Whether background work is under way."""

    @property
    def serving(self) -> Run:
        """The run that serves what the cell called: itself, or an earlier one with the same options."""

    def close(self, error: bool = False) -> None:
        """The cell ended; background work continues."""

    def interrupt(self) -> None:
        """End measuring and building."""

    def restore(self) -> None:
        """Take everything back: targets behave as if they had never been touched."""


class Engine(Protocol):
    """The engine's public functions."""

    def Options(  # noqa: N802
        self,
        precision: str | None = None,
        tolerance: float | None = None,
        backends: tuple[str, ...] | None = None,
        seed: int | None = None,
        device: str | None = None,
        like: str | None = None,
    ) -> Any:
        """What a user gave away or asked for."""

    def open_run(
        self,
        verb: str,
        *,
        targets: Mapping[str, object],
        observe: bool,
        namespace: MutableMapping[str, Any],
        source: str,
        cell: str,
        options: Any,
    ) -> Run: ...
    def runs(self) -> Sequence[Run]: ...
    def last_run(self) -> Run | None: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...
    def verify(self, run: Any, fresh_inputs: int = 3) -> Sequence[Any]: ...
    def profile(
        self, target: Any = None, *, gradients: bool = False, budget_s: float = 5.0, seed: int | None = None
    ) -> Sequence[GraphProfile]: ...
    def doctor(self) -> Sequence[Any]: ...
    def free(self) -> Sequence[Any]: ...
    def status(self) -> Mapping[str, Any]: ...


_ENGINE = "deepseek_lab.engine.api"

if TYPE_CHECKING:
    from deepseek_lab.engine import api
    from deepseek_lab.memory.run import MemoryRun

    _checked: Engine = api


def engine() -> Engine:
    """The engine; imports torch when it is the first to ask."""
    return cast(Engine, importlib.import_module(_ENGINE))


def loaded_engine() -> Engine | None:
    """The engine if something has already asked for it."""
    return cast("Engine | None", sys.modules.get(_ENGINE))


def limited_runs() -> list[MemoryRun]:
    """What trains within a memory limit, if anything ever did."""
    module = sys.modules.get("deepseek_lab.memory.run")
    return module.runs() if module is not None else []


def torch_loaded() -> bool:
    """Whether the user's code has imported torch."""
    return "torch" in sys.modules


def working_runs() -> list[Run]:
    """Runs whose background work is under way."""
    loaded = loaded_engine()
    return [run for run in loaded.runs() if run.working] if loaded is not None else []


def options(command: Command) -> Any:
    """The engine's options for the flags of a command."""
    backends, seed = command.get("backends"), command.get("seed")
    return engine().Options(
        precision=command.text("precision"),
        tolerance=command.number("tolerance"),
        backends=backends if isinstance(backends, tuple) else None,
        seed=seed if isinstance(seed, int) else None,
        device=command.text("device"),
        like=command.text("like"),
    )


def as_row(record: Any) -> tuple[Any, ...]:
    """A record of the engine as a plain row, whether a dataclass or a tuple."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return tuple(getattr(record, field.name) for field in dataclasses.fields(record))
    return tuple(record)
