"""``%ds_free``: after a cell that ran out of memory the notebook is usable again, and every holder is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kernel import Kernel

MIB = 1 << 20
_SETUP = """
%load_ext deepseek_lab
import torch
from deepseek_lab.measure import holders
def tensor_bytes():
    return sum(holders.alive().values())
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def block(mib):
    return torch.ones(mib * 2**18)
def fails(mib):
    activations = [block(mib) for _ in range(3)]
    return torch.empty(2**50)
"""


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel with helpers that allocate."""
    made = Kernel()
    made.ok(_SETUP)
    yield made
    made.stop()


def _rows(kernel: Kernel, line: str = "%deepseek free") -> list[dict[str, Any]]:
    kernel.ok(f"shown = get_ipython().run_line_magic('deepseek', {line.removeprefix('%deepseek ')!r})")
    rows: list[dict[str, Any]] = eval(kernel.value("shown.to_dict()['rows']"))
    return rows


def test_what_a_failed_cell_allocated_is_given_back(kernel: Kernel) -> None:
    kernel.ok("block(1); before, before_rss = tensor_bytes(), resident()")
    outcome = kernel.run("fails(100)")
    assert outcome.ename == "RuntimeError"
    assert "out of memory" in outcome.stderr
    assert "%ds_free" in outcome.stderr
    kernel.ok("held, held_rss = tensor_bytes(), resident()")
    assert int(kernel.value("held - before")) >= 300 * MIB
    shown = kernel.ok("%ds_free").result or ""
    assert "300.0 MiB of tensors freed" in shown
    assert "sys.last_value" in shown
    kernel.ok("after, after_rss = tensor_bytes(), resident()")
    assert float(kernel.value("(held - after) / (held - before)")) >= 0.99
    assert float(kernel.value("(held_rss - after_rss) / (held_rss - before_rss)")) >= 0.9


def test_an_error_inside_of_another_holds_nothing_either(kernel: Kernel) -> None:
    kernel.ok(
        "def outer():\n    kept = block(40)\n    try:\n        fails(40)\n"
        "    except RuntimeError as error:\n        raise ValueError('again') from error"
    )
    kernel.ok("before = tensor_bytes()")
    assert kernel.run("outer()").ename == "ValueError"
    kernel.ok("held = tensor_bytes()")
    kernel.ok("%ds_free")
    assert float(kernel.value("(held - tensor_bytes()) / (held - before)")) >= 0.99


def test_every_kind_of_holder_is_named(kernel: Kernel) -> None:
    kernel.ok(
        "import types, sys\n"
        "mine = block(11)\n"
        "store = types.ModuleType('some_library'); sys.modules['some_library'] = store; store.cache = [block(12)]\n"
        "def hooked():\n"
        "    seen = [block(13)]\n"
        "    def hook(*args): seen.append(args)\n"
        "    return hook\n"
        "module = torch.nn.Linear(2, 2); handle = torch.nn.modules.module.register_module_forward_hook(hooked())\n"
        "def forgotten():\n"
        "    weight = torch.nn.Parameter(block(14)); optimizer = torch.optim.Adam([weight])\n"
        "    weight.grad = torch.zeros_like(weight); optimizer.step()\n"
        "    import builtins; builtins.hidden = [optimizer]\n"
        "forgotten(); del store"
    )
    kernel.ok("block(15)")
    assert kernel.run("fails(16)").ename == "RuntimeError"
    rows = _rows(kernel)
    found = {(row["holder"], row["what"]): row for row in rows}

    def mib(kind: str, what: str) -> int:
        (row,) = [one for (k, w), one in found.items() if k == kind and what in w]
        return round(row["bytes"] / MIB)

    assert mib("name", "mine") == 11
    assert "%deepseek free mine" in found["name", "mine"]["now"]
    assert mib("module", "some_library.cache") == 12
    assert mib("closure", "hook") == 13
    assert mib("optimizer", "Adam") == 14 * 4  # the weight, its gradient and two moments
    assert mib("output", "Out[") == 15
    freed = [row for row in rows if row["now"] == "freed"]
    assert sum(row["bytes"] for row in freed) == 48 * MIB
    assert {row["holder"] for row in freed} == {"error"}


def test_losses_that_hold_their_graphs_are_found_out(kernel: Kernel) -> None:
    kernel.ok(
        "net = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(4)])\n"
        "losses = [net(torch.randn(512, 64)).relu().square().mean() for _ in range(30)]"
    )
    (row,) = [one for one in _rows(kernel) if one["what"] == "losses"]
    assert row["bytes"] > 30 * 4 * 512 * 64 * 4
    assert "backward pass" in row["now"]
    assert ".item()" in row["now"]


def test_names_are_touched_only_when_told(kernel: Kernel) -> None:
    kernel.ok("a, b = block(20), block(21)\nc = a[:5]")
    _rows(kernel)
    assert kernel.value("(a.numel(), b.numel())") == str((20 << 18, 21 << 18))
    _rows(kernel, "%deepseek free b")
    assert kernel.run("b").ename == "NameError"
    kernel.ok("before = tensor_bytes()")
    rows = _rows(kernel, "%deepseek free a")
    assert kernel.value("c.sum().item()") == "5.0"
    assert any(row["what"] == "c" and row["bytes"] == 20 * MIB for row in rows)


def test_outputs_are_emptied_on_request(kernel: Kernel) -> None:
    kernel.ok("block(30)")
    kernel.ok("_ * 2")
    kernel.ok("before = tensor_bytes()")
    assert any(row["holder"] == "output" for row in _rows(kernel))
    _rows(kernel, "%deepseek free --outputs")
    assert int(kernel.value("before - tensor_bytes()")) >= 60 * MIB
    assert kernel.ok("21 * 2").result == "42"
    assert kernel.ok("_ + 1").result == "43"


def test_unknown_name_frees_nothing(kernel: Kernel) -> None:
    kernel.ok("tensors = block(5)")
    outcome = kernel.run("%deepseek free tensor")
    assert "tensors" in outcome.evalue + outcome.stderr
    assert kernel.value("tensors.numel()") == str(5 << 18)
