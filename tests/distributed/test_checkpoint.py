from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import Trained, train
from tests.distributed.cells import notebook

DEFINE = """
import time, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(240, 8)
model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=4, shuffle=True)
losses = []
"""
LOOP = """
for epoch in range(12):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    time.sleep(0.2)
"""
OTHER_KERNEL = """
import sys
from pathlib import Path
from deepseek_lab.distributed.ranks import Ranks
from tests.distributed import test_checkpoint as case
if __name__ == "__main__":
    ranks = Ranks(3)
    ranks.start()
    case.go(ranks, case.notebook(case.DEFINE), Path(sys.argv[1]))
"""


def go(ranks: Ranks, names: dict[str, Any], folder: Path | None, **options: Any) -> Trained:
    source = options.pop("source", LOOP)
    uses = {"model", "optimizer", "loader", "losses", "nn", "time"}
    options = {"seed": 3, "save_s": 0.3, **options}
    trained = train(ranks, names, source, "cell", uses=uses, binds={"losses"}, folder=folder, **options)
    assert not trained.failed, trained.answers[0].text
    return trained


def await_file(path: Path, timeout_s: float = 90) -> None:
    until = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unbroken(three: Ranks) -> list[float]:
    names = notebook(DEFINE)
    go(three, names, None)
    return list(names["losses"])


def test_another_kernel_goes_on_where_a_killed_one_was(
    three: Ranks, unbroken: list[float], tmp_path: Path, repository: Path
) -> None:
    """The seed is that of the first run too, though the second one asks for another."""
    file = tmp_path / "run" / "training.checkpoint"
    command = [sys.executable, "-c", OTHER_KERNEL, str(file.parent)]
    kernel = subprocess.Popen(command, cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)})
    await_file(file)
    kernel.kill()
    kernel.wait()
    assert file.stat().st_mode & 0o777 == 0o600
    names = notebook(DEFINE)
    note, *_ = go(three, names, file.parent, seed=4).notes
    assert note.startswith("went on after ")
    assert "after 0 updates" not in note
    assert names["losses"] == pytest.approx(unbroken, abs=1e-5)
    assert not list(file.parent.iterdir())


def test_an_interrupted_cell_goes_on_when_it_is_run_again(
    three: Ranks, unbroken: list[float], tmp_path: Path
) -> None:
    names = notebook(DEFINE)

    def interrupt() -> None:
        await_file(tmp_path / "training.checkpoint")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        go(three, names, tmp_path)
    thread.join()
    assert names["losses"] == []
    with pytest.raises(TargetError, match="another cell"):
        go(three, names, tmp_path, source=LOOP.replace("12", "13"))
    with pytest.raises(TargetError, match="other objects"):
        go(three, notebook(DEFINE.replace("16", "17")), tmp_path)
    assert go(three, names, tmp_path).notes[0].startswith("went on after ")
    assert names["losses"] == pytest.approx(unbroken, abs=1e-5)


def test_a_full_disk_is_told_and_the_training_goes_on(three: Ranks, tmp_path: Path) -> None:
    """No file may be longer than a few bytes, which is what a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        trained = go(three, notebook(DEFINE), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be saved" in trained.notes[0]
    assert not list(tmp_path.iterdir())


def test_what_is_no_checkpoint_is_left_alone(three: Ranks, tmp_path: Path) -> None:
    file = tmp_path / "training.checkpoint"
    for content in (b"", b"\x10\0\0\0\0\0\0\0 not json at all", os.urandom(64)):
        file.write_bytes(content)
        with pytest.raises(TargetError, match="no checkpoint"):
            go(three, notebook(DEFINE), tmp_path)
        assert file.read_bytes() == content
    with pytest.raises(TargetError, match="cannot hold checkpoints"):
        go(three, notebook(DEFINE), file)
