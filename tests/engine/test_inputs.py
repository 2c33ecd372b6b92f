"""Inputs unlike those that were captured get right results at once, and eager's own errors where eager has one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from tests.engine.cases import (
    FAST,
    WIDTH,
    Tower,
    decided,
    equal,
    installed,
    pristine,
    reasons,
    rows,
    tower,
    uses_program,
)

pytestmark = pytest.mark.usefixtures("strangers")

OTHERS: dict[str, Callable[[], Tensor]] = {
    "the same": rows,
    "a larger batch": lambda: rows(65),
    "twice the batch": lambda: rows(128),
    "a batch of one": lambda: rows(1),
    "an empty batch": lambda: rows(0),
    "another rank": lambda: rows()[0],
    "a higher rank": lambda: torch.randn(2, 32, WIDTH),
    "transposed in memory": lambda: torch.randn(WIDTH, 64).t(),
    "every second row": lambda: rows(128)[::2],
    "every second column": lambda: torch.randn(64, 2 * WIDTH)[:, ::2],
    "one row expanded": lambda: rows(1).expand(64, WIDTH),
    "not a number": lambda: rows() * float("nan"),
    "infinite": lambda: rows() / 0.0,
    "a parameter": lambda: nn.Parameter(rows()),
    "needing gradients": lambda: rows().requires_grad_(),
    "an inference tensor": lambda: _inference(),
    "a view into something larger": lambda: torch.randn(100, WIDTH)[7:71],
    "a subclass": lambda: rows().as_subclass(_Sub),
}


class _Sub(torch.Tensor):
    pass


def _inference() -> Tensor:
    with torch.inference_mode():
        return rows()


@pytest.mark.parametrize("other", OTHERS)
def test_other_input(other: str) -> None:
    module = Tower()
    fast, twin = installed(module, rows()), pristine(module)
    with torch.no_grad():
        for _ in range(3):
            x = OTHERS[other]()
            got, wanted = fast(x), twin(x)
            torch.testing.assert_close(got, wanted, equal_nan=True)
            assert type(got) is type(wanted)
            assert got.stride() == wanted.stride()
        x = rows()
        equal(fast(x), twin(x))


def test_inference_mode() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x), pristine(module)
    with torch.inference_mode():
        got = fast(x)
        equal(got, twin(x))
        assert got.is_inference()
    with torch.no_grad():
        assert not fast(x).is_inference()


def test_other_dtype_raises_what_eager_raises() -> None:
    module = Tower()
    fast = installed(module, rows())
    for x in (rows().double(), rows().long(), rows(3)[:, :5]):
        with torch.no_grad():
            with pytest.raises(RuntimeError) as wanted:
                pristine(module)(x)
            with pytest.raises(RuntimeError) as got:
                fast(x)
        assert str(got.value) == str(wanted.value)
    with torch.no_grad():
        equal(fast(x := rows()), pristine(module)(x))


def test_other_device() -> None:
    """``meta`` stands for every other device: it has no data, so whoever touched the memory would crash."""
    module = Tower()
    fast = installed(module, rows())
    twin = pristine(module).to("meta")
    module.to("meta")
    with torch.no_grad():
        got = fast(rows().to("meta"))
    assert (got.device, got.shape) == (twin(rows().to("meta")).device, (64, WIDTH))


def test_keyword_in_place_of_position() -> None:
    module = Tower()
    fast, x = installed(module, rows()), rows()
    with torch.no_grad():
        equal(fast(x=x), pristine(module)(x))


def test_wrong_arguments_raise_what_python_raises() -> None:
    fast = installed(Tower(), rows())
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        fast(rows(), rows())
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fast()


def test_train_and_eval() -> None:
    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            h = tower(self.linear(x))
            return h * 2.0 if self.training else torch.relu(h)

    module, x = Modes().eval(), rows()
    fast, twin = installed(module, x), pristine(module)
    with torch.no_grad():
        for mode in (True, False, True, False):
            module.train(mode), twin.train(mode)
            equal(fast(x), twin(x))
        module.linear.train(), twin.linear.train()
        equal(fast(x), twin(x))


def test_plain_python_values_among_the_arguments() -> None:
    def scaled(x: Tensor, factor: float, add: bool = False, names: tuple[str, ...] = ()) -> Tensor:
        h = tower(x * factor)
        return h + len(names) if add else torch.relu(h)

    x = rows()
    fast = installed(scaled, x, 2.0)
    for arguments in ((2.0,), (3.5,), (3,), (2.0, True), (2.0, True, ("a", "b")), (True,)):
        equal(fast(x, *arguments), scaled(x, *arguments))


def test_python_state_that_the_module_reads() -> None:
    class Switched(nn.Module):
        factor = 1.0
        table: dict[str, float]

        def __init__(self) -> None:
            super().__init__()
            self.table = {"bias": 0.0}

        def forward(self, x: Tensor) -> Tensor:
            return tower(x * self.factor) + self.table["bias"]

    module, x = Switched(), rows()
    fast = installed(module, x)
    equal(fast(x), x)
    module.factor = 4.0
    equal(fast(x), x * 4.0)
    module.table["bias"] = 1.0
    equal(fast(x), x * 4.0 + 1.0)


def test_default_dtype_and_autocast() -> None:
    module, x = Tower(), rows()
    fast, twin = installed(module, x), pristine(module)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = fast(x), twin(x)
    assert got.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        equal(fast(x), twin(x))


def test_number_of_threads_changed() -> None:
    module, x = Tower(), rows()
    fast = installed(module, x)
    torch.set_num_threads(2)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_growing_length_as_in_generation() -> None:
    """A loop in which every call is one longer: the same tokens, and an end to capturing."""

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, WIDTH)
            self.head = nn.Linear(WIDTH, 50)

        def forward(self, tokens: Tensor) -> Tensor:
            h = tower(self.embed(tokens)).cumsum(1)
            return self.head(torch.tanh(h))

    def generate(model: Callable[[Tensor], Tensor], num_tokens: int) -> Tensor:
        tokens = torch.arange(4)[None]
        for _ in range(num_tokens):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
        return tokens

    module = Language()
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=FAST)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(generate(fast, 24), generate(twin, 24))
            assert deepseek_lab.wait(180)
        assert torch.equal(generate(fast, 40), generate(twin, 40))
    assert len(fast.report.graphs) <= 12
    assert uses_program(fast) or reasons(fast)


def test_shapes_that_never_repeat_end_in_peace() -> None:
    module = Tower()
    twin = pristine(module)
    fast = decided(module, rows(3))
    with torch.no_grad():
        for count in (5, 9, 17, 33, 65, 129, 257, 4, 8, 16, 70, 90, 100, 127):
            x = rows(count)
            equal(fast(x), twin(x))
        assert deepseek_lab.wait(180)
        for count in (6, 10, 40, 200, 300):
            x = rows(count)
            equal(fast(x), twin(x))


def test_first_called_under_autocast() -> None:
    """Autocast stands around the call and not in its graph; OpenVINO by itself answers in float32."""
    module, x = nn.Sequential(nn.Linear(WIDTH, WIDTH), Tower()), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = decided(module, x, backends=("openvino",))
        with torch.no_grad():
            got, wanted = fast(x), pristine(module)(x)
    assert got.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted)
    assert "under autocast" in reasons(fast)


def test_first_called_with_another_default_dtype() -> None:
    """The builder would make float32 of the ones, and accept a candidate that returns it."""

    def shifted(x: Tensor) -> Tensor:
        return tower(x) + torch.ones(WIDTH)

    torch.set_default_dtype(torch.float64)
    try:
        x = rows().float()
        fast = decided(shifted, x)
        assert fast(x).dtype == shifted(x).dtype == torch.float64
        assert "default dtype is float64" in reasons(fast)
    finally:
        torch.set_default_dtype(torch.float32)
