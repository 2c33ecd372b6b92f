"""Regions in a real kernel: the cell behaves exactly as it does without one."""

from __future__ import annotations

import pytest
from kernel import Kernel

HEAD = "%%deepseek optimize\n"


# The nine cases of a wrapped cell.


def test_error_fails_the_cell_with_the_users_own_traceback(loaded: Kernel) -> None:
    outcome = loaded.run(HEAD + "def broken():\n    return 1 / 0\n\nbroken()")
    assert (outcome.status, outcome.ename) == ("error", "ZeroDivisionError")
    assert "line 5" in outcome.traceback
    assert "line 3, in broken()" in outcome.traceback
    assert "notebook/" not in outcome.traceback
    assert "deepseek_lab" not in outcome.traceback
    assert not outcome.displays


def test_syntax_error_names_its_own_line(loaded: Kernel) -> None:
    outcome = loaded.run(HEAD + "x = 1\ny = = 2")
    assert outcome.ename == "SyntaxError"
    assert "line 3" in outcome.traceback


def test_top_level_await(loaded: Kernel) -> None:
    outcome = loaded.ok(HEAD + "import asyncio\nawait asyncio.sleep(0.01, result='awaited')")
    assert outcome.result == "'awaited'"
    assert outcome.stdout.count("nothing in this cell calls a torch module") == 1
    assert not outcome.displays


def test_last_value_becomes_out(loaded: Kernel) -> None:
    outcome = loaded.ok(HEAD + "6 * 7")
    assert outcome.result == "42"
    assert loaded.value(f"Out[{outcome.count}]") == "42"


def test_semicolon_silences(loaded: Kernel) -> None:
    assert loaded.ok(HEAD + "6 * 7;").result is None


def test_multi_line_string_is_untouched(loaded: Kernel) -> None:
    loaded.ok(HEAD + 'text = """\n  one\n%%deepseek optimize\n\ttwo\n"""')
    assert loaded.value("text") == repr("\n  one\n%%deepseek optimize\n\ttwo\n")


def test_source_of_a_function_of_the_cell(loaded: Kernel) -> None:
    loaded.ok(
        HEAD + "import inspect\ndef shown(x):\n    return x  # a comment\n\nfound = inspect.getsource(shown)"
    )
    assert loaded.value("found") == repr("def shown(x):\n    return x  # a comment\n")


def test_future_import(loaded: Kernel) -> None:
    loaded.ok(HEAD + "from __future__ import annotations\ndef typed(x: Missing): pass")
    assert loaded.value("typed.__annotations__") == "{'x': 'Missing'}"


def test_comment_and_blank_lines_above_the_header(loaded: Kernel) -> None:
    outcome = loaded.run("# what this does\n\n" + HEAD + "1 / 0")
    assert "line 4" in outcome.traceback
    assert loaded.ok("\n\n# why\n" + HEAD + "5").result == "5"


def test_system_exit_closes_the_region(recording: Kernel) -> None:
    recording.run(HEAD + "raise SystemExit(3)")
    assert recording.value("api.recorded[-1].closed") == "[True]"


# What the region tells the engine.


def test_engine_sees_the_cell(recording: Kernel) -> None:
    recording.ok(
        "%%ds_optimize model --precision bf16 --backends onnxruntime,openvino --seed 7 -t r\nmodel(1)"
    )
    assert recording.value(
        "(lambda a: (a['verb'], list(a['targets']), a['observe']))(api.recorded[-1].asked)"
    ) == ("('optimize', ['model'], False)")
    assert recording.value("api.recorded[-1].asked['options']") == (
        "Options(precision='bf16', tolerance=None, backends=('onnxruntime', 'openvino'), seed=7, device=None, "
        "like=None)"
    )
    assert recording.value("api.recorded[-1].asked['source'].splitlines()[1]") == "'model(1)'"
    assert recording.value("api.recorded[-1].closed") == "[False]"
    assert recording.value("api.recorded[-1].asked['namespace'] is globals()") == "True"
    assert recording.value("r.to_dict()['verb']") == "'optimize'"


def test_engine_is_given_the_file_name_of_the_cell(recording: Kernel) -> None:
    recording.ok(
        HEAD + "def mine(): pass\nsame = mine.__code__.co_filename == api.recorded[-1].asked['cell']"
    )
    assert recording.value("same") == "True"


def test_region_without_targets_observes(recording: Kernel) -> None:
    recording.ok(HEAD + "model(1)")
    assert (
        recording.value("(api.recorded[-1].asked['targets'], api.recorded[-1].asked['observe'])")
        == "({}, True)"
    )


def test_target_that_the_cell_itself_defines_is_not_the_old_object(recording: Kernel) -> None:
    recording.ok("%%deepseek optimize model\nmodel = Net()\nmodel(1)")
    assert (
        recording.value("(api.recorded[-1].asked['targets'], api.recorded[-1].asked['observe'])")
        == "({}, True)"
    )


def test_modules_are_found_after_the_cell_where_the_cell_imports_torch() -> None:
    kernel = Kernel()
    try:
        kernel.ok("%load_ext deepseek_lab\nimport recording_engine")
        kernel.ok(
            HEAD + "api = recording_engine.install()\nclass Net(recording_engine.Module):\n"
            "    def generate(self, n): return n\nmodel, other, unused = Net(), Net(), Net()\n"
            "layers = [Net()]\nmodel(1)\nother.generate(2)\nlayers[0](3)"
        )
        assert kernel.value("sorted(api.recorded[-1].asked['targets'])") == "['layers[0]', 'model', 'other']"
        assert kernel.value("api.recorded[-1].closed") == "[False]"
    finally:
        kernel.stop()


# Where regions may stand.


def test_nested_run_cell_does_not_close_the_region(recording: Kernel) -> None:
    recording.ok(
        HEAD
        + "get_ipython().run_cell('inner = 1')\nget_ipython().run_cell('')\nopen_ = api.recorded[-1].closed[:]"
    )
    assert recording.value("(open_, inner, api.recorded[-1].closed)") == "([], 1, [False])"


def test_region_in_a_nested_run_cell_closes_with_it(recording: Kernel) -> None:
    recording.ok(
        HEAD + "get_ipython().run_cell('%%deepseek optimize\\nmodel(1)')\n"
        "states = [run.closed[:] for run in api.recorded[-2:]]"
    )
    assert recording.value("states") == "[[], [False]]"
    assert recording.value("[run.closed for run in api.recorded[-2:]]") == "[[False], [False]]"


def test_silent_run(recording: Kernel) -> None:
    recording.ok(HEAD + "quietly = 1", silent=True)
    assert recording.value("(quietly, api.recorded[-1].closed)") == "(1, [False])"
    recording.run(HEAD + "1 / 0", silent=True)
    assert recording.value("api.recorded[-1].closed") == "[True]"


def test_inside_time(recording: Kernel) -> None:
    outcome = recording.ok("%%time\n" + HEAD + "y = model(1)\ny")
    assert outcome.result == "('called', 1)"
    assert "Wall time" in outcome.stdout
    assert recording.value("api.recorded[-1].closed") == "[False]"


def test_around_time(recording: Kernel) -> None:
    outcome = recording.ok(HEAD + "\n%%time\ny = model(2)\ny")
    assert outcome.result == "('called', 2)"
    assert "Wall time" in outcome.stdout
    assert recording.value("api.recorded[-1].closed") == "[False]"


def test_timeit_body_has_one_region(recording: Kernel) -> None:
    before = int(recording.value("len(api.recorded)"))
    recording.ok("%%timeit -n 3 -r 1\n" + HEAD + "model(1)")
    assert int(recording.value("len(api.recorded)")) == before + 1


def test_nested_headers(recording: Kernel) -> None:
    before = int(recording.value("len(api.recorded)"))
    assert recording.ok(HEAD + "%%ds_optimize model\nmodel(1)").result == "('called', 1)"
    assert recording.value(f"[run.closed for run in api.recorded[{before}:]]") == "[[False], [False]]"


def test_run_cell_magic_as_converted_notebooks_say_it(recording: Kernel) -> None:
    outcome = recording.ok("get_ipython().run_cell_magic('deepseek', 'optimize', 'z = model(4)\\nz')")
    assert outcome.result == "('called', 4)"
    assert recording.value("api.recorded[-1].closed") == "[False]"
    failed = recording.run("get_ipython().run_cell_magic('ds_optimize', '', '1 / 0')")
    assert failed.ename == "ZeroDivisionError"
    assert "magics.py" not in failed.traceback
    assert recording.value("api.recorded[-1].closed") == "[True]"


# Errors of what was typed fail the cell before it runs; errors of ours never cost its result.


@pytest.mark.parametrize(
    ("header", "ename", "message"),
    [
        ("%%deepseek optimise", "UsageError", "try: %%deepseek optimize"),
        ("%%deepseek optimize --bakends x", "UsageError", "--backends"),
        ("%%deepseek optimize modle", "TargetError", "try: model"),
        ("%%deepseek status", "UsageError", "%deepseek status"),
        ("%%ds_optimize 'open", "UsageError", "quotation mark"),
    ],
)
def test_bad_header_fails_the_cell_before_it_runs(
    recording: Kernel, header: str, ename: str, message: str
) -> None:
    recording.ok("ran = False")
    outcome = recording.run(header + "\nran = True")
    assert (outcome.status, outcome.ename) == ("error", ename)
    assert message in outcome.traceback
    assert "The cell was not run, so nothing has changed." in outcome.traceback
    assert "File" not in outcome.traceback
    assert recording.value("ran") == "False"


def test_empty_cell_is_refused(recording: Kernel) -> None:
    outcome = recording.run("%%deepseek optimize")
    assert outcome.status == "error"
    assert "body is empty" in outcome.stderr + outcome.traceback


@pytest.mark.parametrize("fault", ["fail_on_open", "fail_on_close"])
def test_an_error_of_ours_is_one_warning_line(recording: Kernel, fault: str) -> None:
    recording.ok(f"api.{fault} = True")
    outcome = recording.ok(HEAD + "model(3)")
    recording.ok(f"api.{fault} = False")
    assert outcome.result == "('called', 3)"
    assert outcome.stderr.count("\n") == 1
    assert "planted in" in outcome.stderr


def test_help_and_dry_run_do_not_run_the_cell(recording: Kernel) -> None:
    recording.ok("ran = False")
    assert "Flags that every verb has" in (recording.ok(HEAD.strip() + " --help\nran = True").result or "")
    planned = recording.ok("%%deepseek optimize model -n --wait 5\nran = True").result or ""
    assert "target model: Net" in planned
    assert "--wait 5" in planned
    assert recording.value("ran") == "False"


def test_nothing_is_evaluated(recording: Kernel) -> None:
    recording.ok("called = []")
    for target in ("called.append(1)", "{called.append(1)}", "$called", "called[called.append(1)]"):
        outcome = recording.run(f"%%deepseek optimize {target}\npass")
        assert outcome.ename == "TargetError", target
    assert recording.value("called") == "[]"


# %deepseek on | off


def test_on_makes_every_cell_a_region_until_off(recording: Kernel) -> None:
    recording.ok("%deepseek on optimize --backends onnxruntime -q")
    outcome = recording.run("def fails():\n    1 / 0\nfails()")
    assert "line 3" in outcome.traceback
    assert recording.value("api.recorded[-1].closed") == "[True]"
    before = int(recording.value("len(api.recorded)"))
    assert recording.ok("model(1)").result == "('called', 1)"
    recording.ok(HEAD + "model(2)")
    assert "optimize --backends onnxruntime" in (recording.ok("%deepseek status").result or "")
    recording.ok("%deepseek off")
    recording.ok("model(3)")
    assert recording.value(f"[run.asked['source'][-8:] for run in api.recorded[{before}:]]") == (
        "['model(1)', 'model(2)']"
    )


def test_on_refuses_what_cannot_be_a_region(recording: Kernel) -> None:
    assert recording.run("%deepseek on status").ename == "UsageError"
    assert recording.run("%deepseek on optimize nowhere").ename == "TargetError"


# The report below the cell.


def test_report_is_displayed_and_updated_from_the_background(recording: Kernel) -> None:
    outcome = recording.ok(
        "%%deepseek optimize --view text --to r\nrun = api.recorded[-1]\nrun.capture()\n'value'"
    )
    assert outcome.result == "'value'"
    assert [bundle["text/plain"] for bundle in outcome.displays] == [
        "optimize  working: 1 of 1 graphs undecided, eager meanwhile"
    ]
    message = recording.client.execute("import threading; threading.Thread(target=run.decide).start()")
    content = recording.later(
        lambda kind, body: kind == "update_display_data" and "2.00x" in body["data"]["text/plain"]
    )
    assert content["data"]["text/plain"].startswith("optimize  2.00x (95% 1.90-2.10)  covered 100%")
    reply = recording.client.get_shell_msg(timeout=20)
    while reply["parent_header"].get("msg_id") != message:
        reply = recording.client.get_shell_msg(timeout=20)
    assert recording.value("(r.chosen, r.speedup, r.to_dict()['decided'])") == "('onnxruntime', 2.0, True)"


def test_wait_holds_the_cell_until_the_decision(recording: Kernel) -> None:
    outcome = recording.ok(
        "%%deepseek optimize --view text --wait 30\nimport threading\nrun = api.recorded[-1]\nrun.capture()\n"
        "threading.Timer(0.5, run.decide).start()"
    )
    assert outcome.updates[-1]["text/plain"].startswith("optimize  2.00x")


def test_quiet_shows_nothing(recording: Kernel) -> None:
    outcome = recording.ok(HEAD.strip() + " -q\napi.recorded[-1].capture()\napi.recorded[-1].decide()")
    assert not outcome.displays
    assert not outcome.updates
