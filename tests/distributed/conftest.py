from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deepseek_lab.distributed import ranks
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.request import Request


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    """Three ranks."""
    made = Ranks(3)
    made.start()
    yield made
    made.stop()


Run = Callable[..., Request]


@pytest.fixture
def run(three: Ranks) -> Run:
    """Runs a cell's text on the three ranks, all of which are there."""
    if len(three.live) < 3:
        three.restart()

    def run_it(source: str, **options: Any) -> Request:
        return three.ask("run", {"source": source, "file": "cell"}, **options)

    return run_it


@pytest.fixture
def limited(three: Ranks, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Collectives have two seconds."""
    monkeypatch.setattr(ranks, "COLLECTIVE_LIMIT_S", 2.0)
    three._joined = False
    yield
    three._joined = False
