from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from deepseek_lab.base.errors import TargetError
from deepseek_lab.processes.travel import Luggage, Returning, pack, unpack
from tests.distributed.cells import notebook

KINDS = {
    "module": (
        (
            "import torch\nclass Net(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.f = torch.nn.Linear(3, 2)\n"
            "    def forward(self, x): return self.f(x) * SCALE\nSCALE = 2.0\nvalue = Net()"
        ),
        "value(torch.ones(1, 3)).shape == (1, 2)",
    ),
    "dataset": (
        (
            "import torch\nclass Data(torch.utils.data.Dataset):\n"
            "    def __len__(self): return 4\n    def __getitem__(self, i): return i * STEP\nSTEP = 3\nvalue = Data()"
        ),
        "list(torch.utils.data.DataLoader(value, batch_size=4))[0].tolist() == [0, 3, 6, 9]",
    ),
    "autograd function": (
        (
            "import torch\nclass Double(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(ctx, x): return 2 * x\n"
            "    @staticmethod\n    def backward(ctx, g): return 2 * g\n"
            "def value(x): return Double.apply(x)"
        ),
        "value(torch.ones(1)).item() == 2.0",
    ),
    "closure over a global": (
        "FACTOR = 5\ndef make(n):\n    def inner(x): return x * n * FACTOR\n    return inner\nvalue = make(2)",
        "value(1) == 10",
    ),
    "dataclass": (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Config:\n    lr: float = 0.1\n    sizes: tuple = (1,)\n"
            "value = Config(0.2)"
        ),
        "value.lr == 0.2 and value == Config(0.2) and dataclasses.replace(value, lr=1).sizes == (1,)",
    ),
    "lambda collate": (
        "import torch\nvalue = torch.utils.data.DataLoader([1, 2, 3, 4], batch_size=2, collate_fn=lambda b: sum(b))",
        "list(value) == [3, 7]",
    ),
    "enum": ("import enum\nclass Mode(enum.Enum):\n    A = 1\n    B = 2\nvalue = Mode.B", "value is Mode.B"),
    "named tuple": (
        "import typing\nclass Pair(typing.NamedTuple):\n    a: int\n    b: int\nvalue = Pair(1, 2)",
        "value.b == 2 and value._replace(a=5) == Pair(5, 2)",
    ),
    "partial": (
        "import functools\ndef add(a, b, c=0): return a + b + c\nvalue = functools.partial(add, 1, c=3)",
        "value(2) == 6",
    ),
    "generator of random numbers": (
        "import torch\nvalue = torch.Generator().manual_seed(7)\nexpected = torch.Generator().manual_seed(7)",
        "torch.randn(3, generator=value).equal(torch.randn(3, generator=expected))",
    ),
    "metaclass and inheritance": (
        (
            "class Meta(type):\n    def __len__(cls): return 3\nclass Base(metaclass=Meta):\n"
            "    def hi(self): return 'base'\n"
            "class Child(Base):\n    def hi(self): return super().hi() + '+child'\nvalue = Child()"
        ),
        "value.hi() == 'base+child' and len(Child) == 3",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_notebook_defines_travels(kind: str, three: Any) -> None:
    define, check = KINDS[kind]
    names = notebook(define)
    sent = sorted(name for name in names if name != "__builtins__" and not name.startswith("__"))
    payload = Luggage(names, sent).pack()
    request = three.ask("run", {"source": check, "file": "cell"}, payload)
    assert {one.value for one in request.answers.values()} == {"True"}, request.answers[0].text


def there_and_back(names: dict[str, Any], use: str, do: str, back: str = "") -> dict[str, Any]:
    """What a cell on the other side does, and the names that come back; the other side's names are returned."""
    luggage = Luggage(names, use.split())
    there: dict[str, Any] = {"__name__": "__main__"}
    returning = Returning([bytes(part) for part in luggage.pack()], there, "cpu")
    exec(do, there)
    payload, left = returning.pack(back.split())
    assert not left
    luggage.unpack([bytes(part) for part in payload])
    return there


def test_functions_find_the_globals_of_the_other_side() -> None:
    names = notebook("rate = 1\ndef f(): return rate")
    there = there_and_back(names, "f rate", "rate = 5\nresult = f()")
    assert there["result"] == 5
    assert names["f"]() == 1


def test_the_notebooks_own_objects_are_written_into() -> None:
    names = notebook(
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))\n"
        "opt = torch.optim.AdamW(model.parameters())\nsched = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)\n"
        "log = []\nseen = {}\nclass Best:\n    loss = 9\nbest = Best()"
    )
    own = {name: names[name] for name in ("model", "opt", "sched", "log", "seen", "best")}
    weight = names["model"][0].weight
    before = weight.detach().clone()
    there_and_back(
        names,
        "model opt sched log seen best torch",
        "for _ in range(3):\n    loss = model(torch.randn(8, 2)).square().mean()\n    opt.zero_grad()\n"
        "    loss.backward()\n    opt.step()\n    sched.step()\n    log.append(loss.item())\n"
        "seen['a'] = 1\nbest.loss = loss.item()\nmodel.eval()\nmodel.extra = 'x'",
        "log seen loss",
    )
    assert all(names[name] is value for name, value in own.items())
    assert names["model"][0].weight is weight
    assert not torch.equal(weight, before)
    assert names["opt"].param_groups[0]["params"][0] is weight
    assert names["opt"].state[weight]["step"] == 3
    assert names["opt"].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)
    assert names["sched"].last_epoch == 3
    assert names["sched"].optimizer is names["opt"]
    assert int(names["model"][1].num_batches_tracked) == 3
    assert not names["model"].training
    assert names["model"].extra == "x"
    assert len(names["log"]) == 3
    assert names["seen"] == {"a": 1}
    assert names["best"].loss == names["log"][-1]


def test_what_is_made_there_refers_to_what_is_here() -> None:
    names = notebook("import torch\nmodel = torch.nn.Linear(2, 2)")
    there_and_back(
        names,
        "model torch",
        "class Ema:\n    def __init__(self, m): self.of = m\nopt = torch.optim.SGD(model.parameters(), 0.1)\n"
        "ema = Ema(model)",
        "opt ema Ema",
    )
    assert names["opt"].param_groups[0]["params"][0] is names["model"].weight
    assert names["ema"].of is names["model"]
    assert isinstance(names["ema"], names["Ema"])


def test_a_class_that_went_and_came_is_the_same() -> None:
    names = notebook("class A:\n    pass\nkind = A")
    there_and_back(names, "A", "made = A()", "made")
    assert type(names["made"]) is names["kind"]


def test_tied_weights_and_views_stay_tied() -> None:
    names = notebook(
        "import torch\nbase = torch.zeros(6)\nview = base[2:4]\na = torch.nn.Linear(2, 2)\nb = torch.nn.Linear(2, 2)\n"
        "b.weight = a.weight"
    )
    there = there_and_back(names, "base view a b torch", "view.fill_(7)\nb.weight.data.fill_(3)")
    assert there["base"].tolist() == [0, 0, 7, 7, 0, 0]
    assert there["a"].weight is there["b"].weight
    assert names["base"].tolist() == [0, 0, 7, 7, 0, 0]
    assert names["a"].weight is names["b"].weight
    assert names["a"].weight.tolist() == [[3, 3], [3, 3]]


def test_tensors_that_have_not_changed_stay_where_they_are() -> None:
    names = notebook("import torch\ndata = torch.randn(1000, 1000)\nout = torch.zeros(3)")
    luggage = Luggage(names, ["data", "out"])
    there: dict[str, Any] = {}
    returning = Returning([bytes(part) for part in luggage.pack()], there, "cpu")
    there["out"] += 1
    payload, _ = returning.pack(["data", "out"])
    assert sum(len(part) for part in payload) < 10_000
    luggage.unpack([bytes(part) for part in payload])
    assert names["out"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0,), (), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int8, torch.complex64])
def test_tensors_of_all_kinds(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value = torch.ones(shape).to(dtype)
    names: dict[str, Any] = {}
    came = unpack([bytes(part) for part in pack(value, names)], names).value
    assert came.dtype == dtype
    assert torch.equal(came, value)


def test_what_cannot_travel_is_named() -> None:
    names = notebook("import threading\nmodel = 1\nlock = threading.Lock()")
    with pytest.raises(
        TargetError, match=r"lock, which the cell uses, is a lock (.|\n)*make lock in the cell"
    ):
        Luggage(names, ["model", "lock"]).pack()


def test_what_cannot_come_back_is_told() -> None:
    names = notebook("x = 1")
    there: dict[str, Any] = {}
    returning = Returning([bytes(part) for part in Luggage(names, ["x"]).pack()], there, "cpu")
    exec("import threading\nx = 2\nlock = threading.Lock()", there)
    _, left = returning.pack(["x", "lock"])
    assert list(left) == ["lock"]
    assert "TypeError" in left["lock"]


def test_what_came_ends_with_its_last_name() -> None:
    """No collector need find it: in some versions of Python it does not."""
    names = notebook("import torch\nmodel = torch.nn.Linear(30, 20)")
    payload = [bytes(part) for part in Luggage(names, ["model"]).pack()]
    gc.collect()
    gc.disable()
    try:
        came = unpack(payload, {})
        there = weakref.ref(came.value["model"].weight)
        assert there() is not None
        del came
        assert there() is None
    finally:
        gc.enable()


def test_an_optimizer_whose_pickle_is_not_whole() -> None:
    define = (
        "import torch\nmodel = torch.nn.Linear(3, 1)\nopt = torch.optim.LBFGS(model.parameters(), max_iter=3)"
    )
    step = """
def closure():
    opt.zero_grad()
    loss = (model(torch.ones(2, 3)) - 4).square().mean()
    loss.backward()
    return loss
opt.step(closure)
"""
    torch.manual_seed(0)
    here = notebook(define)
    torch.manual_seed(0)
    names = notebook(define)
    for _ in range(2):
        exec(step, here)
        there_and_back(names, "model opt torch", step)
    assert torch.equal(names["model"].weight, here["model"].weight)
