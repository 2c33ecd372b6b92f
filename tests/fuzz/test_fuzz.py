"""2,000 random graphs (``DEEPSEEK_FUZZ_GRAPHS``): nothing that verification would install gives a wrong result."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.differential import Isolation, Tally

NUM_GRAPHS = int(os.environ.get("DEEPSEEK_FUZZ_GRAPHS", "2000"))
FIRST_SEED = int(os.environ.get("DEEPSEEK_FUZZ_SEED", "0"))
INDUCTOR_EVERY = 100
"""Inductor takes the C++ compiler many seconds for each graph, so that only some are given to it."""


@pytest.mark.timeout(0)
def test_no_random_graph_is_installed_with_a_wrong_result(capsys: pytest.CaptureFixture[str]) -> None:
    tally, isolation = Tally(), Isolation()
    try:
        for number in range(NUM_GRAPHS):
            names = ["onednn", "kernels", "openvino", "onnxruntime"]
            if number % INDUCTOR_EVERY == INDUCTOR_EVERY - 1:
                names.append("inductor")
            found = isolation.tally(FIRST_SEED + number, names)
            tally.add(found)
            with capsys.disabled():
                for words in found.wrong:
                    print(f"\nWRONG {words}", flush=True)
                if number % 100 == 99:
                    print(f"\n{number + 1} of {NUM_GRAPHS}: {len(tally.wrong)} wrong", flush=True)
    finally:
        isolation.close()
        with capsys.disabled():
            print(f"\n{tally}\n  native crashes, each contained: {isolation.crashed}")
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.graphs == NUM_GRAPHS
    assert sum(tally.installed.values()) >= tally.graphs // 4, "so few installed that nothing was tested"
