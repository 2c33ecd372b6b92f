"""A store and a search of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_lab.base import events as ev
from deepseek_lab.base.settings import settings
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.search import Options, Search
from deepseek_lab.hpo.workers import Task
from deepseek_lab.processes.sealed import Sealed
from deepseek_lab.processes.travel import Luggage
from tests.hpo.searched import Done, Look


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    return tmp_path


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
        try:
            done.kept = search.run()
        finally:
            sealed.close()
        return done

    return run
