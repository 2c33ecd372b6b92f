"""``%%deepseek optimize --effective-batch``: the user's own loop, in a real kernel, with larger updates."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kernel import Kernel

_SETUP = """
%load_ext deepseek_lab
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
images, labels = (torch.tensor(one) for one in load_digits(return_X_y=True))
data = TensorDataset(images.float() / 16, labels)

def fresh(batch):
    global model, optimizer, loader
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(data, batch_size=batch, shuffle=True)

fresh(256)
for epoch in range(3):
    for some, wanted in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(some), wanted).backward()
        optimizer.step()
expected = [one.detach().clone() for one in model.parameters()]
fresh(32)
"""
_LOOP = """
for epoch in range(3):
    for some, wanted in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(some), wanted)
        loss.backward()
        optimizer.step()
"""
_APART = "print('apart', max(float((a - b).abs().max()) for a, b in zip(model.parameters(), expected)))"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    one = Kernel()
    one.ok(_SETUP, timeout_s=300)
    yield one
    one.stop()


def _apart(kernel: Kernel) -> float:
    return float(kernel.ok(_APART).stdout.split()[-1])


def test_a_cell_trains_as_with_batches_of_that_size(kernel: Kernel) -> None:
    kernel.ok("fresh(32)")
    outcome = kernel.ok(f"%%deepseek optimize --effective-batch 256 --to r\n{_LOOP}", timeout_s=300)
    assert outcome.stderr == ""
    assert any("an update per 256 samples" in page for one in outcome.displays for page in one.values())
    assert _apart(kernel) < 1e-5
    found = json.loads(kernel.ok("import json; print(json.dumps(r.to_dict()['effective_batch']))").stdout)
    assert found["num_updates"] == 24
    assert (found["own_batch"], found["reduction"]) == (32, "mean")
    assert found["num_micro_batches"] > 24
    assert "24 updates" in kernel.ok("print(r)").stdout
    # The next cell is an ordinary one.
    kernel.ok(f"fresh(32)\n{_LOOP}")
    assert _apart(kernel) > 1e-2


def test_with_a_memory_limit_micro_batches_are_what_fits(kernel: Kernel) -> None:
    kernel.ok("fresh(64)")
    outcome = kernel.ok(
        f"%%deepseek optimize --effective-batch 256 --memory-limit 160KiB --to r\n{_LOOP}", timeout_s=300
    )
    assert "an update per 256 samples" in outcome.stdout
    assert _apart(kernel) < 1e-5
    batch = "r.to_dict()['effective_batch']"
    found = json.loads(kernel.ok(f"import json; print(json.dumps({batch}))").stdout)
    assert found["micro_batch"] < 256
    assert found["tried"]
    assert all(one["peak_bytes"] <= 160 << 10 for one in found["tried"])


def test_wrong_use_says_what_to_type(kernel: Kernel) -> None:
    kernel.ok("fresh(32)")
    outcome = kernel.run("%deepseek optimize model --effective-batch 256")
    assert outcome.status == "error"
    assert "%%deepseek optimize --effective-batch 256" in outcome.traceback + outcome.evalue
    outcome = kernel.run("%%deepseek optimize --effective-batch 0\nmodel(images.float())")
    assert outcome.status == "error"
    assert "0 samples" in outcome.traceback + outcome.evalue
    outcome = kernel.run("%%deepseek optimize --effective-batch 16\nmodel(images.float())")
    assert outcome.status == "error"
    assert "1,797 samples, more than the 16" in outcome.traceback + outcome.evalue
    assert kernel.ok("print(model.training)").stdout.strip() == "True"


def test_an_error_in_the_loop_is_the_users_own(kernel: Kernel) -> None:
    kernel.ok("fresh(32)")
    broken = _LOOP.replace("        loss.backward()", "        loss.backward()\n        1 / 0")
    outcome = kernel.run(f"%%deepseek optimize --effective-batch 256\n{broken}")
    assert outcome.ename == "ZeroDivisionError"
    kernel.ok(f"fresh(256)\n{_LOOP}")
    assert _apart(kernel) < 1e-6
