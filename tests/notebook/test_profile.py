"""``%%deepseek profile`` and ``%ds_profile`` in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernel import Kernel

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.events import EventLog
from deepseek_lab.notebook.parse import parse, split_line
from deepseek_lab.notebook.verbs.profile import ShownCosts


def test_cell_shows_lines_modules_and_operators_and_keeps_its_value(training: Kernel) -> None:
    outcome = training.ok("%%deepseek profile --to r\ntrain(300)\ntime.sleep(0.5)\n'its own value'")
    assert outcome.result == "'its own value'"
    assert outcome.stderr == ""
    (shown,) = outcome.displays
    text = shown["text/plain"]
    assert text.startswith("profile  ")
    for word in ("by line", "by module", "by operator", "time.sleep(0.5)", "model.0", "addmm", "waiting"):
        assert word in text
    assert "<script" not in shown["text/html"]
    assert "application/vnd.deepseek-lab.v1+json" in shown
    assert training.value("r.attributed > 0.95") == "True"
    assert (
        training.value("[0 < one.num_calls <= 300 for one in r.modules if one.path == 'model']") == "[True]"
    )
    assert training.value("[l.line for l in r.lines if l.in_cell and 'sleep' in l.text]") == "[3]"


def test_line_runs_a_statement_as_it_was_typed(training: Kernel) -> None:
    outcome = training.ok("""%ds_profile -t s text = "it's one  statement"; train(3)""")
    assert outcome.result is not None
    assert outcome.result.startswith("profile  ")
    assert training.value("text") == repr("it's one  statement")
    assert "model.2" in training.value("[one.path for one in s.modules]")
    again = training.ok("%ds_profile")
    assert again.result == outcome.result


def test_error_fails_the_cell_and_still_says_where_the_time_went(training: Kernel) -> None:
    outcome = training.run("%%ds_profile\ntrain(2)\nmodel(torch.zeros(3, 3))")
    assert outcome.status == "error"
    assert outcome.ename == "RuntimeError"
    assert "deepseek_lab" not in outcome.traceback
    assert "ended by RuntimeError" in outcome.displays[0]["text/plain"]
    line = training.run("%ds_profile model(torch.zeros(3, 3))")
    assert line.ename == "RuntimeError"
    assert "ended by RuntimeError" in line.displays[0]["text/plain"]
    assert training.value("__import__('sys').gettrace()") == "None"


def test_against_another_profile(training: Kernel) -> None:
    training.ok("%%deepseek profile -q --to before\ntime.sleep(0.4)")
    outcome = training.ok("%%deepseek profile --against before --view text\ntime.sleep(0.1)")
    text = outcome.displays[0]["text/plain"]
    assert "whole cell" in text
    assert "time.sleep(0.4)" in text
    assert "gone" in text
    assert list(outcome.displays[0]) == ["text/plain"]
    wrong = training.run("%%deepseek profile --against model\ntrain(1)")
    assert "model is a Sequential, not a profile" in wrong.traceback
    assert "%%deepseek profile --to model" in wrong.traceback


def test_interrupt_ends_the_cell_with_its_profile(training: Kernel) -> None:
    outcome = training.run(
        "%%deepseek profile\nprint('on', flush=True)\nwhile True:\n    train(1)",
        during=lambda: training.manager.interrupt_kernel(),
    )
    assert outcome.ename == "KeyboardInterrupt"
    assert "ended by KeyboardInterrupt" in outcome.displays[0]["text/plain"]
    assert training.value("1 + 1") == "2"


def test_files(training: Kernel, tmp_path: Path) -> None:
    training.ok(f"%%deepseek profile -q --save {tmp_path}/p.json --trace {tmp_path}/t.json\ntrain(2)")
    training.ok(f"%ds_profile --save {tmp_path}/p.html")
    assert json.loads((tmp_path / "p.json").read_text())["modules"][0]["path"] == "model"
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert "by operator" in (tmp_path / "p.html").read_text()


def test_cells_that_compile_wait_and_trace_survive(training: Kernel) -> None:
    """Windows open and close between any two instructions of theirs."""
    compiled = training.ok(
        "%%deepseek profile --to c\nfor n in range(2, 5):\n    torch.compile(lambda a: (a * n).sin())(x)",
        timeout_s=200,
    )
    assert "compiling" in compiled.displays[0]["text/plain"]
    awaited = training.ok("%%deepseek profile --to w\nimport asyncio\nawait asyncio.sleep(0.3)\ntrain(50)\n5")
    assert awaited.result == "5"
    timed = training.ok("%%deepseek profile\n%%time\ntrain(50)")
    assert "Wall time" in timed.stdout
    for _ in range(3):
        training.ok("%%ds_profile -q\nfor _ in range(400): train(2)", timeout_s=120)
    training.ok("import gc; gc.collect()")
    assert training.value("__import__('sys').gettrace()") == "None"


def test_profile_of_what_was_optimised_shows_it_as_it_runs(training: Kernel) -> None:
    training.ok(
        "%%deepseek optimize -q --wait 100 --backends onnxruntime\nwith torch.no_grad(): fast = model(x)",
        timeout_s=150,
    )
    outcome = training.ok(
        "%%deepseek profile --to q\nwith torch.no_grad():\n    for _ in range(2000): model(x)"
    )
    assert outcome.status == "ok"
    assert float(training.value("q.attributed")) > 0.9, training.value("q")
    training.ok("%deepseek free")


def test_cell_that_imports_torch_itself_has_lines() -> None:
    made = Kernel()
    try:
        made.ok("%load_ext deepseek_lab")
        outcome = made.ok("%%deepseek profile\nimport torch\ntorch.ones(3)")
        text = outcome.displays[0]["text/plain"]
        assert "import torch" in text
        assert "torch was not imported when the cell began" in text
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("text", "operands", "flags"),
    [
        ("profile f(x)", ("f(x)",), ()),
        ("profile f('a  b', \"c\")  # said", ("f('a  b', \"c\")  # said",), ()),
        ("profile --to r -x", None, None),
        ("profile -t r -q x = -1; y", ("x = -1; y",), (("to", "r"), ("quiet", True))),
        ("profile --against=r g( -1, '-q')", ("g( -1, '-q')",), (("against", "r"),)),
        ("profile --save 'a b.html' don't", ("don't",), (("save", "a b.html"),)),
        ("profile", (), ()),
    ],
)
def test_statement_is_taken_as_typed(text: str, operands: object, flags: object) -> None:
    if operands is None:
        with pytest.raises(UsageError, match="no flag '-x'"):
            parse(split_line(text), "line")
        return
    command = parse(split_line(text), "line")
    assert command.operands == operands
    assert command.flags == flags


def test_events_of_a_profile_reproduce_it_elsewhere(training: Kernel, tmp_path: Path) -> None:
    """In a process that never saw the cell."""
    outcome = training.ok("%%deepseek profile --to r\ntrain(20)")
    training.ok(f"import pathlib; r.log.save(pathlib.Path('{tmp_path}/log.jsonl'))")
    again = ShownCosts.of(EventLog.load(tmp_path / "log.jsonl"))
    shown = outcome.displays[0]
    made = again.bundle()
    assert made["text/plain"] == shown["text/plain"]
    assert made["text/html"] == shown["text/html"]
    assert json.loads(json.dumps(again.to_dict())) == again.to_dict()
    training.ok(f"import json; json.dump(r.to_dict(), open('{tmp_path}/r.json', 'w'))")
    assert json.loads((tmp_path / "r.json").read_text()) == again.to_dict()
    with pytest.raises(TargetError, match="no cell was profiled in these events") as caught:
        ShownCosts.of([])
    assert "%%deepseek profile --to r" in str(caught.value)


HOSTILE: dict[str, tuple[str, str]] = {
    "nested regions": ("%%deepseek profile --to a\n%ds_profile -t b train(3)\ntrain(3)\n7", "7"),
    "a thread": (
        "%%ds_profile -t a\nimport threading\nt = threading.Thread(target=train, args=(5,)); t.start(); t.join(); 7",
        "7",
    ),
    "await": (
        "%%ds_profile -t a\nimport asyncio\nawait asyncio.gather(*[asyncio.sleep(0.01)] * 3); train(3); 7",
        "7",
    ),
    "a generator left half way": (
        "%%ds_profile -t a\ndef g():\n    for n in range(9): yield train(1)\nit = g(); next(it); next(it); 7",
        "7",
    ),
    "workers": (
        (
            "%%ds_profile -t a\nfrom torch.utils.data import DataLoader, TensorDataset\n"
            "for b in DataLoader(TensorDataset(x), batch_size=32, num_workers=2): model(b[0])\n7"
        ),
        "7",
    ),
    "PyTorch's profiler": (
        (
            "%%ds_profile -t a\ntrain(2)\n"
            "with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:\n    train(2)\n"
            "train(2)\n[e.count for e in theirs.key_averages() if e.key == 'aten::addmm'][0]"
        ),
        "4",
    ),
    "PyTorch's older profiler": (
        (
            "%%ds_profile -t a\nwith torch.autograd.profiler.profile() as theirs:\n    train(2)\n"
            "[e.count for e in theirs.key_averages() if e.key == 'aten::addmm'][0]"
        ),
        "4",
    ),
    "a profiler of Python's": (
        (
            "%%ds_profile -t a\nimport cProfile\np = cProfile.Profile()\nwith p: train(2)\n"
            "any(e.code == train.__code__ and e.callcount == 1 for e in p.getstats())"
        ),
        "True",
    ),
    "a tracer": (
        (
            "%%ds_profile -t a\nimport sys\nseen = []\ndef tell(frame, event, arg):\n"
            "    if frame.f_code is train.__code__: seen.append(event)\n    return tell\n"
            "sys.settrace(tell)\ntrain(2)\nsys.settrace(None)\nseen.count('line') > 5"
        ),
        "True",
    ),
    "next to nothing": ("%%ds_profile -t a\n7", "7"),
    "a finaliser": (
        (
            "%%ds_profile -t a\nimport gc\nclass D:\n    def __del__(self): train(1)\n"
            "d = D(); d.d = d; del d; gc.collect(); 7"
        ),
        "7",
    ),
    "autograd of the user's own": (
        (
            "%%ds_profile -t a\nclass F(torch.autograd.Function):\n    @staticmethod\n"
            "    def forward(c, a): return a * 2\n"
            "    @staticmethod\n    def backward(c, g): return g * 2\n"
            "z = torch.ones(3, requires_grad=True); F.apply(z).sum().backward(); z.grad.tolist()"
        ),
        "[2.0, 2.0, 2.0]",
    ),
    "lines that delete their frame": (
        "%%ds_profile -t a\nexec(compile('v = model(x).sum().item()', '<made up>', 'exec')); eval('train(1)'); 7",
        "7",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("verb", ["profile", "memory"])
def test_cells_of_every_kind_give_what_they_give_without_us(training: Kernel, verb: str, name: str) -> None:
    code, value = HOSTILE[name]
    outcome = training.ok(
        code.replace("profile -t", f"{verb} -t").replace("deepseek profile", f"deepseek {verb}")
    )
    assert outcome.result == value
    assert "deepseek_lab:" not in outcome.stderr
    assert training.value("__import__('sys').gettrace(), __import__('sys').getprofile()") == "(None, None)"
    assert training.value("torch._C._autograd._profiler_enabled()") == "False"
    assert training.value("a is not None") == "True"
    threads = "[t.name for t in __import__('threading').enumerate() if 'sampler' in t.name]"
    assert training.value(threads) == "[]"


def test_measuring_leaves_the_environment_as_it_was(training: Kernel) -> None:
    before = training.value("sorted(__import__('os').environ)")
    training.ok("%%ds_profile -q\ntrain(1)")
    training.ok("%%ds_memory -q\ntrain(1)")
    assert training.value("sorted(__import__('os').environ)") == before


def test_a_line_that_ends_the_cell_has_its_time(training: Kernel) -> None:
    """Also what its value's destruction takes; what comes after it is the shell's and on nobody's line."""
    training.ok("%%ds_profile -t r\ntrain(1)\ntime.sleep(0.2)")
    assert training.value("[0.19 < l.self_s for l in r.lines if 'sleep' in l.text]") == "[True]"
    assert training.value("r.attributed > 0.9") == "True"
    assert training.value("sum(l.self_s for l in r.lines) <= r.wall_s * 1.01") == "True"
