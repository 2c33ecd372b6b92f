"""OpenVINO's quotients of whole numbers, which it rounds towards zero where PyTorch rounds down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek_lab.engine import candidates
from tests.engine.graphs import problem_of

DIVISIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by a positive number": lambda x, y: x // 3,
    "by a negative number": lambda x, y: x // -3,
    "by a tensor": lambda x, y: x // y,
    "of a number": lambda x, y: 7 // y,
    "asked for by its rounding": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "towards zero": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "and a use of it": lambda x, y: (x // 3) * 2 + x % 3,
}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", DIVISIONS)
def test_whole_quotients_round_down(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.arange(-9, 10, dtype=dtype)
    y = torch.tensor([-3, 2, -2, 5, 7, 1, -1] * 3, dtype=dtype)[: len(x)]
    problem = problem_of(DIVISIONS[name], x, y)
    openvino = candidates.registered()["openvino"]
    openvino.build(problem, tmp_path)
    program = openvino.load(tmp_path, problem.spec)
    for live in (problem.live, tuple(-tensor for tensor in problem.live)):
        assert torch.equal(program(live, problem.weights)[0], problem.eager(live)[0])
