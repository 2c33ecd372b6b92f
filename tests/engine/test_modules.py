"""An optimised module stays the module that it was: hooks, copies, pickles, attributes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.engine import api
from deepseek_lab.engine.replay import Methods
from tests.engine.cases import (
    FAST,
    WIDTH,
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


class _Layer(nn.Linear):
    def scaled(self, x: Tensor) -> Tensor:
        return x * 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(super().forward(x))


class _Layered(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.last = _Layer(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


def _thrice(self: nn.Module, x: Tensor) -> Tensor:
    return x * 3.0


@pytest.mark.parametrize(
    "replaced", ["forward of a layer", "forward", "method of a layer", "code of a method"]
)
def test_method_replaced_afterwards(replaced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = _Layered(), rows()
    fast = installed(module, x)
    if replaced == "code of a method":  # what IPython's autoreload does
        monkeypatch.setattr(vars(_Layer)["scaled"], "__code__", _thrice.__code__)
    else:
        owner = _Layered if replaced == "forward" else _Layer
        monkeypatch.setattr(owner, replaced.partition(" ")[0].replace("method", "scaled"), _thrice)
    with torch.no_grad():
        equal(fast(x), module._call_impl(x))
        monkeypatch.undo()
        equal(fast(x), pristine(module)(x))


def test_method_replaced_before_another_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that nobody's call began, as of ``wait``, does not make the graphs of earlier ones right again."""
    methods = Methods(_Layered())
    old = {vars(_Layer)["scaled"].__code__}
    methods.watch(old)
    assert not methods.changed()
    monkeypatch.setattr(_Layer, "scaled", _thrice)
    methods.watch(old | {_thrice.__code__})
    assert methods.changed()
    monkeypatch.undo()
    assert not methods.changed()


def test_backward_hook_added_afterwards() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x, grad=True)
    seen: list[Any] = []
    module.first.register_full_backward_hook(lambda owner, grad_in, grad_out: seen.append(grad_out[0].shape))
    fast(x.requires_grad_()).sum().backward()
    assert seen == [x.shape]


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("of", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("kind", ["a function's module", "another layer"])
def test_hook_where_only_dynamo_can_see_it(kind: str, of: str, grad: bool) -> None:
    """A target that is a function has no tables of hooks to look at, and a layer put in later brings its own."""
    module, x = Tower(), rows().requires_grad_(grad)
    fast = installed(module if kind == "another layer" else lambda x: module(x), x, grad=grad)
    seen: list[str] = []
    layer = module.first
    if kind == "another layer":
        layer = module.first = copy.deepcopy(module.first)
    options = {"with_kwargs": True} if of.startswith("forward") else {}
    getattr(layer, f"register_{of}_hook")(lambda *given: seen.append(of), **options)
    for _ in range(2):
        with torch.set_grad_enabled(grad):
            y = fast(x)
        if grad:
            y.sum().backward()
    assert len(seen) == (0 if "backward" in of and not grad else 2)


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


def test_attributes_are_set_on_the_module() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    fast.second = nn.Linear(WIDTH, 3)
    fast.label = "mine"
    assert module.label == "mine"
    with torch.no_grad():
        assert fast(x).shape == (64, 3)
        equal(fast(x), pristine(module)(x))
    del fast.label
    assert not hasattr(module, "label")


class _Scorer:
    @deepseek_lab.optimize
    def score(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@deepseek_lab.optimize
def _decorated(x: Tensor) -> Tensor:
    return torch.tanh(x)


def test_decorated_method_is_bound() -> None:
    x = rows()
    equal(_Scorer().score(x), torch.tanh(x))
    equal(_Scorer.score(_Scorer(), x), torch.tanh(x))


def test_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(_decorated)) is _decorated
    function = torch.nn.functional.gelu
    assert pickle.loads(pickle.dumps(deepseek_lab.optimize(function))) is function


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


class _WithGraph(Tower):
    """Mixes the rows by a graph's sparse matrix, as layers of graph networks do."""

    adjacency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("adjacency", torch.eye(64).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.adjacency, super().forward(x))


def test_sparse_buffer() -> None:
    module, x = _WithGraph(), rows()
    fast = decided(module, x)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_parameters_that_the_first_call_makes() -> None:
    module, x = nn.Sequential(nn.LazyLinear(WIDTH), Tower()), rows()
    fast = decided(module, x)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_freed_module_is_let_go_of() -> None:
    """Dynamo keeps what a backend returned among the globals of the captured code."""
    module = Tower()
    fast = installed(module, rows())
    (runner,) = (runner for one in fast.run.dispatchers.values() for runner in one.runners)
    assert runner.installed is not None
    held = [weakref.ref(one) for one in (module, module.first.weight, runner.installed.program)]
    del runner
    fast.restore()
    api.free()
    gc.collect()
    assert held[2]() is None, "a name of the notebook's keeps the target, not what was won for it"
    del module, fast
    gc.collect()
    assert [one() for one in held] == [None, None, None]
