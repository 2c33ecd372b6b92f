"""``limits`` in a real kernel: above a cell and on a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook.parse import parse

_SETUP = """
%load_ext deepseek_lab
import hashlib, random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 2)
    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))
model = Net()
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x = torch.randn(512, 8)
data = TensorDataset(x, (x.sum(1) > 0).long())
loader = DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(1))
words, other = "text", nn.Linear(2, 2)
def digest():
    streams = [torch.get_rng_state().tolist(), loader.generator.get_state().tolist(), random.getstate()]
    state = [one.tolist() for one in model.state_dict().values()]
    found = [streams, state, optimizer.state_dict(), model.training, np.random.get_state()[1].tolist()]
    return hashlib.sha256(repr(found).encode()).hexdigest()
"""
_LOOP = """
made = 0
for batch, target in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(batch), target)
    loss.backward()
    optimizer.step()
    made += 1
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok(_SETUP)
    yield made
    made.stop()


def test_above_a_cell(kernel: Kernel, tmp_path: Path) -> None:
    before = kernel.value("digest()")
    names = kernel.value("sorted(name for name in globals() if not name.startswith('_'))")
    shown = kernel.ok(f"%%deepseek limits --time 100 --to r --save {tmp_path}/r.json\n{_LOOP}", timeout_s=120)
    assert shown.stdout == ""
    assert shown.stderr == ""
    (first, *_), last = shown.displays, shown.updates[-1]
    assert first["text/plain"].startswith("limits  (")
    assert last["text/plain"].startswith("limits  batch ")
    assert "next: lr = ds.log(" in last["text/plain"]
    assert "data:image/svg+xml" in last["text/html"]
    assert "<script" not in last["text/html"]
    assert kernel.value("digest()") == before
    kernel.ok("del r")
    assert kernel.value("sorted(name for name in globals() if not name.startswith('_'))") == names
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["own"] == 16
    assert data["largest"] >= data["own"]
    assert data["rates"]["low"] <= data["rates"]["value"] <= data["rates"]["high"]
    assert data["next"].startswith("lr = ds.log(")


def test_on_a_line_with_names_that_are_found(kernel: Kernel) -> None:
    before = kernel.value("digest()")
    shown = kernel.ok(
        "%deepseek limits model --loss loss_fn --time 100 --memory 8GiB --view text", timeout_s=120
    )
    assert shown.result is not None
    assert shown.result.startswith("limits  batch ")
    assert "of 8.00 GiB" in shown.result
    assert shown.updates[-1]["text/plain"].startswith("limits  measured in ")
    assert kernel.value("digest()") == before


def test_an_interrupt_of_the_kernel_ends_it_with_what_is_known(kernel: Kernel) -> None:
    before = kernel.value("digest()")
    stop = "    if len(batch) > 16:\n        import os, time; os.kill(os.getppid(), 2); time.sleep(60)\n"
    source = _LOOP.replace("    optimizer.zero_grad()\n", stop + "    optimizer.zero_grad()\n")
    shown = kernel.ok(f"%%deepseek limits --time 100 --to r\n{source}", timeout_s=120)
    text = shown.updates[-1]["text/plain"]
    assert text.startswith("limits  batch at least 16 safe")
    assert "interrupted after" in text
    assert kernel.value("[one.size for one in r.rows], r.reason") == "([16], 'interrupted')"
    assert kernel.value("digest()") == before


def test_a_cell_that_fails_tells_its_own_traceback(kernel: Kernel) -> None:
    outcome = kernel.run(
        "%%deepseek limits\nfor batch, target in loader:\n    model(batch[:, :3])", timeout_s=120
    )
    assert outcome.ename == "CellFailed"
    assert "line 3" in outcome.evalue
    assert "mat1 and mat2 shapes cannot be multiplied" in outcome.evalue
    assert "The cell fails as it is." in outcome.evalue


@pytest.mark.parametrize(
    ("line", "name", "message", "hint"),
    [
        ("%deepseek limits", "UsageError", "limits on a line needs a model", "--optimizer NAME"),
        ("%deepseek limits model --memory plenty", "UsageError", "'plenty' is no amount", "--memory 8GiB"),
        ("%deepseek limits model --time 0", "UsageError", "--time 0 measures nothing", "--time 60"),
        ("%deepseek limits loss_fn2", "TargetError", "there is no 'loss_fn2'", "loss_fn"),
        ("%deepseek limits digest", "TargetError", "digest is a function, not a model", "nn.Module"),
        ("%deepseek limits model --data words", "TargetError", "words is a str, not a DataLoader", "DataLoader(words"),
        ("%deepseek limits model --loss words", "TargetError", "words is a str, not a loss", "--loss NAME"),
        ("%deepseek limits model --optimizer model", "TargetError", "model is a Net, not an optimizer", "NAME"),
        ("%deepseek limits other", "TargetError", "has no optimizer that trains other", "--optimizer NAME"),
        ("%%deepseek limits model\nx = 1", "UsageError", "not model", "%deepseek limits model, on a line"),
        ("%%deepseek limits --data loader\nx = 1", "UsageError", "what --data is", "%deepseek limits MODEL"),
        ("%%deepseek limits\n", "UsageError", "no training loop", "above one"),
        ("%%deepseek limits\n!ls", "TargetError", "line 2 is a magic or a command", "a cell of its own"),
    ],
)  # fmt: skip
def test_refusals(kernel: Kernel, line: str, name: str, message: str, hint: str) -> None:
    outcome = kernel.run(line)
    assert outcome.ename == name, outcome
    assert message in outcome.evalue
    assert hint in outcome.evalue


def test_names_complete(kernel: Kernel) -> None:
    message = kernel.client.complete("%deepseek limits model --data loa")
    reply = kernel.client.get_shell_msg(timeout=20)
    assert reply["parent_header"]["msg_id"] == message
    assert reply["content"]["matches"] == ["loader"]


def test_it_stands_above_each_cell_by_itself() -> None:
    with pytest.raises(UsageError, match="runs a cell in other processes"):
        parse(["on", "limits"], "line")
