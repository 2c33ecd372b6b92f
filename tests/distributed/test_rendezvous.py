"""The store of a group goes over the connection to the notebook."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from deepseek_lab.distributed.channel import Message
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.rendezvous import Rendezvous
from deepseek_lab.distributed.request import Request

Run = Callable[..., Request]
STORE = "import torch, torch.distributed as dist\nfrom datetime import timedelta\n"
STORE += "store = dist.distributed_c10d._get_default_store()\n"


def values(request: Request) -> list[str]:
    return [request.answers[rank].value or request.answers[rank].text for rank in sorted(request.answers)]


def statuses(request: Request) -> list[str]:
    return [request.answers[rank].status for rank in sorted(request.answers)]


class TestStore:
    def test_no_file_and_no_port_is_needed(self, three: Ranks, run: Run) -> None:
        run("1")
        assert {path.name.split(".")[0] for path in three._folder.iterdir()} == {
            "connection",
            "rank-0",
            "rank-1",
            "rank-2",
        }

    def test_it_does_what_a_store_of_torch_does(self, run: Run) -> None:
        """The same calls on ours and on one of torch's own."""
        calls = """
def told(s):
    s.set("a", "1"); s.set("bytes", b"\\x00\\xff")
    return [s.get("a"), s.get("bytes"), s.add("n", 2), s.add("n", 3), s.get("n"), s.check(["a", "n"]),
            s.check(["a", "no"]), s.compare_set("c", "", "x"), s.compare_set("c", "x", "y"),
            s.compare_set("c", "x", "z"), s.compare_set("absent", "x", "y"), s.delete_key("a"), s.delete_key("a"),
            s.wait(["n", "c"])]
told(dist.PrefixStore(f"mine{rank}", store)) == told(dist.HashStore())
"""
        assert values(run(STORE + calls)) == ["True"] * 3

    def test_groups_within_the_group(self, run: Run) -> None:
        source = STORE + (
            "group = dist.new_group([0, 2])\nx = torch.ones(1) * (rank + 1)\n"
            "if rank != 1: dist.all_reduce(x, group=group)\nx.item()"
        )
        assert values(run(source)) == ["4.0", "2.0", "4.0"]

    def test_replicas(self, run: Run) -> None:
        source = STORE + (
            "m = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))\n"
            "m(torch.full((1, 1), float(rank))).sum().backward()\nm.module.weight.grad.item()"
        )
        assert values(run(source)) == ["1.0"] * 3

    def test_a_wait_has_an_end(self, run: Run) -> None:
        source = STORE + (
            "try: store.wait(['never'], timedelta(seconds=0.3))\n"
            "except dist.DistStoreError as error: said = str(error)\nsaid"
        )
        assert all("never in time" in one for one in values(run(source)))

    @pytest.mark.parametrize("fails", ["raise ValueError('mine')", "__import__('os')._exit(3)"])
    def test_whoever_waits_for_a_rank_that_has_failed_is_freed(
        self, three: Ranks, run: Run, fails: str
    ) -> None:
        began = time.monotonic()
        request = run(STORE + f"if rank == 1:\n    {fails}\ngroup = dist.new_group([0, 1, 2])")
        assert time.monotonic() - began < 20
        assert statuses(request)[::2] == ["unblocked", "unblocked"]
        if len(three.live) < 3:
            three.restart()
        assert values(run("world_size")) == ["3"] * 3

    def test_an_interrupt_ends_a_wait(self, three: Ranks, run: Run) -> None:

        pids = [one.pid for one in three.states]
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run(STORE + "store.get('never')")
        timer.join()
        assert values(run("world_size")) == ["3"] * 3
        assert [one.pid for one in three.states] == pids


def test_a_group_that_is_over_gets_no_more_answers() -> None:
    sent: list[tuple[bytes, Message]] = []
    rendezvous = Rendezvous(lambda message, to: sent.append((to, message)))

    def ask(group: int, call: int, what: str, key: str, *payload: bytes) -> None:
        fields = {"group": group, "call": call, "what": what, "keys": [key], "amount": 0}
        rendezvous.heard(b"rank-0.0", Message("meet", fields, payload))

    first = rendezvous.begin()
    ask(first, 1, "get", "k")
    assert sent == []
    second = rendezvous.begin()
    ask(first, 2, "set", "k", b"old")
    ask(second, 3, "get", "k")
    ask(second, 4, "set", "k", b"new")
    assert [(one.fields["call"], one.fields["over"], one.payload[0]) for _, one in sent] == [
        (1, True, b""),
        (2, True, b""),
        (4, False, b""),
        (3, False, b"new"),
    ]
