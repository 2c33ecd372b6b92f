"""Gradients through an optimised module are eager's own, first and second ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.engine.cases import WIDTH, Tower, equal, installed, pristine, rows, tower, uses_program

pytestmark = pytest.mark.usefixtures("strangers")


def _gradients(call: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> list[Tensor | None]:
    module.zero_grad()
    x = x.clone().requires_grad_()
    call(x).square().sum().backward()
    return [x.grad, *(p.grad for p in module.parameters())]


def test_backward_through_an_installed_program() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    assert uses_program(fast)
    for _ in range(3):
        x = rows()
        for got, wanted in zip(_gradients(fast, module, x), _gradients(twin, twin, x), strict=True):  # type: ignore[arg-type]
            equal(got, wanted)


def test_result_looks_like_eagers_to_autograd() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    got, wanted = fast(x), twin(x)
    assert got.requires_grad == wanted.requires_grad
    assert got.is_leaf == wanted.is_leaf
    with torch.no_grad():
        assert not fast(x).requires_grad


def test_double_backward() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)

    def penalty(call: Callable[[Tensor], Tensor], model: nn.Module) -> list[Tensor | None]:
        model.zero_grad()
        own = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(own).sum(), own, create_graph=True)
        slope.square().sum().backward()
        return [own.grad, *(p.grad for p in model.parameters())]

    for got, wanted in zip(penalty(fast, module), penalty(twin, twin), strict=True):  # type: ignore[arg-type]
        equal(got, wanted)


def test_double_backward_where_one_input_depends_on_another() -> None:
    def both(a: Tensor, b: Tensor) -> Tensor:
        return tower(a * b).square() + 0.0

    fast = installed(both, rows().requires_grad_(), rows().requires_grad_(), grad=True)

    def second(call: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(1)
        a = rows().requires_grad_()
        b = a * 3.0
        (slope,) = torch.autograd.grad(call(a, b).sum(), a, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), a)
        return [slope.detach(), curve]

    assert uses_program(fast)
    for got, wanted in zip(second(fast), second(both), strict=True):
        equal(got, wanted)


def test_one_tensor_as_two_arguments() -> None:
    def both(a: Tensor, b: Tensor) -> Tensor:
        return tower(a * b) + a

    fast = installed(both, rows().requires_grad_(), rows().requires_grad_(), grad=True)
    x = rows().requires_grad_()
    for create_graph in (False, True):
        (got,) = torch.autograd.grad(fast(x, x).sum(), x, create_graph=create_graph)
        (wanted,) = torch.autograd.grad(both(x, x).sum(), x, create_graph=create_graph)
        equal(got.detach(), wanted.detach())


def test_gradients_accumulate_and_graphs_are_kept() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    for call in (fast, twin):
        loss = call(x).sum()  # type: ignore[operator]
        loss.backward(retain_graph=True)
        loss.backward()
        call(x).sum().backward()  # type: ignore[operator]
    for got, wanted in zip(module.parameters(), twin.parameters(), strict=True):  # type: ignore[attr-defined]
        equal(got.grad, wanted.grad)


def test_output_that_the_model_detaches_stays_detached() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h = tower(self.linear(x))
            with torch.no_grad():
                quiet = torch.relu(h)
            return torch.sigmoid(h), torch.exp(h.detach()), quiet

    module, x = Both(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    got, wanted = fast(x), twin(x)
    assert [t.requires_grad for t in got] == [t.requires_grad for t in wanted] == [True, False, False]
    got[1].numpy()
    equal(got, wanted)
    sum(t.sum() for t in got).backward()
    sum(t.sum() for t in wanted).backward()
    equal(module.linear.weight.grad, twin.linear.weight.grad)  # type: ignore[attr-defined]


def test_some_parameters_are_frozen() -> None:
    module, x = Tower(), rows()
    module.first.requires_grad_(False)
    fast, twin = installed(module, x, grad=True), pristine(module)
    for got, wanted in zip(_gradients(fast, module, x), _gradients(twin, twin, x), strict=True):  # type: ignore[arg-type]
        equal(got, wanted)
    assert module.first.weight.grad is None


def test_weights_changed_between_forward_and_backward_raise_as_in_eager() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    for call, model in ((fast, module), (twin, twin)):
        loss = call(x).sum()  # type: ignore[operator]
        with torch.no_grad():
            model.second.weight.mul_(2)  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_hooks_on_tensors_and_gradients_of_functions() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)
    seen: dict[str, list[Tensor]] = {"fast": [], "twin": []}
    for name, call in (("fast", fast), ("twin", twin)):
        out = call(x)  # type: ignore[operator]
        out.register_hook(seen[name].append)
        out.retain_grad()
        (out * 2.0).sum().backward()
        seen[name].append(out.grad)
    equal(seen["fast"], seen["twin"])


def test_functional_transforms() -> None:
    module, x = Tower(), rows(4)
    fast, twin = installed(module, x), pristine(module)
    with torch.no_grad():
        equal(torch.func.vmap(fast)(x), torch.func.vmap(twin)(x))
    equal(torch.func.grad(lambda v: fast(v).sum())(x), torch.func.grad(lambda v: twin(v).sum())(x))
    parameters = {name: value + 1.0 for name, value in module.named_parameters()}
    with torch.no_grad():
        equal(
            torch.func.functional_call(module, parameters, (x,)),
            torch.func.functional_call(twin, parameters, (x,)),  # type: ignore[arg-type]
        )
        equal(fast(x), twin(x))


def test_gradient_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    module, x = Tower(), rows()
    fast, twin = installed(module, x, grad=True), pristine(module)

    def through(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda v: checkpoint(call, v, use_reentrant=False)

    for got, wanted in zip(
        _gradients(through(fast), module, x),
        _gradients(through(twin), twin, x),  # type: ignore[arg-type]
        strict=True,
    ):
        equal(got, wanted)
