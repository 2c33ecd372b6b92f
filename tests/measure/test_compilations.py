"""What torch.compile did in a cell, and changes that were tried without calling anything of the user's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from deepseek_lab.base.costs import CellCosts, CompileCost
from deepseek_lab.measure.profiler import Session, fixes, main_thread
from deepseek_lab.measure.profiler.compilations import cause_in_words

ran: list[str] = []


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fixes, "MIN_S", 0.0)
    monkeypatch.setattr(fixes, "BUDGET_S", 600.0)
    torch._dynamo.reset()
    ran.clear()
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        yield
    torch._dynamo.reset()


def profiled(call: Callable[[], object]) -> CellCosts:
    session = Session(__file__, {})
    with session:
        call()
    return session.costs()


def of_kind(costs: CellCosts, kind: str) -> list[CompileCost]:
    return [one for one in costs.compilations if one.kind == kind]


def scaled(x: Tensor, factor: int) -> Tensor:
    return (x.sin() * factor).cos()


def test_sizes_that_change_are_told_and_left_open() -> None:
    compiled = torch.compile(scaled, backend="eager")

    def cell() -> None:
        for size in (4, 5, 6):
            compiled(torch.ones(size), 2)

    costs = profiled(cell)
    (first,) = of_kind(costs, "compiled")
    (again,) = of_kind(costs, "compiled again")
    assert (first.function, first.count) == ("scaled", 1)
    assert (again.function, again.count) == ("scaled", 2)
    assert again.cause == "tensor 'x' size mismatch at index 0"
    assert (again.file, again.line) == (__file__, scaled.__code__.co_firstlineno)
    assert again.text == "def scaled(x: Tensor, factor: int) -> Tensor:"
    assert again.in_cell
    assert 0 < again.seconds < costs.wall_s
    assert again.fix is not None
    assert again.fix.change == "torch.compile(..., dynamic=True)"
    assert again.fix.works
    assert "serves 3 of the 3 calls" in again.fix.effect


def test_the_change_that_was_tried_does_in_the_cell_what_it_did_in_the_trial() -> None:
    compiled = torch.compile(scaled, backend="eager", dynamic=True)

    def cell() -> None:
        for size in (4, 5, 6):
            compiled(torch.ones(size), 2)

    assert not of_kind(profiled(cell), "compiled again")


def test_a_change_that_does_not_help_is_said_not_to() -> None:
    def pinned(x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] == 4 else x + 2

    compiled = torch.compile(pinned, backend="eager")

    def cell() -> None:
        for size in (4, 5):
            compiled(torch.ones(size))

    (again,) = of_kind(profiled(cell), "compiled again")
    assert again.fix is not None
    assert not again.fix.works
    assert "serves 1 of the 2 calls" in again.fix.effect


def test_nothing_of_ours_is_compiled() -> None:
    """Dynamo looks at whatever Python calls below a compiled function, and Python calls what traces its lines."""
    recorder = Session(__file__, {})._recorder
    assert recorder is not None
    torch._dynamo.utils.clear_compilation_metrics()  # which keeps no more than so many
    before = len(torch._dynamo.utils.get_compilation_metrics())
    for one in (type(recorder)._line, type(recorder)._returned):
        torch.compile(one, backend="eager")(recorder, sys._getframe(), "exception", None)
    torch.compile(main_thread.called, backend="eager")(None)
    assert len(torch._dynamo.utils.get_compilation_metrics()) == before
    torch.compile(scaled, backend="eager")(torch.ones(3), 2)  # others are
    assert len(torch._dynamo.utils.get_compilation_metrics()) == before + 1


def test_where_dynamo_gives_up_is_told() -> None:
    def times(x: Tensor, factor: float) -> Tensor:
        return x * factor

    compiled = torch.compile(times, backend="eager", dynamic=False)

    def cell() -> None:
        with torch._dynamo.config.patch(recompile_limit=2):
            for number in range(4):
                compiled(torch.ones(3), number + 0.5)

    costs = profiled(cell)
    (gave_up,) = of_kind(costs, "gave up")
    assert gave_up.cause.startswith("Dynamo recompile limit exceeded")
    assert (gave_up.file, gave_up.in_cell) == (__file__, True)
    (again,) = of_kind(costs, "compiled again")
    assert again.cause == "factor is a number that was taken as a constant, and has changed"
    assert again.fix is not None
    assert again.fix.works


def test_what_no_setting_changes_has_a_cause_and_no_fix() -> None:
    compiled = torch.compile(scaled, backend="eager")

    def cell() -> None:
        compiled(torch.ones(4), 2)
        compiled(torch.ones(4, dtype=torch.float64), 2)

    (again,) = of_kind(profiled(cell), "compiled again")
    assert "dtype mismatch" in again.cause
    assert again.fix is None


def broken(x: Tensor) -> Tensor:
    y = x.sin()
    ran.append("broken")
    print("value")  # printed
    y = y * x.sum().item()  # read
    if y.sum() > 0:  # branched
        y = y + 1
    return y.cos()


def test_breaks_have_their_line_cause_cost_and_a_setting_that_was_tried(
    capfd: pytest.CaptureFixture[str],
) -> None:
    compiled = torch.compile(broken, backend="eager")
    costs = profiled(lambda: compiled(torch.ones(4)))
    calls = len(ran)
    assert capfd.readouterr().out == "value\n"
    breaks = {one.text.partition("# ")[2]: one for one in of_kind(costs, "graph break")}
    assert set(breaks) == {"printed", "read", "branched"}
    assert calls == 1  # trying calls nothing
    for name, change in (
        ("printed", "torch._dynamo.config.reorderable_logging_functions.add(print)"),
        ("read", "torch._dynamo.config.capture_scalar_outputs = True"),
    ):
        one = breaks[name]
        assert one.fix is not None
        assert (one.fix.change, one.fix.works) == (change, True)
        assert "goes on beyond this line" in one.fix.effect
        assert one.seconds > 0
    assert breaks["branched"].cause == "a branch depends on the values of a tensor"
    assert breaks["branched"].fix is None


def test_trying_leaves_everything_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.drop(self.norm(x))
            return y * y.sum().item()

    model = Net()
    compiled, other = torch.compile(model, backend="eager"), torch.compile(scaled, backend="eager")
    session = Session(__file__, {"model": model})
    with session:
        for size in (4, 5, 6):
            compiled(torch.randn(size, 4))
            other(torch.ones(size), 2)

    def state() -> tuple[object, ...]:
        tensors = [one.clone() for one in model.state_dict().values()]
        return (
            [one.tolist() for one in tensors],
            torch.get_rng_state().tolist(),
            random.getstate(),
            {name: dict(one) for name, one in torch._dynamo.utils.counters.items()},
            len(torch._dynamo.utils.graph_break_reasons),
            len(torch._dynamo.utils.get_compilation_metrics()),
            set(globals()),
            torch._dynamo.config.capture_scalar_outputs,
            torch._dynamo.config.assume_static_by_default,
            list(torch._dynamo.callback_handler.start_callbacks),
        )

    before = state()
    costs = session.costs()
    assert any(one.fix is not None and one.fix.works for one in costs.compilations)
    assert state() == before
    # What was compiled is still there.
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for size in (6, 5, 4):
        other(torch.ones(size), 2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted


def test_tensors_of_a_call_are_not_kept_for_a_trial() -> None:
    import weakref

    compiled = torch.compile(scaled, backend="eager")
    alive: list[weakref.ref[Tensor]] = []

    def cell() -> None:
        for size in (4, 5):
            x = torch.ones(size)
            alive.append(weakref.ref(x))
            compiled(x, 2)

    session = Session(__file__, {})
    with session:
        cell()
    assert [one() for one in alive] == [None, None]
    assert of_kind(session.costs(), "compiled again")


def test_a_call_that_cannot_be_made_up_again_is_said_to_be_untried() -> None:
    class Bag:
        __slots__ = ("value",)

        def __init__(self) -> None:
            self.value = 2

    def bagged(x: Tensor, bag: Bag) -> Tensor:
        return x * bag.value

    compiled = torch.compile(bagged, backend="eager")

    def cell() -> None:
        for size in (4, 5):
            compiled(torch.ones(size), Bag())

    again = of_kind(profiled(cell), "compiled again")
    assert again
    assert all(one.fix is None or "one of its arguments is a Bag" in one.fix.effect for one in again)


def test_an_error_of_the_trial_is_told_and_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise LookupError("planted")

    monkeypatch.setattr(fixes, "_captured", failing)
    compiled = torch.compile(scaled, backend="eager")

    def cell() -> None:
        for size in (4, 5):
            compiled(torch.ones(size), 2)

    (again,) = of_kind(profiled(cell), "compiled again")
    assert again.fix is not None
    assert again.fix.effect == "capture failed: LookupError: planted"


def test_a_cell_that_compiles_nothing_has_none() -> None:
    assert profiled(lambda: torch.ones(3) + 1).compilations == ()


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "0/0: tensor 'x' size mismatch at index 0. expected 4, actual 5",
            "tensor 'x' size mismatch at index 0",
        ),
        (
            "0/1: n == 2                      # y = x.sin() * n  # mp/a.py:4 in f\nUser stack trace:\n  File",
            "n is a number that was taken as a constant, and has changed",
        ),
        (
            "0/2: ___check_type_id(n, 140159), type=<class 'int'>  # y = x * n  # a.py:4 in f (HINT: type int)",
            "n is no longer of type int",
        ),
        ("3/0: ___check_obj_id(self, 99), type=<class 'Net'>  # x", "self is another object than before"),
        ("GLOBAL_STATE changed: grad_mode", "GLOBAL_STATE changed: grad_mode"),
    ],
)
def test_reasons_are_told_in_words(reason: str, words: str) -> None:
    assert cause_in_words(reason) == words
