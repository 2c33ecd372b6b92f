"""2,000 random graphs (``DEEPSEEK_FUZZ_GRAPHS``): nothing that verification would install gives a wrong result."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fuzz.differential import Isolation, Tally

NUM_GRAPHS = int(os.environ.get("DEEPSEEK_FUZZ_GRAPHS", "2000"))
FIRST_SEED = int(os.environ.get("DEEPSEEK_FUZZ_SEED", "0"))
INDUCTOR_EVERY = 100
"""Inductor takes the C++ compiler many seconds for each graph, so that only some are given to it."""


def _names(number: int) -> list[str]:
    names = ["onednn", "kernels", "openvino", "onnxruntime"]
    return [*names, "inductor"] if number % INDUCTOR_EVERY == INDUCTOR_EVERY - 1 else names


@pytest.mark.timeout(0)
def test_no_random_graph_is_installed_with_a_wrong_result(capsys: pytest.CaptureFixture[str]) -> None:
    tally, isolations = Tally(), threading.local()
    crashed: list[tuple[int, str]] = []
    made: list[Isolation] = []

    def one(number: int) -> Tally:
        if not hasattr(isolations, "own"):
            isolations.own = Isolation(crashed)
            made.append(isolations.own)
        found: Tally = isolations.own.tally(FIRST_SEED + number, _names(number))
        return found

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, found in enumerate(pool.map(one, range(NUM_GRAPHS))):
                tally.add(found)
                with capsys.disabled():
                    for words in found.wrong:
                        print(f"\nWRONG {words}", flush=True)
                    if number % 100 == 99:
                        print(f"\n{number + 1} of {NUM_GRAPHS}: {len(tally.wrong)} wrong", flush=True)
    finally:
        for isolation in made:
            isolation.close()
        with capsys.disabled():
            print(f"\n{tally}\n  native crashes, each contained: {sorted(crashed)}")
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.graphs == NUM_GRAPHS
    assert sum(tally.installed.values()) >= tally.graphs // 4, "so few installed that nothing was tested"
