"""2,000 random graphs (``DEEPSEEK_FUZZ_GRAPHS``): nothing that verification would install gives a wrong result."""

from __future__ import annotations

import os

import pytest
import torch

from tests.fuzz.differential import Tally, one_graph

NUM_GRAPHS = int(os.environ.get("DEEPSEEK_FUZZ_GRAPHS", "2000"))
FIRST_SEED = int(os.environ.get("DEEPSEEK_FUZZ_SEED", "0"))
INDUCTOR_EVERY = 100
"""Inductor takes the C++ compiler many seconds for each graph, so that only some are given to it."""


@pytest.mark.timeout(0)
def test_no_random_graph_is_installed_with_a_wrong_result(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    tally = Tally()
    for number in range(NUM_GRAPHS):
        names = ["openvino", "onnxruntime"]
        if number % INDUCTOR_EVERY == INDUCTOR_EVERY - 1:
            names.append("inductor")
        one_graph(FIRST_SEED + number, names, tally)
        if number % 100 == 99:
            with capsys.disabled():
                print(f"\n{number + 1} of {NUM_GRAPHS}: {len(tally.wrong)} wrong", flush=True)
    with capsys.disabled():
        print(f"\n{tally}")
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.graphs == NUM_GRAPHS
    assert sum(tally.installed.values()) >= tally.graphs // 4, "so few installed that nothing was tested"
