"""The table, the parser, help and targets, without a shell."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.notebook import cells, verbs
from deepseek_lab.notebook.grammar import COMMON_FLAGS, VERBS
from deepseek_lab.notebook.header import HeaderTransformer, command_of
from deepseek_lab.notebook.help import overview, reference_markdown, verb_help
from deepseek_lab.notebook.parse import Command, parse, split, split_line
from deepseek_lab.notebook.plan import plan, resolve


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_is_one_record_and_one_file(name: str) -> None:
    module = importlib.import_module(f"deepseek_lab.notebook.verbs.{name}")
    assert callable(module.run)
    cell = "cell" in VERBS[name].forms
    assert hasattr(module, "elsewhere" if VERBS[name].elsewhere else "region") == cell


def test_each_file_is_a_verb() -> None:
    folder = Path(verbs.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_examples_of_the_table_parse(name: str) -> None:
    for text, _ in VERBS[name].examples:
        if text.startswith("%%"):
            assert command_of(text).verb == name
        elif text.startswith("%"):
            magic, _, rest = text.partition(" ")
            typed = rest if magic == "%deepseek" else f"{magic.removeprefix('%ds_')} {rest}"
            assert parse(split_line(typed), "line").verb == name
        else:
            assert parse(split(text)[3:], "script").verb == name


@pytest.mark.parametrize("name", VERBS)
def test_help_and_reference_name_every_flag(name: str) -> None:
    text, reference = verb_help(name), reference_markdown()
    assert VERBS[name].words in overview()
    for flag in VERBS[name].flags:
        assert f"--{flag.name}" in text
        assert f"--{flag.name}" in reference
    for flag in COMMON_FLAGS:
        assert f"--{flag.name}" in reference


def test_command_prints_as_it_can_be_typed() -> None:
    text = '%%deepseek optimize model.layers[0] head --backends a,b --tolerance 0.01 --to r --save "my report.html"'
    command = command_of(text)
    assert command_of(str(command)) == command
    assert command.operands == ("model.layers[0]", "head")
    assert command.get("backends") == ("a", "b")
    assert command.number("tolerance") == 0.01
    with pytest.raises(AttributeError):
        command.verb = "why"  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "optimize -t r -q -n --wait=5s",
        "optimize --to=r --quiet --dry-run --wait 5",
        "optimize --wait 5 -qt r",
    ],
)
def test_spellings(text: str) -> None:
    if "-qt" in text:
        with pytest.raises(UsageError, match="no flag '-qt'"):
            parse(split(text), "cell")
        return
    command = parse(split(text), "cell")
    assert (command.text("to"), command.has("quiet"), command.has("dry-run")) == ("r", True, True)
    assert command.number("wait") == 5


def test_aliases_and_prefixes_mean_the_same() -> None:
    assert command_of("%%ds_optimize m -q") == command_of("%%deepseek optimize m -q")
    assert command_of("%%deepseek optimize?").has("help")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "no verb was given", "%deepseek --help"),
        ("statsu", "there is no verb 'statsu'", "%deepseek status"),
        ("optimize m --precison bf16", "optimize has no flag '--precison'", "%deepseek optimize --precision"),
        ("optimize m --precision bf17", "is one of bf16, fp16, int8", "--precision bf16"),
        ("optimize m --tolerance small", "which is a number", "--tolerance FLOAT"),
        ("optimize m --tolerance -1", "--tolerance cannot be -1", "0 or more"),
        ("optimize m --tolerance nan", "--tolerance cannot be nan", "0 or more"),
        ("optimize m --seed 1.5", "a whole number", "--seed INT"),
        ("optimize m --to 1r", "cannot be a name", "--to report"),
        ("optimize m --to class", "cannot be a name", "--to report"),
        ("optimize m --save report.pdf", "writes .html, .json, .md", "--save report.html"),
        ("optimize m --wait", "--wait needs a value", "--wait SECONDS"),
        ("optimize m --wait --quiet", "--wait needs a value", "--wait SECONDS"),
        ("optimize m -q -q", "given twice", "keep one"),
        ("optimize m --quiet=yes", "takes no value", "--quiet"),
        ("optimize", "needs the object", "%deepseek optimize TARGET"),
        ("export", "export needs OUT", "%deepseek export OUT"),
        ("export out --cells one", "names no cells", "--cells 1-3,7"),
        ("status now", "does not know what to do with 'now'", "%deepseek status"),
        ("status quiet", "does not know what to do with 'quiet'", "%deepseek status --quiet"),
        ("on optimise", "there is no verb", "%%deepseek optimize"),
        ("on --bakends x", "optimize has no flag", "%%deepseek optimize --backends"),
        ("why 'r", "quotation mark", "close it"),
    ],
)
def test_refusals_name_the_next_thing_to_type(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(split(text), "line")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_form_that_a_verb_has_not() -> None:
    with pytest.raises(UsageError, match="why has no form %%deepseek why"):
        parse(["why"], "cell")
    with pytest.raises(UsageError, match="has no form python -m deepseek_lab why"):
        parse(["why"], "script")


def test_script_form_leaves_the_script_its_own_words() -> None:
    command = parse(split("optimize --wait 3 train.py --wait 5 --epochs 2 -q"), "script")
    assert command.script == ("train.py", "--wait", "5", "--epochs", "2", "-q")
    assert command.number("wait") == 3
    assert not command.has("quiet")
    with pytest.raises(UsageError, match="needs a script"):
        parse(["optimize"], "script")


class _Tree(SimpleNamespace):
    def __call__(self) -> None:
        raise AssertionError("a target was called")


TREE = _Tree(layers=[_Tree(name="first"), _Tree(name="last")], encoder=_Tree())


def test_targets_are_looked_up() -> None:
    names = {"model": TREE}
    assert resolve("model.layers[0]", names) is TREE.layers[0]
    assert resolve("model.layers[-1].name", names) == "last"
    assert plan(parse(["optimize", "model.encoder"], "line"), names).objects == {
        "model.encoder": TREE.encoder
    }


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("modle", "there is no 'modle'", "model"),
        ("model.encode", "model has no .encode", "model.encoder"),
        ("model.layers[7]", "IndexError", "model.layers"),
        ("model()", "never evaluated", "target = model()"),
        ("model.layers[i]", "never evaluated", "target = "),
        ("model.layers[__import__('os')]", "never evaluated", "target = "),
        ("3", "no name", "model.layers[0]"),
    ],
)
def test_target_refusals(path: str, message: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(path, {"model": TREE})
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_targets_that_cannot_be_optimised() -> None:
    for name, value in {"number": 3, "a_class": _Tree}.items():
        with pytest.raises(TargetError, match="not a module or a function"):
            plan(parse(["optimize", name], "line"), {name: value})
    with pytest.raises(TargetError, match="not a report"):
        plan(parse(["why", "x"], "line"), {"x": 3})


def _transform(text: str) -> str:
    return "".join(HeaderTransformer()(text.splitlines(keepends=True)))


CALL = "get_ipython().run_line_magic('deepseek', '%%deepseek optimize')\n"


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("%%deepseek optimize\nx = 1\n", CALL + "x = 1\n"),
        ("# a\n\n%%deepseek optimize\nx\n", "# a\n\n" + CALL + "x\n"),
        ("%%deepseek optimize\n%%deepseek optimize\nx\n", CALL + CALL + "x\n"),
        ("%%deepseek optimize\n\n%%time\nx\n", CALL + "\nget_ipython().run_cell_magic('time', '', 'x\\n')\n"),
        ("%%deepseek optimize --help\nx\n", CALL.replace("optimize'", "optimize --help'")),
        ("%%deepseek optimize\n\n", "get_ipython().run_cell_magic('deepseek', 'optimize', '')\n"),
    ],
)
def test_header_becomes_a_call(typed: str, becomes: str) -> None:
    assert _transform(typed) == becomes


@pytest.mark.parametrize(
    "typed",
    ["", "\n", "x = 1\n%%deepseek optimize\n", "%%time\n%%deepseek optimize\nx\n", "%%deepseek?\n", "%%deepseekish\n",
     "%deepseek status\n", "s = '''\n%%deepseek optimize\n'''\n"],
)  # fmt: skip
def test_other_cells_are_untouched(typed: str) -> None:
    assert _transform(typed) == typed


def test_plain_keeps_line_numbers_and_strings() -> None:
    raw = "%%time\n%%deepseek optimize\n%matplotlib inline\ns = '''\n%not a magic\n'''\nif s:\n    !ls\nx?\n"
    text = cells.plain(raw)
    assert text.splitlines() == [
        "# %%time", "# %%deepseek optimize", "# %matplotlib inline", "s = '''", "%not a magic", "'''", "if s:",
        "    pass  # !ls", "# x?",
    ]  # fmt: skip
    compile(text, "cell", "exec")
    assert cells.plain("%%bash\nls") == "# %%bash\n# ls"


def test_called_paths() -> None:
    assert cells.called_paths("%%deepseek optimize\ny = model(x)\nfor s in range(3): a.b[0].run(s)") == [
        "model", "range", "a.b[0].run", "a.b[0]",
    ]  # fmt: skip


def test_needed_cells() -> None:
    session = [
        (1, "import torch"), (2, "size = 4"), (3, "unused = 9"), (4, "model = torch.nn.Linear(size, 1)"),
        (5, "model.eval()"), (6, "print('hello')"), (7, "%%deepseek optimize\ny = model(torch.ones(size))"),
        (8, "size = 5"),
    ]  # fmt: skip
    assert [number for number, _ in cells.needed(session, 7)] == [1, 2, 4, 5, 7]
    assert [number for number, _ in cells.chosen(session, "2,4-5")] == [2, 4, 5]
    with pytest.raises(UsageError, match="there is no cell 12"):
        cells.chosen(session, "4,12")


def test_command_is_plain_data() -> None:
    assert parse(["on", "-q"], "line").inner == Command("optimize", "cell", flags=(("quiet", True),))
