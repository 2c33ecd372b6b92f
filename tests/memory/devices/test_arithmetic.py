"""The closed form against PyTorch's own FSDP2 and its own tracker, on fake tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deepseek_lab.memory.devices.anatomy import anatomy
from deepseek_lab.memory.devices.arithmetic import SLAB_BYTES, worst
from deepseek_lab.memory.devices.cost import ADAMW8_TRAFFIC
from deepseek_lab.memory.devices.footprint import Alive
from deepseek_lab.memory.devices.inputs import find_inputs
from deepseek_lab.memory.devices.planner import Measurements
from deepseek_lab.memory.devices.runtime.adamw8bit import AdamW8bit
from deepseek_lab.memory.devices.simulate import pretended, simulate
from deepseek_lab.memory.devices.way import PLAIN, Way
from tests.memory.devices.models import Mixer, gpt, llama

WAYS = [
    PLAIN,
    Way(num_selective=5),
    Way(num_full=5),
    Way(num_full=2, num_selective=1),
    Way(num_full=5, chunk=64),
    Way(step_in_backward=True),
    Way(num_full=5, chunk=64, eight_bit=True, step_in_backward=True),
    Way(chunk=64, eight_bit=True, bf16_parameters=True),
    Way(num_full=5, eight_bit=True, step_in_backward=True, bf16_parameters=True),
]
TOLERANCE = 0.08


@pytest.mark.parametrize("make", [gpt, llama])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.words(5))
def test_arithmetic_agrees_with_a_simulation(make: type, way: Way) -> None:
    model = make(5, 512, places=256, vocabulary=4000)
    inputs = find_inputs(model, batch=2)
    predicted = worst(anatomy(model), Measurements(model, inputs), way, 4).peak
    with pretended(4) as mesh:
        simulated = simulate(model, inputs, way, mesh)
    assert predicted == pytest.approx(simulated, rel=TOLERANCE)


@pytest.mark.parametrize("way", [PLAIN, Way(num_full=6)], ids=lambda way: way.words(6))
def test_it_does_so_for_a_model_of_no_library(way: Way) -> None:
    model = Mixer()
    inputs = find_inputs(model, example=torch.zeros(8, 3, 64, 64))
    assert inputs.kind == "classes"
    predicted = worst(anatomy(model), Measurements(model, inputs), way, 2).peak
    with pretended(2) as mesh:
        simulated = simulate(model, inputs, way, mesh)
    assert predicted == pytest.approx(simulated, rel=TOLERANCE)


def test_each_means_needs_less() -> None:
    model = gpt(8, 512, places=512, vocabulary=8000)
    inputs = find_inputs(model, batch=4)
    seen, measured = anatomy(model), Measurements(model, inputs)

    def peak(way: Way) -> int:
        return worst(seen, measured, way, 8).peak

    one_after_the_other = [
        PLAIN, Way(num_selective=8), Way(num_full=8), Way(num_full=8, chunk=256),
        Way(num_full=8, chunk=256, eight_bit=True), Way(num_full=8, chunk=256, eight_bit=True, step_in_backward=True),
    ]  # fmt: skip
    peaks = [peak(way) for way in one_after_the_other]
    assert peaks == sorted(peaks, reverse=True)
    for part in range(8):
        assert peak(Way(num_full=part)) >= peak(Way(num_full=part + 1))
        assert peak(Way(num_selective=part)) >= peak(Way(num_selective=part + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constants_of_the_optimizer(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        weight = nn.Parameter(torch.empty(1 << 23, dtype=dtype))
        optimizer = AdamW8bit([weight], slab=1 << 22)
        weight.grad = torch.empty_like(weight)
        optimizer.step()
        with Alive() as alive:
            for tensor in (weight, weight.grad, *optimizer.state[weight].values()):
                if isinstance(tensor, torch.Tensor):
                    alive.ignore(tensor)
            optimizer.step()
    assert alive.peak <= SLAB_BYTES * optimizer.slab * 1.01
    assert alive.traffic / weight.numel() == pytest.approx(ADAMW8_TRAFFIC, rel=0.1)
