"""An optimised module stays the module that it was: hooks, copies, pickles, attributes."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from tests.engine.cases import (
    FAST,
    Tower,
    decided,
    equal,
    installed,
    pristine,
    rows,
    uses_program,
)

pytestmark = pytest.mark.usefixtures("strangers")


def test_forward_hook_added_afterwards() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x), pristine(module)
    seen: list[Tensor] = []

    def double(owner: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output * 2.0

    with torch.no_grad():
        handle = module.register_forward_hook(double)
        equal(fast(x), twin(x) * 2.0)
        equal(fast(x), twin(x) * 2.0)
        assert len(seen) == 2
        handle.remove()
        equal(fast(x), twin(x))
        assert len(seen) == 2


def test_forward_hook_added_afterwards_to_a_layer_inside() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x), pristine(module)
    seen: list[Tensor] = []
    with torch.no_grad():
        handle = module.first.register_forward_hook(lambda owner, args, output: seen.append(output.clone()))
        pre = module.second.register_forward_pre_hook(lambda owner, args: (args[0] * 2.0,))
        got = fast(x)
        assert len(seen) == 1
        equal(seen[0], module.first(x))
        handle.remove()
        seen.clear()
        equal(got, fast(x))
        pre.remove()
        equal(fast(x), twin(x))
        assert not seen


def test_backward_hook_added_afterwards() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x, grad=True)
    seen: list[Any] = []
    module.first.register_full_backward_hook(lambda owner, grad_in, grad_out: seen.append(grad_out[0].shape))
    fast(x.requires_grad_()).sum().backward()
    assert seen == [x.shape]


def test_hooks_that_were_there_before_run_once_a_call() -> None:
    module, x = Tower(), rows()
    seen: list[int] = []
    module.first.register_forward_hook(lambda owner, args, output: seen.append(len(seen)))
    fast = deepseek_lab.optimize(module, backends=FAST)
    with torch.no_grad():
        for _ in range(3):
            fast(x)
        deepseek_lab.wait(120)
        for _ in range(3):
            fast(x)
    assert len(seen) == 6


def test_global_hook() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda owner, args, output: seen.append(owner))
    try:
        with torch.no_grad():
            fast(x)
    finally:
        handle.remove()
    assert seen == [module.first, module.second, module]


def test_copy_is_the_plain_module() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x), pristine(module)
    for made in (
        copy.deepcopy(module),
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(module)),
        pickle.loads(pickle.dumps(fast)),
    ):
        assert type(made) is Tower
        assert made._compiled_call_impl is None
        with torch.no_grad():
            equal(made(x), twin(x))
            made.first.weight.zero_()
    with torch.no_grad():
        equal(fast(x), twin(x))
    assert uses_program(fast)


def test_saved_and_loaded() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    assert list(module.state_dict()) == list(Tower().state_dict()) == list(fast.state_dict())
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    made = torch.load(stream, weights_only=False)
    with torch.no_grad():
        equal(made(x), fast(x))


def test_other_attributes_are_the_modules_own() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    assert fast.first is module.first
    assert fast.training
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in module.named_parameters()]
    with pytest.raises(AttributeError, match="no_such"):
        _ = fast.no_such


def test_restored_module_is_as_it_was() -> None:
    module, x = Tower(), rows()
    keys = set(vars(module))
    fast = installed(module, x)
    assert fast.restore() is module
    assert module._compiled_call_impl is None
    assert set(vars(module)) <= keys | {"_compiled_call_impl"}
    with torch.no_grad():
        equal(module(x), pristine(module)(x))


def test_optimised_twice() -> None:
    module, x = Tower(), rows()
    first = installed(module, x)
    second = decided(first, x)
    with torch.no_grad():
        equal(second(x), pristine(module)(x))
        equal(module(x), pristine(module)(x))
    assert second.restore() is module
