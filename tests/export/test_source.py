"""Cells become plain Python: nothing of ours or of the shell's is left."""

from __future__ import annotations

import pytest

from deepseek_lab.base.errors import UsageError
from deepseek_lab.export._source import binding_end, binds, literals, plain_source


def cleaned(text: str, **references: str) -> str:
    """One cell, without its heading."""
    return plain_source([("cell_1", text)], references).removeprefix("# cell_1\n").strip()


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("# %%deepseek optimize\ny = f(x)", "y = f(x)"),
        ("import deepseek_lab, os", "import os"),
        (
            "import deepseek_lab as ds\nfast = ds.optimize(model, precision='bf16')\ny = fast(x)",
            "fast = model\ny = fast(x)",
        ),
        ("from deepseek_lab import optimize, wait\ny = optimize(a or b)(x)\nwait(3)", "y = (a or b)(x)"),
        ("import deepseek_lab as ds\nwith ds.optimize() as r:\n    y = f(x)", "if True:\n    y = f(x)"),
        (
            "import deepseek_lab as ds\nwith torch.no_grad(), ds.optimize():\n    y = f(x)",
            "with torch.no_grad():\n    y = f(x)",
        ),
        ("import deepseek_lab as ds\n@ds.optimize\ndef f(x):\n    return x", "def f(x):\n    return x"),
        (
            "import deepseek_lab as ds\n@keep\n@ds.optimize\ndef f(x):\n    return x",
            "@keep\ndef f(x):\n    return x",
        ),
        ("import deepseek_lab as ds\n@ds.optimize(like=g)\ndef f(x): pass", "f = g"),
        ("import deepseek_lab as ds\n@ds.optimize\ndef optimized(x): pass", "optimized = reference"),
        (
            "import deepseek_lab as ds\nfast = ds.optimize(m)\nprint(fast.report.speedup)\nfast(x)",
            "fast = m\n\nfast(x)",
        ),
        ("for i in r:\n    display(i)\n    f(i)", "for i in r:\n    pass\n    f(i)"),
        ("if a:\n    pass  # %timeit f(x)", "if a:\n    pass"),
        ("s = '# %time stays'\nf(s)", "s = '# %time stays'\nf(s)"),
        ("shell = get_ipython()\nshell.run_line_magic('time', '')\nf(é)", "f(é)"),
    ],
)
def test_what_goes_and_what_stays(cell: str, expected: str) -> None:
    assert cleaned(cell, optimized="reference") == expected


@pytest.mark.parametrize(
    ("cell", "words"),
    [("y = await f()", "awaits outside"), ("x = (", "not plain Python"), ("async with a: pass", "awaits")],
)
def test_what_no_module_can_hold_is_refused(cell: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        cleaned(cell)
    assert "--cells" in refused.value.hint


def test_await_inside_a_function_stays() -> None:
    assert "await" in cleaned("async def f():\n    return await g()")


def test_bindings_are_found_through_paths() -> None:
    text = "import torch\nmodel = build()\nmodel = model.eval()\nfor layer in model: pass"
    assert binding_end(text, "model.encoder[0]") == 3
    assert binds(text, "layer")
    assert not binds(text, "Block")
    assert not binds(text, "not a path")


def test_literals_of_a_call() -> None:
    text = "y = model(x, use_cache=False, mask=m)\nz = other(x, flag=True)"
    assert literals(text, "model") == {"use_cache": False}
    assert literals(text, "absent") == {}
