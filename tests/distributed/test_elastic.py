"""Sets of ranks that become smaller and larger, and trainings that go on with fewer or more of them."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.elastic import Course, OnLoss
from deepseek_lab.distributed.launchers import Local
from deepseek_lab.distributed.ranks import Ranks, RanksError
from deepseek_lab.distributed.request import Saved
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.distributed.watch import Watch
from deepseek_lab.distributed.worker.loaders import Groups, Shares, given
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook

REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nx.tolist()"
SHRINK = OnLoss("shrink")


# Shares of the data, without ranks: what all of them are given is what one process after the other is given.


class Numbers(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(50))


Given = list[list[tuple[list[int], float]]]
"""By rank and turn: samples and their weight."""


def drive(
    loader: DataLoader[Any],
    size: int,
    batch: int | None,
    loop: Callable[[DataLoader[Any]], Any] = iter,
    *,
    before: dict[Any, Groups] | None = None,
    skip: int = 0,
    stop: int | None = None,
) -> tuple[Given, dict[Any, Groups]]:
    """A loop on so many ranks, gone on with after ``skip`` turns and ended after ``stop``."""
    found: Given = []
    passes: list[Any] = []
    for rank in range(size):
        shares = Shares(rank, size, 5, batch, {"loader": loader}, weighs=True)
        with shares:
            shares.restore(shares.state(), before)
            left = shares.follow(lambda: loop(loader), passes := [])
            for _ in range(skip):
                next(left, None)
            turns = itertools.islice(left, None if stop is None else stop - skip)
            found.append([(item.flatten().tolist(), shares.weight) for item in turns])
            left.close()
    return found, given(passes)


def samples(found: Given) -> list[list[int]]:
    """By turn, those of all ranks that count."""
    turns = zip(*found, strict=True)
    return [sorted(one for mine, weight in turn if weight for one in mine) for turn in turns]


def loops(loader: DataLoader[Any]) -> Iterator[Callable[[DataLoader[Any]], Any]]:
    yield iter
    yield lambda loader: (item for _, item in enumerate(loader))
    yield lambda loader: itertools.chain(loader, loader)


@pytest.mark.parametrize("seed", range(12))
def test_samples_of_a_given_batch_are_those_of_one_process(seed: int) -> None:
    """Whatever the ranks are and become: also where they do not divide the batch, nor the batch the samples."""
    draw = random.Random(seed)
    num, batch = draw.randint(5, 60), draw.randint(4, 20)
    loader = DataLoader(range(num), batch_size=3, shuffle=True, drop_last=draw.random() < 0.3)  # type: ignore[arg-type]
    for loop in loops(loader):
        whole = samples(drive(loader, 1, batch, loop)[0])
        sizes = [draw.randint(1, 4) for _ in range(3)]
        turns = sorted(draw.randint(1, max(1, len(whole))) for _ in range(2))
        made: list[list[int]] = []
        before: dict[Any, Groups] = {}
        for size, skip, stop in zip(sizes, [0, *turns], [*turns, None], strict=True):
            found, before = drive(loader, size, batch, loop, before=before, skip=skip, stop=stop)
            made += samples(found)
            for turn in zip(*found, strict=True):
                total = sum(len(mine) for mine, weight in turn if weight)
                assert sum(weight for _, weight in turn) == pytest.approx(size)
                assert all(weight in (0, pytest.approx(len(mine) * size / total)) for mine, weight in turn)
                assert all(mine for mine, _ in turn)
        assert made == whole
    with Shares(0, 3, 5, max(3, batch), {}, weighs=True):
        length = len(loader)
    assert length == len(samples(drive(loader, 3, max(3, batch))[0]))


@pytest.mark.parametrize("seed", range(12))
def test_with_own_batches_no_sample_is_lost_nor_taken_again_before_the_end(seed: int) -> None:
    """At the end of an epoch as many are taken again as the ranks of then need to come out even."""
    draw = random.Random(seed)
    num, sizes = draw.randint(80, 140), [draw.randint(1, 4) for _ in range(3)]
    loader = DataLoader(range(num), batch_size=draw.randint(1, 3), shuffle=True)  # type: ignore[arg-type]
    made: list[int] = []
    before: dict[Any, Groups] = {}
    turns = [0, *itertools.accumulate(draw.randint(1, 3) for _ in range(2))]
    for size, skip, stop in zip(sizes, turns, [*turns[1:], None], strict=True):
        assert len(made) == sum(count * group for groups in before.values() for count, group in groups)
        left = num - len(made)
        found, before = drive(loader, size, None, before=before, skip=skip, stop=stop)
        made += [one for turn in samples(found) for one in turn]
    assert set(made) == set(range(num))
    assert len(made) - num == -left % sizes[-1]


def test_a_loop_that_takes_every_other_batch_and_one_without_an_end() -> None:
    loader: DataLoader[Any] = DataLoader(range(48), batch_size=2)  # type: ignore[arg-type]

    def every_other(loader: DataLoader[Any]) -> Any:
        return itertools.islice(loader, 0, None, 2)

    first, before = drive(loader, 3, None, every_other, stop=2)
    assert list(before.values()) == [[(3, 6)]]  # two turns took three batches
    second, _ = drive(loader, 2, None, every_other, before=before, skip=2)
    assert samples(first) == [list(range(6)), list(range(12, 18))]
    assert samples(second)[0] == list(range(22, 26))
    stream: DataLoader[Any] = DataLoader(Numbers(), batch_size=2)
    first, before = drive(stream, 4, None, stop=2)
    second, _ = drive(stream, 3, None, before=before, skip=2)
    made = [one for turn in [*samples(first), *samples(second)] for one in turn]
    assert made == list(range(46))  # of the last four nobody has a batch, as in every epoch
    with pytest.raises(TypeError, match="cannot be pickled"), Shares(0, 2, 0, None, {}):
        iter(loader).__reduce__()


def test_ranks_take_up_their_own_states() -> None:
    saved = Saved({}, ["a", "b", "c"], [], 0, {})
    grown = saved.by([0, 2]).by([0, 1, None])
    assert (grown.states, grown.fresh) == (["a", "c", "a"], (2,))
    assert grown.by([2, 0]).fresh == (0,)  # nothing was saved in between


# Ranks.


class Refusing(Local):
    """A machine on which no more processes start once a file is there."""

    def __init__(self, file: Path) -> None:
        super().__init__(prefix=lambda place: ["sh", "-c", f'test -e {file} && exit 5; exec "$@"', "sh"])


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by a test, this file has no process start any more."""
    return tmp_path_factory.mktemp("gone") / "gone"


@pytest.fixture(scope="module")
def pool(gone: Path) -> Iterator[Ranks]:
    made = Ranks(2, launcher=Refusing(gone))
    made.start()
    yield made
    made.stop()


def ask(ranks: Ranks, source: str) -> list[str]:
    answers = ranks.ask("run", {"source": source, "file": "cell"}).answers
    return [answers[rank].value or answers[rank].text for rank in sorted(answers)]


def kill(ranks: Ranks, number: int) -> None:
    os.kill(ranks.states[number].pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while number not in ranks.dead and time.monotonic() < until:
        time.sleep(0.02)
    assert number in ranks.dead


class TestSize:
    def test_those_that_stay_keep_their_names(self, pool: Ranks, gone: Path) -> None:
        assert ask(pool, "mark = rank\nmark") == ["0", "1"]
        assert pool.resize(3) == ([2], [])
        assert ask(pool, REDUCE) == ["[3.0, 3.0]"] * 3
        seen = "import os\n(rank, world_size, os.environ['RANK'], os.environ['LOCAL_RANK'], globals().get('mark'))"
        assert ask(pool, seen) == [
            str((rank, 3, str(rank), str(rank), None if rank == 2 else rank)) for rank in range(3)
        ]
        pids = [one.pid for one in pool.states]
        kill(pool, 0)
        assert pool.resize(2) == ([], [0])  # the dead one is the one that is too many
        assert [one.pid for one in pool.states] == pids[1:]
        assert ask(pool, REDUCE) == ["[1.0, 1.0]"] * 2
        assert ask(pool, seen) == ["(0, 2, '0', '1', 1)", "(1, 2, '1', '2', None)"]
        with pytest.raises(RanksError, match="there is no rank 2, the ranks are 0-1"):
            pool.ask("run", {"source": "1", "file": "cell"}, ranks=[2])
        gone.touch()
        with pytest.raises(RanksError, match="rank 2 ended with exit status 5 while it started"):
            pool.resize(3)
        gone.unlink()
        assert ask(pool, REDUCE) == ["[1.0, 1.0]"] * 2  # as it was
        kill(pool, 1)
        assert pool.resize(3) == ([1, 2], [])  # a dead one that stays has a new process
        assert ask(pool, REDUCE) == ["[3.0, 3.0]"] * 3
        assert [text for _, text in pool.history if "became" in text] == [
            "2 ranks became 3",
            "3 ranks became 2",
            "2 ranks became 3",
        ]

    def test_numbers_that_cannot_be(self, pool: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
        size = len(pool)
        with pytest.raises(RanksError, match=r"cannot be 0 ranks\n.*ranks stop"):
            pool.resize(0)
        monkeypatch.setattr(pool._launcher, "most", size)
        with pytest.raises(
            RanksError, match=rf"places for {size} ranks, not for {size + 1}\n.*resize {size}"
        ):
            pool.resize(size + 1)
        assert len(pool) == size


# Trainings.

DEFINE = """
import os, time, torch, torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Numbered(Dataset):
    def __init__(self, num):
        g = torch.Generator().manual_seed(1)
        self.x = torch.randn(num, 8, generator=g)
        self.y = (self.x[:, :3] * 2).argmax(1)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i], i

def everyone(i):
    parts = [i.tolist()] * (dist.get_world_size() if dist.is_initialized() else 1)
    if dist.is_initialized(): dist.all_gather_object(parts, i.tolist())
    return sum(parts, [])

def die():
    if dist.is_initialized() and dist.get_rank() == WHO and os.path.exists(FILE) and not os.path.exists(MARK):
        open(MARK, "w").close()
        os.kill(os.getpid(), 9)

torch.manual_seed(0)
data = Numbered(NUM)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
opt = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = DataLoader(data, batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(3))
loss_of = nn.functional.cross_entropy
losses, seen = [], []
"""
NO_MORE = """
kill = die
def die():
    if dist.get_rank() == WHO and os.path.exists(FILE): open(GONE, "w").close()
    kill()
"""
STEP = """
    opt.zero_grad()
    loss_of(model(x), y).backward()
    opt.step()
    seen.append(everyone(i))
    with torch.no_grad():
        losses.append(loss_of(model(data.x), data.y).item())
    time.sleep(PAUSE)
    die()
"""
FLAT = f"for x, y, i in loader:{STEP}"
NESTED = "for epoch in range(EPOCHS):\n" + "\n".join(f"    {line}" for line in FLAT.splitlines())


def make(
    tmp_path: Path, num: int, batch: int, *, epochs: int = 1, who: int = -1, pause_s: float = 0.03
) -> dict[str, Any]:
    facts = {"NUM": num, "BATCH": batch, "EPOCHS": epochs, "WHO": who, "PAUSE": pause_s}
    facts |= {"FILE": str(tmp_path / "training.checkpoint"), "MARK": str(tmp_path / "mark")}
    return notebook("\n".join(f"{name} = {value!r}" for name, value in facts.items()) + DEFINE)


def alone(tmp_path: Path, num: int, batch: int, epochs: int) -> dict[str, Any]:
    """The same in one process, with nobody who dies."""
    names = make(tmp_path, num, batch, epochs=epochs, pause_s=0)
    exec(NESTED, names)
    return names


def run(ranks: Ranks, names: dict[str, Any], source: str, **options: Any) -> Trained:
    found = cells.names(source)
    uses, binds = found.loads | found.changes, found.binds | found.changes
    options = {"save_s": 0.2, "uses": uses, "binds": binds, **options}
    return train(ranks, names, source, "cell", **options)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Losses and parameters to 1e-5, and the same samples in every update."""
    assert [sorted(update) for update in one["seen"]] == [sorted(update) for update in other["seen"]]
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
    for mine, its in zip(one["model"].parameters(), other["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)


class Heard(Watch):
    """Keeps what is said of all ranks."""

    def __init__(self, size: int) -> None:
        self.log = ev.EventLog()
        self.said: list[ev.Event] = []
        self.log.listen(self.said.append)
        super().__init__(self.log, size)


class TestLoss:
    def test_parts_that_no_other_rank_has_need_as_many_ranks(self, pool: Ranks) -> None:
        course = Course(pool, OnLoss(), "--mesh tensor=4", batch=None, weighs=True)
        saved = Saved({}, [b""] * (len(pool) + 1), [], 0, {})
        with pytest.raises(
            TargetError, match=rf"with --mesh tensor=4 cannot go on with {len(pool)}\n.*resize"
        ):
            course.take_up(saved)

    def test_ranks_that_agree_now_and_then_need_even_shares(self, pool: Ranks, tmp_path: Path) -> None:
        pool.resize(3)
        with pytest.raises(
            TargetError, match=r"batch of 7 cannot be shared by 3 ranks\n.*--effective-batch 6"
        ):
            run(pool, make(tmp_path, 60, 2), FLAT, batch=7, way="local")
        names = make(tmp_path, 540, 2, who=1)
        trained = run(pool, names, FLAT, batch=9, way="local", folder=tmp_path, on_loss=SHRINK)
        assert trained.failed
        assert trained.notes[0].endswith("an effective batch of 9 cannot be shared by 2 ranks")

    @pytest.mark.parametrize(("strategy", "who"), [("ddp", 0), ("fsdp", 1)])
    def test_a_given_batch_stays_and_so_do_the_losses(
        self, pool: Ranks, tmp_path: Path, strategy: str, who: int
    ) -> None:
        """16 samples on three ranks, then on two; and 104 samples, of which the last 8 are a batch."""
        pool.resize(3)
        names = make(tmp_path, 104, 16, epochs=6, who=who)
        watch = pool.watcher = Heard(3)
        trained = run(pool, names, NESTED, batch=16, strategy=strategy, on_loss=SHRINK, folder=tmp_path)
        watch.end()
        pool.watcher = None
        assert not trained.failed, trained.answers
        assert Path(names["MARK"]).exists()
        assert len(pool) == len(trained.answers) == 2
        told, batch, *_ = trained.notes
        assert f"rank {who} was ended by SIGKILL" in told
        assert "it was not replaced (--on-loss shrink), and 2 of 3 ranks went on after " in told
        assert told.endswith(f"; ranks {'0,2' if who else '1-2'} are ranks 0-1 now")
        assert batch == "an update had 16 samples throughout (--effective-batch)"
        assert [text for _, text in pool.history][-1] == told
        notes = [event.text for event in watch.said if isinstance(event, ev.Noted)]
        assert notes[0].startswith(f"rank {who} was ended by SIGKILL")
        assert notes[1] == told
        assert [(one.rank, one.state) for one in watch.vitals] == [(0, "ended"), (1, "ended")]
        same(names, alone(tmp_path, 104, 16, 6))
        if strategy == "fsdp":
            return
        assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
        assert pool.resize(3) == ([2], [])
        again = make(tmp_path, 104, 16, epochs=2, pause_s=0)
        assert len(run(pool, again, NESTED, batch=16).answers) == 3
        same(again, alone(tmp_path, 104, 16, 2))

    def test_own_batches_stay_and_the_rest_of_the_epoch_is_shared_out_anew(
        self, pool: Ranks, tmp_path: Path
    ) -> None:
        pool.resize(2)
        names = make(tmp_path, 480, 4, who=1)
        trained = run(pool, names, FLAT, on_loss=SHRINK, folder=tmp_path, way="int8")
        assert not trained.failed, trained.answers
        assert sorted(one for update in names["seen"] for one in update) == list(range(480))
        sizes = [len(update) for update in names["seen"]]
        turn = sizes.index(4)
        assert sizes == [8] * turn + [4] * (len(sizes) - turn)
        assert trained.notes[0].endswith(f" and 1 of 2 ranks went on after {turn:,} updates")
        assert trained.notes[1] == (
            f"from update {turn + 1:,} on an update had 4 samples, before that 8: each rank kept its own batch "
            "(--effective-batch 8 keeps it)"
        )
        assert any("went on without what was left out of its gradients" in note for note in trained.notes)
        assert trained.answers[0].details["num_steps"] == len(sizes)

    def test_a_rank_that_cannot_be_replaced_is_gone_on_without(
        self, pool: Ranks, gone: Path, tmp_path: Path
    ) -> None:
        pool.resize(2)
        names = make(tmp_path, 360, 2, who=0) | {"GONE": str(gone)}
        exec(NO_MORE, names)
        try:
            trained = run(pool, names, FLAT, batch=6, folder=tmp_path)
        finally:
            gone.unlink(missing_ok=True)
        assert not trained.failed, trained.answers
        told = trained.notes[0]
        assert "it was not replaced (rank 0 ended with exit status 5 while it started)" in told
        assert told.endswith("; rank 1 is rank 0 now")
        assert sorted(one for update in names["seen"] for one in update) == list(range(360))

    def test_what_is_to_stop_stops_and_goes_on_when_it_may(self, pool: Ranks, tmp_path: Path) -> None:
        pool.resize(2)
        names = make(tmp_path, 480, 4, who=1)
        before = [one.clone() for one in names["model"].parameters()]
        trained = run(pool, names, FLAT, folder=tmp_path, on_loss=OnLoss("stop"))
        assert trained.failed
        assert trained.answers[1].status == "dead"
        assert (trained.notes, pool.dead) == ((), [1])
        trained = run(pool, names, FLAT, folder=tmp_path, on_loss=OnLoss("replace", 0, 2))
        assert trained.failed
        assert trained.notes[1].endswith(
            "not replaced (--max-restarts 0): 1 rank is left, and --min-ranks is 2"
        )
        assert (names["losses"], names["seen"]) == ([], [])
        assert all(torch.equal(a, b) for a, b in zip(before, names["model"].parameters(), strict=True))
        trained = run(pool, names, FLAT, folder=tmp_path, on_loss=OnLoss("replace", 0))
        assert not trained.failed, trained.answers
        assert len(pool) == 1
        assert trained.notes[0].startswith("went on after ")
        assert "1 of 2 ranks went on after " in trained.notes[1]
        assert sorted(one for update in names["seen"] for one in update) == list(range(480))


@pytest.mark.parametrize("batch", [15, None])
def test_a_checkpoint_goes_on_with_another_number_of_ranks(
    pool: Ranks, tmp_path: Path, batch: int | None
) -> None:
    """With fewer, and with a given batch with more before, each time in the middle of an epoch."""
    names = make(tmp_path, 600, 10, epochs=2)
    *sizes, last = [2, 1] if batch is None else [1, 2, 1]
    for size in sizes:
        pool.resize(size)
        thread = interrupt_when_saved(Path(names["FILE"]))
        with pytest.raises(KeyboardInterrupt):
            run(pool, names, NESTED, batch=batch, folder=tmp_path)
        thread.join()
    pool.resize(last)
    trained = run(pool, names, NESTED, batch=batch, folder=tmp_path)
    assert not trained.failed, trained.answers
    assert len(trained.answers) == last
    assert trained.notes[0].startswith("went on after ")
    assert trained.notes[0].endswith(" by 2 ranks, with 1")
    if batch is not None:
        assert trained.notes[1:] == ("an update had 15 samples throughout (--effective-batch)",)
        same(names, alone(tmp_path, 600, 15, 2))
        return
    assert "on an update had 10 samples, before that 20: each rank kept its own batch" in trained.notes[1]
    taken = collections.Counter(one for update in names["seen"] for one in update)
    assert taken == dict.fromkeys(range(600), 2)  # once in each epoch


def interrupt_when_saved(file: Path) -> threading.Thread:
    """Interrupts this process when the file is another one than now."""
    before = file.stat().st_ino if file.exists() else None

    def wait() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if file.stat().st_ino != before:
                    break
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
