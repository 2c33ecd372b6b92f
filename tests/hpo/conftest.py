"""Searches over small cells, in a store of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_lab.base import events as ev
from deepseek_lab.base.settings import settings
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.search import Kept, Options, Search
from deepseek_lab.hpo.workers import Task
from deepseek_lab.processes.sealed import Sealed
from deepseek_lab.processes.travel import Luggage

CURVE = """
lr = ds.log(1e-5, 1e-1)
width = ds.choice(64, 128, 256, default=128)
accuracy = 0.0
for epoch in range(9):
    accuracy = 1 - abs(math.log10(lr) + 2.5) / 5 - 0.1 * (width != 256) - 0.5 / (epoch + 1)
"""
PLAIN = "x = ds.uniform(0, 1)\nloss = (x - 0.3) ** 2\n"


@dataclasses.dataclass
class Done:
    """A search that has ended."""

    search: Search
    log: ev.EventLog
    record: Record
    kept: Kept | None = None

    @property
    def result(self) -> Any:
        return self.search.result


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    return tmp_path


Look = Callable[..., Done]


@pytest.fixture
def look(store: Path) -> Look:
    """Search over a cell and return what came of it; ``ready`` gets the search before it runs."""

    def run(
        source: str,
        names: dict[str, Any] | None = None,
        *,
        name: str = "study",
        metrics: tuple[str, ...] = ("accuracy",),
        directions: tuple[str, ...] = ("max",),
        storage: str | None = None,
        binds: tuple[str, ...] = (),
        ready: Callable[[Search], None] | None = None,
        **options: Any,
    ) -> Done:
        import math

        names = {"math": math, **(names or {})}
        options = {"workers": 0, "trials": 8, "repeats": 0, **options}
        made = Options(metrics, directions, **options)
        record = Record(name, storage)
        record.begin(source, "<cell>", metrics, directions)
        log = ev.EventLog()
        sealed = Sealed(Luggage(names, sorted(names)).pack())
        task = Task(source, "<cell>", metrics, made.final, (*metrics, *binds))
        search = Search(task, sealed, made, record, log)
        done = Done(search, log, record)
        if ready is not None:
            ready(search)
        done.kept = search.run()
        return done

    return run
