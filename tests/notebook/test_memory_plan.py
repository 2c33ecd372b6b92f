"""``%deepseek memory plan`` in a real kernel, and how it is told from a statement."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook.help import overview, verb_help
from deepseek_lab.notebook.parse import parse, split_line

_SETUP = """
%load_ext deepseek_lab
import torch, transformers
from torch import nn
sizes = dict(n_layer=6, n_embd=512, n_head=8, n_positions=512, vocab_size=4000)
config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
with torch.device("meta"):
    model = transformers.GPT2LMHeadModel(config)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
net, batch, plan = Net(), {"x": torch.randn(8, 64)}, 3
"""


@pytest.fixture(scope="module")
def planning() -> Iterator[Kernel]:
    """A kernel with a model on the meta device, one of nobody's library, and a name ``plan``."""
    kernel = Kernel()
    kernel.ok(_SETUP)
    yield kernel
    kernel.stop()


@pytest.mark.parametrize(
    ("text", "verb", "operands"),
    [
        ("memory plan model --devices 8x80GB", "memory_plan", ("model",)),
        ("memory plan --devices 8x80GB model", "memory_plan", ("model",)),
        ("memory  plan  a.b[0] --devices=1x1GB", "memory_plan", ("a.b[0]",)),
        ("memory_plan model --devices 8x80GB", "memory_plan", ("model",)),
        ("memory plan", "memory", ("plan",)),
        ("memory plan(model)", "memory", ("plan(model)",)),
        ("memory plan = 3", "memory", ("plan = 3",)),
        ("memory plan if x else y", "memory", ("plan if x else y",)),
        ("memory plan - x", "memory", ("plan - x",)),
        ("memory planner model", "memory", ("planner model",)),
        ("memory -q plan", "memory", ("plan",)),
    ],
)
def test_a_plan_is_told_from_a_statement(text: str, verb: str, operands: tuple[str, ...]) -> None:
    command = parse(split_line(text), "line")
    assert (command.verb, command.operands) == (verb, operands)
    if verb == "memory_plan":
        assert str(command).startswith("%deepseek memory plan ")
        assert parse(split_line(str(command).removeprefix("%deepseek ")), "line") == command


def test_help_knows_both() -> None:
    assert "memory plan" in overview()
    assert "%deepseek memory plan MODEL [flags]" in verb_help("memory_plan")
    assert parse(split_line("memory plan --help"), "line").has("help")
    assert verb_help("memory_plan").count("--save") == 1
    with pytest.raises(UsageError, match=r"memory plan has no flag '--devcies'") as caught:
        parse(split_line("memory plan model --devcies 8x80GB"), "line")
    assert caught.value.hint == "%deepseek memory plan --devices"
    with pytest.raises(UsageError, match="memory plan needs MODEL"):
        parse(split_line("memory plan --devices 8x80GB"), "line")


def test_plan_and_program(planning: Kernel, tmp_path: Path) -> None:
    outcome = planning.ok(
        f"%deepseek memory plan model --devices 4x600MB --batch 4 --to p --save {tmp_path}/plan.py"
    )
    assert outcome.result is not None
    first, *_ = outcome.result.splitlines()
    assert first.startswith("plan  model (")
    assert "fits with" in first
    assert "plain FSDP2 needs" in first
    for word in ("optimizer states", "activations", "gathered units", "temporaries", "together", "assumed: "):
        assert word in outcome.result
    code = (tmp_path / "plan.py").read_text()
    ast.parse(code)
    assert ast.literal_eval(planning.value("p.to_code()")) == code
    assert float(planning.value("p.ratio")) > 1
    assert planning.value("p.chosen.holding.peak <= p.limit_bytes") == "True"
    assert planning.value("all(v.is_meta for v in model.parameters())") == "True"
    assert planning.value("plan") == "3"


def test_alias_files_and_text(planning: Kernel, tmp_path: Path) -> None:
    shown = planning.ok(
        f"%ds_memory plan net --inputs batch --devices 2x1GB --view text --save {tmp_path}/p.json"
    )
    assert shown.result is not None
    assert "plain FSDP2 fits" in shown.result
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["plain"]["fits"] is True
    assert data["num_blocks"] == 4
    assert data["inputs"] == "x 8×64"


@pytest.mark.parametrize(
    ("line", "name", "message", "hint"),
    [
        ("memory plan model", "UsageError", "memory plan needs --devices", "--devices 8x80GB"),
        ("memory plan modle --devices 8x80GB", "TargetError", "there is no 'modle'", "model"),
        ("memory plan config --devices 8x80GB", "TargetError", "not a module", "nn.Module"),
        ("memory plan model --devices 8x80", "UsageError", "neither a size", "--devices 8x80GB"),
        ("memory plan model --devices 8x80GB --batch 0", "UsageError", "--batch cannot be 0", "--batch 1"),
        ("memory plan net --devices 8x80GB", "UsageError", "nothing says what Net takes", "--inputs NAME"),
        ("memory plan net --devices 8x80GB --inputs bacth", "TargetError", "there is no 'bacth'", "--inputs batch"),
        ("memory plan model --devices 2x60MB --save {}/p.py", "TargetError", "there is no program", "--"),
    ],
)  # fmt: skip
def test_refusals(planning: Kernel, tmp_path: Path, line: str, name: str, message: str, hint: str) -> None:
    outcome = planning.run(f"%deepseek {line.format(tmp_path)}")
    assert outcome.ename == name
    assert message in outcome.evalue
    assert hint in outcome.evalue


def test_statements_that_begin_alike_still_run(planning: Kernel) -> None:
    outcome = planning.ok("%ds_memory plan + torch.ones(1000).numel()")
    assert outcome.result is not None
    assert outcome.result.startswith("memory on cpu")


def test_completion(planning: Kernel) -> None:
    def complete(text: str) -> list[str]:
        message = planning.client.complete(text, len(text))
        while True:
            reply = planning.client.get_shell_msg(timeout=20)
            if reply["parent_header"].get("msg_id") == message:
                start = reply["content"]["cursor_start"]
                return [text[:start] + match for match in reply["content"]["matches"]]

    assert "%deepseek memory plan" in complete("%deepseek memory pl")
    flags = {"%deepseek memory plan --devices", "%deepseek memory plan --device"}
    assert set(complete("%deepseek memory plan --dev")) == flags
    assert "%deepseek memory plan model" in complete("%deepseek memory plan mod")
    assert complete("%ds_memory plan model --precision ") == ["%ds_memory plan model --precision bf16"]
