"""Error feedback of a training that goes on: what gradients have left out is neither lost nor taken by another rank."""

from __future__ import annotations

import ast
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.distributed.worker.feedback import PREFIX, Kept, State
from tests.distributed.cells import notebook
from tests.distributed.test_checkpoint import await_file

DEFINE = """
import os, time, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(240, 8)
model = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=4, shuffle=True)
losses = []
"""
LOOP = """
for epoch in range(5):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    time.sleep(0.25)
"""
DIES = """
    if epoch == 3 and torch.distributed.get_rank() == 1 and not os.path.exists(FLAG):
        open(FLAG, "w").close()
        os.kill(os.getpid(), 9)
"""
WITHOUT = "went on without what was left out of its gradients (error feedback)"


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    made = Ranks(2)
    made.start()
    yield made
    made.stop()


def go(ranks: Ranks, way: str, source: str = LOOP, **options: Any) -> tuple[list[float], Trained]:
    names = notebook(DEFINE) | options.pop("names", {})
    uses = {"model", "optimizer", "loader", "losses", "nn", "time", "os", "torch", "FLAG"}
    made = train(
        ranks, names, source, "cell", uses=uses, binds={"losses"}, way=way, seed=3, save_s=0.2, **options
    )
    assert not made.failed, made.answers[0].text
    assert len({one.details["checksum"] for one in made.answers.values()}) == 1
    return names["losses"], made


def interrupted(ranks: Ranks, way: str, folder: Path) -> None:
    def interrupt() -> None:
        await_file(folder / "training.checkpoint")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        go(ranks, way, folder=folder)
    thread.join()


@pytest.mark.parametrize("way", ["int8", "powersgd-1"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(two: Ranks, tmp_path: Path, way: str) -> None:
    """In the same processes, and with what others find in the folder; there is a difference without that."""
    unbroken, _ = go(two, way)
    folder, copy = tmp_path / "kept", tmp_path / "copy"
    interrupted(two, way, folder)
    files = list(folder.glob(f"{PREFIX}*"))
    assert len(files) in {2, 4}, "of the last places, by rank"
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in files)
    shutil.copytree(folder, copy)
    losses, made = go(two, way, folder=folder)
    assert made.notes[0].startswith("went on after ")
    assert losses == pytest.approx(unbroken, abs=1e-6)
    assert not list(folder.iterdir())
    if way == "int8":
        two.restart([0, 1])
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        losses, made = go(two, way, folder=folder)
        assert losses == pytest.approx(unbroken, abs=1e-6)
        assert not any(WITHOUT in note for note in made.notes)
        return
    for path in copy.glob(f"{PREFIX}*"):
        path.unlink()
    losses, made = go(two, way, folder=copy)
    assert f"rank 0-1 {WITHOUT}" in made.notes
    assert losses != pytest.approx(unbroken, abs=1e-6)


COMMON = """
import torch
from deepseek_lab.distributed.worker.feedback import State
from deepseek_lab.distributed.worker.replicas import Replicas

def told(way, state):
    replicas = Replicas(way, 4)
    lost = replicas.take_up(state)
    own, common = ({} for _ in range(2))
    for name, one in replicas._exchange._ways.items():
        own |= {name: [one.tolist() for one in one.own.values()]}
        common |= {name: [one.tolist() for one in one.common.values()]}
    replicas._exchange.close()
    return lost, own, common, {key: one.tolist() for key, one in replicas._velocity.items()}

own, two = {(0, 0, 0): torch.full((3,), float(rank))}, (0, 0)
right = State({"powersgd-1": own}, {"powersgd-1": {(0, 0, 0): torch.full((2,), 7.0)}}, two)
velocity = State({"int8": own}, {"velocity": {(1,): torch.ones(2)}}, two)
elsewhere = State({"int8": own}, {}, (0, 0, 0))
told("powersgd-1", right if rank else None), told("diloco", None if rank else velocity), told("int8", elsewhere)
"""


def test_what_ranks_have_in_common_comes_from_one_that_has_it(two: Ranks) -> None:
    """And parts of other hosts are not taken for those of these."""
    request = two.ask("run", {"source": COMMON, "file": "cell"})
    assert all(one.status == "ok" for one in request.answers.values()), request.answers[0].text
    errors = ["what was left out of its gradients (error feedback)"]
    right, velocity = {"powersgd-1": [[7.0] * 2]}, {1: [1.0] * 2}
    anew = (errors, {"int8": []}, {"int8": []}, {})
    first, second = (ast.literal_eval(request.answers[rank].value) for rank in range(2))
    assert first == (
        (errors, {"powersgd-1": []}, right, {}),
        ([], {"int8": [[0.0] * 3]}, {"int8": []}, velocity),
        anew,
    )
    assert second == (([], {"powersgd-1": [[1.0] * 3]}, right, {}), (errors, {}, {}, velocity), anew)


@pytest.mark.parametrize("way", ["powersgd-1", "diloco"])
def test_ranks_that_stay_keep_theirs_in_memory(two: Ranks, tmp_path: Path, way: str) -> None:
    """Where power iteration is, and the momentum of means, has to be the same on the new process too."""
    names = {"FLAG": str(tmp_path / "died")}
    losses, made = go(two, way, LOOP + DIES, names=names, every=5 if way == "diloco" else None)
    assert len(losses) == 150
    assert any("it was replaced" in note for note in made.notes)
    assert f"rank 1 {WITHOUT}; rank 0 went on with it" in made.notes
    assert not any("without the momentum" in note for note in made.notes)
    assert way == "diloco" or sum(losses[-30:]) < 0.9 * sum(losses[:30])


LATE = """
from deepseek_lab.distributed.worker.turns import Turns
tell = Turns.tell
if torch.distributed.get_rank() == 1:
    Turns.tell = lambda turns, place: (time.sleep(0.8), tell(turns, place))[1]
for _ in range(203):
    x, y = next(iter(loader))
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(0)
    time.sleep(0.01)
Turns.tell = tell
"""


def test_where_one_rank_hears_too_late_of_a_place_none_saves_there(two: Ranks) -> None:
    """Ranks that train by themselves come together where they save: one alone would wait for ever."""
    losses, made = go(two, "local", LATE, every=5)
    assert len(losses) == 203
    assert all(one.details["num_steps"] == 203 for one in made.answers.values())


class TestKept:
    def test_the_last_two_places(self, tmp_path: Path) -> None:
        for folder in (None, tmp_path):
            kept = Kept()
            for number in range(4):
                own = {"int8": {(0, number, 1): torch.full((3,), float(number))}}
                kept.put(f"place {number}", State(own, {}, (0, 0)), folder, 1)
            assert [kept.get(f"place {number}", folder, 1, "cpu") for number in range(2)] == [None, None]
            for number in (2, 3):
                state = kept.get(f"place {number}", folder, 1, "cpu")
                assert state is not None
                assert state.hosts == (0, 0)
                assert state.own["int8"][0, number, 1].tolist() == [number] * 3
            kept.clear()
            assert kept.get("place 3", folder, 1, "cpu") is None
        assert not list(tmp_path.iterdir())

    def test_nothing_is_written_where_nothing_is_kept(self, tmp_path: Path) -> None:
        Kept().put("here", State(), tmp_path, 0)
        assert not list(tmp_path.iterdir())

    def test_another_process_finds_its_number_alone(self, tmp_path: Path) -> None:
        Kept().put("here", State({"int8": {(0,): torch.ones(2)}}), tmp_path, 2)
        assert Kept().get("here", tmp_path, 2, "cpu") is not None
        assert Kept().get("here", tmp_path, 1, "cpu") is None
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:100])
        assert Kept().get("here", tmp_path, 2, "cpu") is None

    def test_a_full_disk_is_told(self, tmp_path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        kept = Kept()
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            kept.put("here", State({"int8": {(0,): torch.ones(200)}}), tmp_path, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
        assert kept.failed
        assert kept.get("here", tmp_path, 0, "cpu") is None
        assert not list(tmp_path.iterdir())
