"""Loading adds, unloading restores exactly."""

from __future__ import annotations

from kernel import Kernel

STATE = """
def state():
    shell = get_ipython()
    return (
        list(shell.input_transformers_cleanup), list(shell.input_transformers_post),
        {kind: dict(table) for kind, table in shell.magics_manager.magics.items()},
        dict(shell.magics_manager.registry),
        {name: list(calls) for name, calls in shell.events.callbacks.items()},
        list(shell.Completer.custom_matchers),
        {name for name in shell.user_ns if not name.startswith("_")},
    )
"""


def test_unload_restores_the_shell_exactly() -> None:
    kernel = Kernel()
    try:
        kernel.ok(STATE)
        kernel.ok("before = during = after = again = None")
        # The shell itself loads some magics when they are first used.
        kernel.run("%reload_ext there_is_no_such_extension")
        kernel.ok("before = state()")
        kernel.ok("%load_ext deepseek_lab")
        kernel.ok("during = state()")
        kernel.ok("%%deepseek optimize -q\npass")
        kernel.ok("%reload_ext deepseek_lab")
        kernel.ok("again = state()")
        kernel.ok("%unload_ext deepseek_lab")
        kernel.ok("after = state()")
        assert kernel.value("[a == b for a, b in zip(before, after)]") == str([True] * 7)
        assert kernel.value("during == before") == "False"
        assert kernel.value("[len(a) == len(b) for a, b in zip(during, again)]") == str([True] * 7)
        assert kernel.value("during[-1] - before[-1]") == "set()"
        assert kernel.run("%deepseek status").status == "error"
    finally:
        kernel.stop()


def test_a_magic_of_the_same_name_comes_back() -> None:
    kernel = Kernel()
    try:
        kernel.ok("get_ipython().register_magic_function(lambda line: 'mine', 'line', 'deepseek')")
        kernel.ok("%load_ext deepseek_lab")
        kernel.ok("%unload_ext deepseek_lab")
        assert kernel.ok("%deepseek").result == "'mine'"
    finally:
        kernel.stop()


def test_load_is_silent_and_leaves_torch_alone() -> None:
    kernel = Kernel()
    try:
        kernel.ok("names = None; names = set(globals())")
        outcome = kernel.ok("%load_ext deepseek_lab")
        assert outcome.stdout == outcome.stderr == ""
        assert outcome.result is None
        assert not outcome.displays
        assert kernel.value("{n for n in set(globals()) - names if n[0] != '_'}") == "set()"
        kernel.ok("%%deepseek optimize\nx = 1\nx")
        kernel.ok("import sys")
        assert kernel.value("'torch' in sys.modules") == "False"
        assert kernel.value("'deepseek_lab.engine.api' in sys.modules") == "False"
    finally:
        kernel.stop()


def test_reload_and_unload_inside_a_region(recording: Kernel) -> None:
    recording.ok("%%deepseek optimize -q\nrun = api.recorded[-1]\n%reload_ext deepseek_lab")
    assert recording.value("run.closed") == "[False]"
    recording.ok("%%deepseek optimize -q\nrun = api.recorded[-1]")
    assert recording.value("run.closed") == "[False]"
