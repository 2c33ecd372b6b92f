"""A program with weights baked in is never used once a weight has changed, however it changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import deepseek_lab
from tests.engine.cases import WIDTH, Tower, equal, installed, pristine, reasons, rows, tower, uses_program

pytestmark = pytest.mark.usefixtures("strangers")


def _optimiser_step(module: Tower) -> None:
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    module.first.weight.grad = torch.ones_like(module.first.weight)
    optimiser.step()


def _fused_optimiser_step(module: Tower) -> None:
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.5, fused=True)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


def _load_state_dict(module: Tower) -> None:
    module.load_state_dict({name: value + 1.0 for name, value in module.state_dict().items()})


def _load_state_dict_assigned(module: Tower) -> None:
    module.load_state_dict({name: value + 1.0 for name, value in module.state_dict().items()}, assign=True)


def _multiply_data(module: Tower) -> None:
    module.first.weight.data.mul_(2)


def _multiply_small_data(module: Tower) -> None:
    module.second.bias.data.mul_(2)


def _replace_data(module: Tower) -> None:
    module.second.weight.data = torch.ones(WIDTH, WIDTH)


def _replace_parameter(module: Tower) -> None:
    module.first.weight = nn.Parameter(torch.ones(WIDTH, WIDTH))


def _replace_layer(module: Tower) -> None:
    module.second = nn.Linear(WIDTH, WIDTH, bias=False)


def _update_without_gradient(module: Tower) -> None:
    with torch.no_grad():
        module.first.bias.add_(1.0)


def _write_through_numpy(module: Tower) -> None:
    module.first.weight.detach().numpy()[...] = 0.25


def _change_dtype(module: Tower) -> None:
    module.double()


CHANGES = [
    _optimiser_step,
    _fused_optimiser_step,
    _load_state_dict,
    _load_state_dict_assigned,
    _multiply_data,
    _multiply_small_data,
    _replace_data,
    _replace_parameter,
    _replace_layer,
    _update_without_gradient,
    _write_through_numpy,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changed_weights_take_effect_in_the_same_call(change: Callable[[Tower], None]) -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    before = pristine(module)
    change(module)
    now = pristine(module)
    with torch.no_grad():
        assert not torch.allclose(before(x), now(x))
        equal(fast(x), now(x))
        equal(fast(x), now(x))
    said = reasons(fast)
    assert "weight" in said or "eager mode" in said, said


def test_change_of_dtype() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    module.double()
    with torch.no_grad():
        equal(fast(x.double()), pristine(module)(x.double()))
        with pytest.raises(RuntimeError, match="dtype"):
            fast(x)


def test_weights_that_are_stable_again_are_built_again() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    module.first.weight.data.mul_(2)
    with torch.no_grad():
        for _ in range(12):
            fast(x)
        assert deepseek_lab.wait(120)
        equal(fast(x), pristine(module)(x))
    assert uses_program(fast)
    assert fast.report.chosen == "planted-fast"
    assert "weight" in reasons(fast)


def test_weights_that_change_while_candidates_are_built() -> None:
    module, x = Tower(), rows(48)
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=("planted-fast",))
    with torch.no_grad():
        fast(x)
        for parameter in (*module.parameters(), *twin.parameters()):
            parameter.mul_(1.5)
        assert deepseek_lab.wait(120)
        equal(fast(x), twin(x))


def test_training_in_a_loop_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    module, x, target = Tower(), rows(), rows()
    twin = pristine(module)
    fast = installed(module, x, grad=True)
    for model, call in ((module, fast), (twin, twin)):
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)  # type: ignore[union-attr]
        for _ in range(5):
            optimiser.zero_grad()
            nn.functional.mse_loss(call(x), target).backward()
            optimiser.step()
    equal(module.state_dict(), twin.state_dict())  # type: ignore[union-attr]


def test_tied_weights_changed_through_either_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(WIDTH, WIDTH)
            self.second = nn.Linear(WIDTH, WIDTH)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(tower(self.first(x))))

    module, x = Tied(), rows()
    fast = installed(module, x)
    with torch.no_grad():
        module.second.weight.mul_(3)
        equal(fast(x), pristine(module)(x))


def test_buffer_is_watched_like_a_parameter() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tower(x * self.scale) + 1.0

    module, x = Scaled(), rows()
    fast = installed(module, x)
    with torch.no_grad():
        module.scale.fill_(3.0)
        equal(fast(x), x * 3.0 + 1.0)
        module.scale = torch.full((WIDTH,), 4.0)
        equal(fast(x), x * 4.0 + 1.0)


def test_tensor_that_is_a_plain_attribute_or_a_global_may_change_at_will() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)
            self.held = torch.ones(WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tower(self.linear(x)) * self.held

    module, x = Held(), rows()
    fast = installed(module, x)
    with torch.no_grad():
        module.held.numpy()[...] = 5.0
        equal(fast(x), pristine(module)(x))
        module.held = torch.zeros(WIDTH)
        equal(fast(x), pristine(module)(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_scalar_weight_changed_through_data(dtype: torch.dtype) -> None:
    """A weight so small that four sampled words of memory do not fit into it."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=dtype))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tower(x * self.scale) + 1.0

    module, x = Scalar(), rows()
    fast = installed(module, x)
    module.scale.data.mul_(2)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))
