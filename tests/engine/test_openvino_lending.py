"""OpenVINO's results are lent without a copy: whatever a caller keeps is never written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest
import torch

from deepseek_lab.engine.candidates.openvino import MAX_LENT, _Request


class Outer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x @ x, x.clone()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ov.CompiledModel:
    path: Path = tmp_path_factory.mktemp("model") / "model.xml"
    ov.save_model(ov.convert_model(torch.export.export(Outer(), (torch.zeros(16, 16),))), path)
    return ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


KEEP: dict[str, Callable[[torch.Tensor], object]] = {
    "tensor": lambda result: result,
    "view": lambda result: result[3:5],
    "array": lambda result: result.numpy(),
}


@pytest.mark.parametrize("keep", KEEP)
def test_a_request_is_not_free_while_anything_of_its_result_is_kept(
    compiled: ov.CompiledModel, keep: str
) -> None:
    request = _Request(compiled, lends=True)
    result = request.run([torch.randn(16, 16)])[0]
    kept = KEEP[keep](result)
    del result
    assert not request.free
    del kept
    assert request.free


def test_results_share_no_memory_with_inputs_or_each_other(compiled: ov.CompiledModel) -> None:
    x = torch.randn(16, 16)
    product, same = _Request(compiled, lends=True).run([x])
    spans = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in (x, product, same)]
    assert all(a[1] <= b[0] or b[1] <= a[0] for i, a in enumerate(spans) for b in spans[i + 1 :])


def test_every_kept_result_stays_what_it_was(compiled: ov.CompiledModel) -> None:
    requests = [_Request(compiled, lends=number < MAX_LENT) for number in range(MAX_LENT + 2)]
    inputs = [torch.randn(16, 16) for _ in range(len(requests))]
    results = [request.run([x])[0] for request, x in zip(requests, inputs, strict=True)]
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, x @ x)
    assert not any(request.free for request in requests[:MAX_LENT])
