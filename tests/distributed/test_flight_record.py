"""What ranks have done together last, and what it says of ranks that wait for each other."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from deepseek_lab.base.operations import Operation, RankRecord, find
from deepseek_lab.distributed import ranks as module
from deepseek_lab.distributed import request as requests
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import train
from deepseek_lab.distributed.worker.flight import NUM_KEPT
from deepseek_lab.views import failure_text
from tests.distributed.cells import notebook
from tests.distributed.conftest import Run
from tests.distributed.test_ranks import after, interrupt, statuses

TOGETHER = """import torch, torch.distributed as dist
dist.all_reduce(torch.ones(4, 5))
def spread(): dist.broadcast(torch.ones(3, dtype=torch.int64), 1)
spread()
if rank == 0: dist.send(torch.ones(2, 2), 2)
if rank == 2: dist.recv(torch.ones(2, 2), 0)
dist.barrier()"""
TRAINING = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Linear(300, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(8, 300), torch.randint(3, (8,))
"""
LOOP = """for _ in range(3):
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()"""


def told(request: Any) -> str:
    return failure_text(request.answers, "cell", "Cell In[1]")


class TestRecord:
    def test_operations_and_messages_are_told_with_their_lines(self, three: Ranks, run: Run) -> None:
        three._joined = False
        assert statuses(run(TOGETHER)) == ["ok"] * 3
        records = three.records()
        for rank, record in records.items():
            reduced, spread, barrier = [one for one in record.operations if one.number][-3:]
            assert (reduced.name, reduced.shapes, reduced.dtype) == ("all_reduce", ((4, 5),), "float32")
            assert (reduced.line, reduced.num_bytes, reduced.state) == (2, 80, "ended")
            assert (spread.name, spread.shapes, spread.dtype) == ("broadcast", ((3,),), "int64")
            assert spread.line == 3
            assert (barrier.name, barrier.line) == ("barrier", 7)
            assert [reduced.number + 1, reduced.number + 2] == [spread.number, barrier.number]
            assert all(one.took_s is not None and 0 < one.took_s < 60 for one in (reduced, spread, barrier))
            assert reduced.at_s < spread.at_s < barrier.at_s < record.at_s
            sent = [
                (one.name, one.peer, one.line, one.num_bytes) for one in record.operations if not one.number
            ]
            assert sent == {0: [("send to 2", 2, 5, 16)], 1: [], 2: [("recv from 0", 0, 6, 16)]}[rank]
            assert record.groups[reduced.group] == (0, 1, 2)
        assert find(records).sentences() == []

    @pytest.mark.parametrize("way", ["plain", "int8"])
    def test_what_no_line_of_the_cell_calls_has_the_line_that_caused_it(self, three: Ranks, way: str) -> None:
        """DDP's reducer is C++, and gradients go in threads."""
        names = notebook(TRAINING)
        made = train(three, names, LOOP, "cell", uses={"model", "opt", "x", "y", "nn"}, binds=set(), way=way)
        assert not made.failed, made.answers[0].text
        for record in three.records().values():
            caused = [one for one in record.operations if one.line == 4]
            assert len(caused) >= 3
            name = "all_reduce" if way == "plain" else "alltoall"
            assert name in {one.name.replace("_", "") if way == "int8" else one.name for one in caused}

    def test_what_has_been_waited_for_has_ended(self, three: Ranks, run: Run) -> None:
        """gloo tells PyTorch's ring of it in a thread that may come later."""
        made = run(
            "import torch, torch.distributed as dist\n"
            "from deepseek_lab.distributed.worker.flight import flight\n"
            "x, seen = torch.ones(1), set()\n"
            "for _ in range(500):\n    dist.all_reduce(x)\n    seen.add(flight.told(1)[0][0]['state'])\n"
            "assert seen == {'ended'}, seen"
        )
        assert statuses(made) == ["ok"] * 3, made.answers[0].text

    def test_the_ring_is_bounded(self, three: Ranks, run: Run) -> None:
        run(
            "import torch, torch.distributed as dist\nx = torch.ones(1)\n"
            f"for _ in range({NUM_KEPT + 100}): dist.all_reduce(x)\ndist.barrier()"
        )
        (record, *_) = three.records(10 * NUM_KEPT).values()
        assert NUM_KEPT - 100 < len(record.operations) <= NUM_KEPT
        assert not record.whole
        assert record.operations[-1].name == "barrier"
        assert len(three.records(20)[1].operations) == 20

    def test_a_rank_is_asked_while_it_computes(self, three: Ranks, run: Run, tmp_path: Path) -> None:
        found: list[RankRecord] = []
        seen = tmp_path / "seen"

        def ask() -> None:
            until_s = time.monotonic() + 30
            while time.monotonic() < until_s:
                busy = list(three.records().values())[1]
                if busy.line is not None and "cell, line 3, in f" in busy.stack:
                    found.append(busy)
                    break
            seen.touch()

        thread = after(0.1, ask)
        wait = f"while not os.path.exists({str(seen)!r}): time.sleep(0.05)"
        run(f"def f():\n    import os, time\n    {wait}\nif rank: f()")
        thread.join()
        (busy,) = found
        assert (busy.line, busy.source) == (4, "if rank: f()")
        assert busy.stack == ("cell, line 4, in <module>", "cell, line 3, in f")


class TestHangs:
    def test_who_waits_in_what_for_a_rank_that_failed(self, run: Run) -> None:
        request = run(
            "import torch, torch.distributed as dist\nif rank == 1: raise ValueError('mine')\n"
            "dist.all_reduce(torch.ones(7))"
        )
        assert statuses(request) == ["unblocked", "error", "unblocked"]
        assert "ranks 0,2 waited for rank 1 at line 3 in all_reduce of [7] float32, number " in told(request)

    def test_who_waits_in_what_for_a_rank_that_ended(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE_S", 1.0)
        request = run("import torch, torch.distributed as dist\nif rank == 0: dist.recv(torch.ones(3), 1)")
        assert statuses(request) == ["unblocked", "ok", "ok"]
        assert "ranks 1-2 had ended the cell while rank 0 waited for it" in told(request)
        assert "rank 0 waited at line 2 in recv from 1 of [3] float32" in told(request)

    @pytest.mark.usefixtures("limited")
    def test_a_rank_that_does_not_come_in_time(self, run: Run) -> None:
        said: list[str] = []
        request = run(
            "import time, torch, torch.distributed as dist\ndist.barrier()\nif rank == 1:\n    time.sleep(4.5)\n"
            "else:\n    dist.all_reduce(torch.ones(4))",
            said=lambda rank, stream, text: said.append(text),
        )
        assert statuses(request)[::2] == ["error", "error"]
        text = told(request)
        assert "ranks 0,2 waited at line 6 in all_reduce of [4] float32, number " in text
        assert "rank 1 did not come to all_reduce, number " in "".join(said)
        assert "of all ranks; it was at line 4: time.sleep(4.5)" in "".join(said)

    @pytest.mark.parametrize(
        ("mine", "theirs", "texts"),
        [
            (
                "dist.broadcast(torch.ones(4), 0)",
                "dist.all_reduce(torch.ones(4))",
                ("broadcast of [4] float32", "all_reduce of [4] float32"),
            ),
            (
                "dist.all_gather([torch.ones(4)] * 3, torch.ones(4))",
                "dist.barrier()",
                ("all_gather of [4] float32", "barrier"),
            ),
        ],
        ids=["another one", "without values"],
    )
    def test_operations_that_are_not_the_same(
        self,
        three: Ranks,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        mine: str,
        theirs: str,
        texts: tuple[str, str],
    ) -> None:
        """Nobody ends the cell, and no time is over: that they wait for ever is seen by what they have called."""
        monkeypatch.setattr(module, "PATIENCE_S", 1.0)
        request = run(
            "import torch, torch.distributed as dist\ndist.barrier()\nif rank == 1:\n"
            f"    {mine}\nelse:\n    {theirs}\ndist.barrier()"
        )
        assert statuses(request) == ["unblocked"] * 3
        assert f"rank 1 called {texts[0]} at line 4 as number " in told(request)
        assert f"ranks 0,2 called {texts[1]} at line 6 as number " in told(request)
        assert "of all ranks, and others something else" in told(request)
        assert "flight.py" not in told(request)

    def test_sizes_that_are_not_the_same(self, run: Run) -> None:
        """gloo ends the process that is sent more than it expects."""
        request = run(
            "import torch, torch.distributed as dist\ndist.barrier()\nif rank == 1:\n"
            "    dist.all_reduce(torch.ones(5))\nelse:\n    dist.all_reduce(torch.ones(4000))"
        )
        assert statuses(request) == ["unblocked", "dead", "unblocked"]
        text = told(request)
        assert "ranks 0,2 waited for rank 1 at line 6 in all_reduce of [4000] float32, number " in text
        assert (
            "rank 1 was in all_reduce at line 4 and was sent 2,668 bytes where it expected 4: ranks" in text
        )
        assert "Cell In[1], line 4 in <module>" in text

    def test_an_interrupted_wait_is_explained(
        self, three: Ranks, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requests, "_LONG_S", 0.5)
        run("1")  # a process that is new has something to load first
        said: list[str] = []
        thread = after(1.5, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(
                "import time, torch, torch.distributed as dist\ndist.barrier()\n"
                "while rank == 2: time.sleep(0.01)\ndist.all_reduce(torch.ones(4))",
                said=lambda rank, stream, text: said.append(text),
            )
        thread.join()
        assert "ranks 0-1 waited in all_reduce of [4] float32, number " in "".join(said)
        assert "rank 2 did not come to all_reduce, number " in "".join(said)
        assert "it was at line 3: while rank == 2: time.sleep(0.01)" in "".join(said)


def records(*calls: list[Operation], **fields: Any) -> dict[int, RankRecord]:
    group = {"0": tuple(range(len(calls)))}
    return {rank: RankRecord(tuple(mine), group, at_s=100.0, **fields) for rank, mine in enumerate(calls)}


def ops(*names: str, state: str = "ended", shape: tuple[int, ...] = (4,)) -> list[Operation]:
    made = [
        Operation(name, "0", number, (shape,), "float32", at_s=90.0 + number, line=number)
        for number, name in enumerate(names, 1)
    ]
    return [*made[:-1], dataclasses.replace(made[-1], state=state)]


class TestFinding:
    def test_nothing_where_all_did_the_same(self) -> None:
        assert find(records(*[ops("all_reduce", "barrier")] * 3)).sentences() == []
        assert find({}).sentences() == []

    def test_who_is_behind(self) -> None:
        finding = find(
            records(
                ops("all_reduce", "barrier", state="waits"),
                ops("all_reduce"),
                ops("all_reduce", "barrier", state="waits"),
            )
        )
        assert finding.waited == dict.fromkeys((0, 2), "barrier of [4] float32, number 2 of all ranks")
        assert finding.record == {1: "did not come to barrier, number 2 of all ranks"}
        assert finding.for_s == pytest.approx(8.0)
        assert not finding.differ

    def test_who_differs(self) -> None:
        finding = find(
            records(ops("all_reduce", "barrier", "reduce"), ops("all_reduce", "broadcast", state="waits"))
        )
        assert finding.differ
        assert finding.record == {
            0: "called barrier of [4] float32 at line 2 as number 2 of all ranks, and others something else",
            1: "called broadcast of [4] float32 at line 2 as number 2 of all ranks, and others something else",
        }

    def test_sizes_differ_only_where_that_did_not_work(self) -> None:
        small, large = ops("broadcast"), ops("broadcast", shape=(9,))
        assert not find(records(small, large)).differ
        assert find(records(small, ops("broadcast", shape=(9,), state="waits"))).differ
        assert not find(records(ops("all_to_all"), ops("all_to_all", shape=(9,), state="waits"))).differ

    def test_what_was_left_out_is_not_missing(self) -> None:
        late = ops("all_reduce", "all_reduce", "all_reduce")[2:]
        assert find(records(ops("all_reduce", "all_reduce", "all_reduce"), late)).sentences() == []
        assert find(records(ops("all_reduce"), [], whole=False)).sentences() == []
        assert find(records(ops("all_reduce"), [])).record == {
            1: "did not come to all_reduce, number 1 of all ranks"
        }

    def test_messages_that_do_not_come(self) -> None:
        waits = Operation("recv from 1", "0", shapes=((2,),), dtype="int64", peer=1, state="waits", at_s=99.0)
        found = find(records([waits], []))
        assert found.waited == {0: "recv from 1 of [2] int64"}
        assert found.record == {1: "did not come to recv from 1 of rank 0"}
