"""A dozen of the random graphs of ``tests/fuzz``, the same ones every time."""

from __future__ import annotations

import torch

from tests.fuzz.differential import Tally, one_graph
from tests.fuzz.graphs import random_recipe

SEEDS = range(12)


def test_recipes_are_the_same_for_the_same_seed() -> None:
    assert [random_recipe(seed) for seed in SEEDS] == [random_recipe(seed) for seed in SEEDS]
    assert len({random_recipe(seed).steps for seed in SEEDS}) == len(SEEDS)


def test_no_random_graph_is_installed_with_a_wrong_result() -> None:
    torch.set_num_threads(1)
    tally = Tally()
    for seed in SEEDS:
        one_graph(seed, ("onednn", "kernels", "openvino", "onnxruntime"), tally)
    assert not tally.wrong, str(tally)
    assert sum(tally.installed.values()) >= 3, str(tally)


def test_a_wrong_result_would_be_seen() -> None:
    """The judge itself, with the verdict of verification taken away."""
    from unittest import mock

    from deepseek_lab.engine import verify
    from deepseek_lab.engine.candidates.onnxruntime import OnnxRuntimeCandidate

    load = OnnxRuntimeCandidate.load

    def wrong(self: OnnxRuntimeCandidate, directory: object, spec: object) -> object:
        program = load(self, directory, spec)  # type: ignore[arg-type]
        return lambda live, weights: [t + 1 if t.dtype != torch.bool else ~t for t in program(live, weights)]

    tally = Tally()
    blind = mock.patch.object(verify, "agreement", return_value=verify.Agreement(True, 0.0, 0.0))
    with blind, mock.patch.object(OnnxRuntimeCandidate, "load", wrong):
        for seed in SEEDS[:4]:
            one_graph(seed, ("onnxruntime",), tally)
    assert tally.wrong
