"""``%%deepseek optimize --memory-limit``: the user's own loop, in a real kernel, within a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from kernel import Kernel

_SETUP = """
%load_ext deepseek_lab
import torch
from torch import nn
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(64), nn.GELU()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(x))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(6)))
        self.head = nn.Linear(64, 10)
    def forward(self, x):
        return self.head(self.blocks(x))

x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
def fresh():
    global model, optimizer
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
def train(steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
fresh()
"""
# Until a step was measured that ran by a plan.
_LOOP = """
losses = train(3)
while not all(row.planned and row.measured for row in r.report.rows.values()):
    r.run.wait()
    losses += train(1)
    assert len(losses) < 12
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok(_SETUP)
    yield made
    made.stop()


def test_a_cell_trains_within_the_limit_and_says_what_it_took(kernel: Kernel) -> None:
    kernel.ok("fresh(); plain = train(12)")
    kernel.ok("fresh()")
    outcome = kernel.run(f"%%deepseek optimize --memory-limit 18MiB --to r\n{_LOOP}")
    assert outcome.ename in (None, ""), outcome.evalue
    assert kernel.value("losses == plain[:len(losses)]") == "True"
    shown = kernel.value("repr(r)")
    assert "optimize  model  limit 18 MiB  peak" in shown
    assert "measured" in shown
    assert "recomputation" in shown
    assert re.search(r"recomputation  blocks\.\d", shown)
    row = "next(iter(r.report.rows.values()))"
    assert kernel.value(f"{row}.measured.peak_bytes <= 18 * 2**20") == "True"
    assert kernel.value(f"{row}.planned.plain_bytes > 18 * 2**20") == "True"
    page = (outcome.displays + outcome.updates)[-1]["text/html"]
    assert "the same by hand" in page
    kernel.ok("r.restore()")
    assert kernel.value("[n for m in model.modules() for n in m.__dict__ if n == 'forward']") == "[]"


def test_a_limit_that_can_not_be_kept_fails_the_cell_before_it_trains(kernel: Kernel) -> None:
    kernel.ok("fresh(); before = [p.clone() for p in model.parameters()]")
    outcome = kernel.run("%%deepseek optimize --memory-limit 100KiB\ntrain(1)")
    assert outcome.ename == "MemoryLimitError"
    assert "alone hold" in outcome.evalue
    assert "--memory-limit" in outcome.evalue
    assert kernel.value("all(torch.equal(a, b) for a, b in zip(before, model.parameters()))") == "True"
    kernel.ok("train(1)")  # the next cell is plain again


def test_what_is_typed_wrongly_runs_nothing(kernel: Kernel) -> None:
    kernel.ok("ran = False")
    outcome = kernel.run("%%deepseek optimize --memory-limit plenty\nran = True")
    assert outcome.ename == "UsageError"
    assert "'plenty' is no amount of memory" in outcome.evalue
    outcome = kernel.run("%%deepseek optimize --memory-limit 1GiB --backends onnxruntime\nran = True")
    assert outcome.ename == "TargetError"
    assert "no backends are raced" in outcome.evalue
    assert kernel.value("ran") == "False"


def test_a_cell_that_trains_nothing_says_so(kernel: Kernel) -> None:
    outcome = kernel.run("%%deepseek optimize --memory-limit auto\n1 + 1")
    assert "nothing in this cell trains" in outcome.stdout


def test_the_line_form_and_a_second_limit(kernel: Kernel) -> None:
    kernel.ok("fresh()")
    kernel.ok("%deepseek optimize model --memory-limit 1GiB --to first")
    kernel.ok("train(2); first.run.wait(); train(3)")
    assert "fits as it is" in kernel.ok("print(first)").stdout
    outcome = kernel.run(f"%%deepseek optimize --memory-limit 18MiB --to r\n{_LOOP}")
    assert outcome.ename in (None, ""), outcome.evalue
    assert kernel.value("first.run._trainings['model'].phase") == "'closed'"
    kernel.ok("r.restore()")


def test_an_interrupt_leaves_a_loop_that_goes_on(kernel: Kernel) -> None:
    kernel.ok("fresh(); expected = train(4)")
    kernel.ok("fresh()")
    outcome = kernel.run(
        "%%deepseek optimize --memory-limit 18MiB --to r\n"
        "losses = train(2)\nmodel(x).sum().backward()\nraise KeyboardInterrupt"
    )
    assert outcome.ename == "KeyboardInterrupt"
    kernel.ok("r.run.wait(); losses += train(2)")
    assert kernel.value("losses == expected") == "True"
    kernel.ok("r.restore()")


def test_what_is_allowed_is_done_and_status_and_why_know_of_it(kernel: Kernel) -> None:
    kernel.ok("fresh(); plain = train(12)")
    kernel.ok("fresh()")
    outcome = kernel.run(
        f"%%deepseek optimize --memory-limit 18MiB --allow step-in-backward,8bit-optimizer --to r\n{_LOOP}"
    )
    assert outcome.ename in (None, ""), outcome.evalue
    assert kernel.value("losses == plain[:len(losses)]") == "True"  # nothing lossy was needed
    assert "the optimiser's step inside the backward pass" in kernel.value("repr(r)")
    status = kernel.ok("print(get_ipython().run_line_magic('deepseek', 'status'))").stdout
    assert "model within 18 MiB" in status
    assert "trains by its plan" in status
    assert "step inside the backward pass" in status
    assert "measured" in status
    for command in ("why", "why r"):
        why = kernel.ok(f"print(get_ipython().run_line_magic('deepseek', '{command}'))").stdout
        assert "model  limit 18 MiB" in why
        assert "the same by hand" in why
        assert "register_post_accumulate_grad_hook" in why
    kernel.ok("r.restore()")
    assert (
        "within 18 MiB" not in kernel.ok("print(get_ipython().run_line_magic('deepseek', 'status'))").stdout
    )


def test_words_that_can_not_be_allowed_run_nothing(kernel: Kernel) -> None:
    kernel.ok("ran = False")
    outcome = kernel.run("%%deepseek optimize --memory-limit 1GiB --allow 8bit\nran = True")
    assert outcome.ename == "UsageError"
    assert "--allow does not know '8bit'" in outcome.evalue
    assert "--allow 8bit-optimizer" in outcome.evalue
    outcome = kernel.run("%%deepseek optimize --allow step-in-backward\nran = True")
    assert outcome.ename == "UsageError"
    assert "there is no limit" in outcome.evalue
    assert kernel.value("ran") == "False"


def test_a_refusal_names_what_would_do(kernel: Kernel) -> None:
    kernel.ok("fresh()")
    outcome = kernel.run("%%deepseek optimize --memory-limit 4MiB\ntrain(1)")
    assert outcome.ename == "MemoryLimitError"
    assert "instead of 2048, which hold" in outcome.evalue
    count = int(outcome.evalue.partition("batches of ")[2].split()[0])
    outcome = kernel.run(
        "%%deepseek optimize --memory-limit 4MiB --to r\n"
        f"x_all, y_all = x, y\nx, y = x[:{count}], y[:{count}]\nlosses = train(2)"
    )
    assert outcome.ename in (None, ""), outcome.evalue
    kernel.ok("x, y = x_all, y_all; r.restore()")
