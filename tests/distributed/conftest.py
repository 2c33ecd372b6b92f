from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
