"""Searches over small cells, in a store of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.search import Kept, Search

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


Look = Callable[..., Done]
