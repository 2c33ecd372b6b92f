"""All-to-all and all-gather as messages: what comes, in pieces and whole, and who is waited for."""

from __future__ import annotations

import pytest

from deepseek_lab.distributed import request as requests
from deepseek_lab.distributed.ranks import Ranks
from tests.distributed.conftest import Run
from tests.distributed.test_flight_record import told
from tests.distributed.test_ranks import after, interrupt, statuses

BOTH = """
import torch, torch.distributed as dist
from deepseek_lab.distributed.worker import collectives
group = dist.new_group()
collectives._WHOLE, collectives._PIECES = {tried}
collectives._paces[group] = collectives._Pace(pieces={pieces})
seen = []
for length, dtype in ((1, torch.uint8), (1000, torch.float32), (150_001, torch.float32), (0, torch.uint8)):
    for _ in range(3):
        sent = torch.stack([torch.arange(length) * (1 + rank) + 7 * to for to in range(world_size)]).to(dtype)
        came = torch.empty_like(sent)
        collectives.all_to_all(came, sent, group)
        wanted = [torch.arange(length) * (1 + at) + 7 * rank for at in range(world_size)]
        seen.append(torch.equal(came, torch.stack(wanted).to(dtype)))
        collectives.all_gather(came, sent[1], group)
        wanted = [torch.arange(length) * (1 + at) + 7 for at in range(world_size)]
        seen.append(torch.equal(came, torch.stack(wanted).to(dtype)))
agreed = [None] * world_size
dist.all_gather_object(agreed, collectives._paces[group].pieces)
dist.destroy_process_group(group)
seen, len(set(agreed))
"""


@pytest.mark.parametrize("pieces", [True, False])
@pytest.mark.parametrize("tried", [(998, 999), (3, 4)], ids=["as it is", "tried"])
def test_all_ranks_have_what_was_sent_to_them(run: Run, pieces: bool, tried: tuple[int, int]) -> None:
    request = run(BOTH.format(pieces=pieces, tried=tried))
    assert statuses(request) == ["ok"] * 3
    assert {one.value for one in request.answers.values()} == {f"({[True] * 24}, 1)"}


def test_two_threads_do_not_take_each_others_messages(run: Run) -> None:
    request = run(
        "import threading, torch, torch.distributed as dist\n"
        "from deepseek_lab.distributed.worker import collectives\n"
        "groups, right = [dist.new_group() for _ in range(2)], []\n"
        "def go(group, mark):\n"
        "    for turn in range(20):\n"
        "        sent = torch.full((world_size, 70_000), 100.0 * turn + 10 * mark + rank)\n"
        "        came = torch.empty_like(sent)\n"
        "        collectives.all_to_all(came, sent, group)\n"
        "        first = 100.0 * turn + 10 * mark + torch.arange(world_size)\n"
        "        right.append(torch.equal(came, first[:, None].expand_as(came)))\n"
        "threads = [threading.Thread(target=go, args=(group, at)) for at, group in enumerate(groups)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\n"
        "len(right), all(right)"
    )
    assert {one.value for one in request.answers.values()} == {"(40, True)"}


def test_messages_of_the_cell_stay_its_own(run: Run) -> None:
    request = run(
        "import torch, torch.distributed as dist\n"
        "from deepseek_lab.distributed.worker import collectives\n"
        "mine, came = torch.full((300,), 5.0), torch.zeros(world_size, 300)\n"
        "if rank == 0: work = dist.isend(mine, 1)\n"
        "collectives.all_to_all(came, torch.zeros(world_size, 300), dist.group.WORLD)\n"
        "if rank == 1: dist.recv(mine.zero_(), 0)\n"
        "if rank == 0: work.wait()\n"
        "mine.mean().item(), came.any().item()"
    )
    assert {one.value for one in request.answers.values()} == {"(5.0, False)"}


LATE = """
import time, torch, torch.distributed as dist
from deepseek_lab.distributed.worker import collectives
sent = torch.zeros(world_size, 300, dtype=torch.uint8)
if rank == 1:
    {late}
collectives.{name}(torch.empty_like(sent), {what}, dist.group.WORLD)
"""


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(("name", "what"), [("all_to_all", "sent"), ("all_gather", "sent[0]")])
def test_a_rank_that_does_not_come_in_time(run: Run, name: str, what: str) -> None:
    said: list[str] = []
    request = run(
        LATE.format(late="time.sleep(4.5)", name=name, what=what),
        said=lambda rank, stream, text: said.append(text),
    )
    assert statuses(request)[::2] == ["error", "error"]
    assert f"ranks 0,2 waited at line 7 in {name} of [3, 300] uint8" in told(request)
    assert f"rank 1 did not come to {name} of rank " in "".join(said)
    assert "it was at line 6: time.sleep(4.5)" in "".join(said)


def test_a_rank_that_failed_ends_the_wait(run: Run) -> None:
    request = run(LATE.format(late="raise ValueError('mine')", name="all_to_all", what="sent"))
    assert statuses(request) == ["unblocked", "error", "unblocked"]
    assert "ranks 0,2 waited for rank 1 at line 7 in all_to_all of [3, 300] uint8" in told(request)


def test_an_interrupt_ends_the_wait(three: Ranks, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_LONG_S", 0.5)
    run("1")  # a process that is new has something to load first
    thread = after(1.5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(LATE.format(late="while True: time.sleep(0.01)", name="all_to_all", what="sent"))
    thread.join()
    assert statuses(run("1 + 1")) == ["ok"] * 3
