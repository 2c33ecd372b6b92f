from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from deepseek_lab.base.ranks import RankOutput, alike, parse_spans, spans
from deepseek_lab.distributed import ranks as module
from deepseek_lab.distributed.channel import Connection, Message, connect
from deepseek_lab.distributed.ranks import Ranks, RanksError
from deepseek_lab.distributed.request import Request

Run = Callable[..., Request]
REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nx.tolist()"


def statuses(request: Request) -> list[str]:
    return [request.answers[rank].status for rank in sorted(request.answers)]


def values(request: Request) -> list[str]:
    return [request.answers[rank].value for rank in sorted(request.answers)]


def after(seconds: float, action: Callable[[], Any]) -> threading.Thread:
    """Does something later, in a thread."""

    def wait() -> None:
        time.sleep(seconds)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class TestCells:
    def test_ranks_form_a_group_and_keep_their_names(self, run: Run) -> None:
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3
        assert values(run("(rank, world_size, device, x[0].item())")) == [
            f"({rank}, 3, 'cpu', 3.0)" for rank in range(3)
        ]

    def test_a_cell_for_some_ranks(self, run: Run) -> None:
        request = run("rank", ranks=[0, 2])
        assert sorted(request.answers) == [0, 2]
        assert values(request) == ["0", "2"]

    def test_what_is_printed_comes_while_the_cell_runs(self, run: Run) -> None:
        heard: list[tuple[float, int, str, str]] = []
        source = (
            "import sys, time\nprint('first')\nprint('oops', file=sys.stderr)\ntime.sleep(0.8)\nprint('last')"
        )
        run(source, said=lambda *part: heard.append((time.monotonic(), *part)))
        end = time.monotonic()
        assert {part[1:] for part in heard} >= {
            (rank, stream, text)
            for rank in range(3)
            for stream, text in [("stdout", "first\n"), ("stderr", "oops\n"), ("stdout", "last\n")]
        }
        assert end - next(at for at, *rest in heard if rest[2] == "first\n") > 0.5

    def test_a_listener_that_fails_does_not_stop_the_ranks(self, run: Run) -> None:
        def fails(*_: object) -> None:
            raise OSError("no screen")

        with pytest.raises(OSError, match="no screen"):
            run("print('hi')\nimport time\ntime.sleep(0.3)\nprint('again')\nheard = 1", said=fails)
        assert values(run("heard")) == ["1"] * 3

    def test_an_error_is_told_from_the_cell_on(self, run: Run) -> None:
        request = run("def f():\n    return 1 / 0\nif rank == 1:\n    f()")
        assert statuses(request) == ["ok", "error", "ok"]
        answer = request.answers[1]
        assert (answer.error, answer.line) == ("ZeroDivisionError", 2)
        assert answer.text.startswith(
            'Traceback (most recent call last):\n  File "cell", line 4, in <module>\n'
        )
        assert "    return 1 / 0\n" in answer.text
        assert "deepseek_lab" not in answer.text

    def test_a_syntax_error_and_an_exit_are_errors_of_the_cell(self, run: Run) -> None:
        assert {one.error for one in run("1 +").answers.values()} == {"SyntaxError"}
        assert {one.error for one in run("raise SystemExit(3)").answers.values()} == {"SystemExit"}
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_a_semicolon_silences_and_a_broken_repr_is_told(self, run: Run) -> None:
        assert values(run("5;")) == [""] * 3
        text = run("class Odd:\n    def __repr__(self): raise OSError('no')\nOdd()").answers[0].value
        assert "repr raised OSError: no" in text


class TestFailures:
    def test_a_rank_that_fails_does_not_leave_the_others_waiting(self, run: Run) -> None:
        request = run(
            "import torch.distributed as dist\nif rank == 1: raise ValueError('mine')\ndist.barrier()"
        )
        assert statuses(request) == ["unblocked", "error", "unblocked"]
        assert request.answers[0].line == 3
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_a_rank_that_never_comes_is_not_waited_for(self, run: Run) -> None:
        request = run("import torch.distributed as dist\nif rank != 2: dist.barrier()")
        assert statuses(request) == ["unblocked", "unblocked", "ok"]
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_work_without_a_collective_goes_on_when_another_rank_fails(self, run: Run) -> None:
        request = run("import time\nif rank == 0: raise ValueError\ntime.sleep(2.5)\n'done'")
        assert statuses(request) == ["error", "ok", "ok"]
        assert request.answers[1].value == "'done'"

    @pytest.mark.parametrize("end", ["os._exit(7)", "os.kill(os.getpid(), 9)", "os.abort()"])
    def test_a_dead_rank_is_named_and_gets_a_new_process(self, three: Ranks, run: Run, end: str) -> None:
        began = time.monotonic()
        request = run(
            f"import os, time, torch.distributed as dist\nprint('so far')\nif rank == 2:\n"
            f"    time.sleep(0.8); {end}\ndist.barrier()"
        )
        assert time.monotonic() - began < 5
        assert statuses(request) == ["unblocked", "unblocked", "dead"]
        answer = request.answers[2]
        assert "rank 2 " in answer.text
        assert "last line: so far" in answer.text
        assert answer.line == 4
        if "exit" in end:
            assert "exit status 7" in answer.text
        with pytest.raises(RanksError, match=r"rank 2 .*\n.*restart 2"):
            run("1")
        with pytest.raises(RanksError, match="rank 2"):
            run("1", ranks=[2])
        assert three.restart() == [2]
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_a_rank_that_dies_between_cells(self, three: Ranks, run: Run) -> None:
        os.kill(three.states[1].pid, signal.SIGKILL)
        until = time.monotonic() + 5
        while three.states[1].state != "dead" and time.monotonic() < until:
            time.sleep(0.02)
        assert three.states[1].state == "dead"
        assert "SIGKILL" in three.states[1].why
        assert three.live == [0, 2]
        three.restart([1])
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_a_rank_that_is_well_can_be_restarted(self, three: Ranks, run: Run) -> None:
        run("mark = 1")
        before = three.states[0].pid
        assert three.restart([0]) == [0]
        assert three.states[0].pid != before
        assert values(run("'mark' in globals()")) == ["False", "True", "True"]

    def test_ranks_that_there_are_not(self, three: Ranks, run: Run) -> None:
        with pytest.raises(RanksError, match="there is no rank 5, the ranks are 0-2"):
            run("1", ranks=[5])
        with pytest.raises(RanksError, match="there is no rank 9"):
            three.restart([9])
        with pytest.raises(RanksError, match="0 ranks"):
            Ranks(0)


class TestInterrupts:
    @pytest.mark.parametrize(
        "source",
        [
            "import time\ntime.sleep(60)",
            "while True: pass",
            "import torch.distributed as dist\nif rank: dist.barrier()\nelse:\n    while True: pass",
            "import torch, torch.distributed as dist\nwhile True: dist.all_reduce(torch.ones(100_000))",
        ],
        ids=["sleeping", "computing", "hanging", "communicating"],
    )
    def test_an_interrupt_ends_the_cell_and_not_the_ranks(self, three: Ranks, run: Run, source: str) -> None:
        pids = [one.pid for one in three.states]
        thread = after(0.7, interrupt)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run(source)
        assert time.monotonic() - began < 10
        thread.join()
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3
        assert [one.pid for one in three.states] == pids

    def test_interrupts_at_any_moment(self, three: Ranks, run: Run) -> None:
        pids = [one.pid for one in three.states]
        source = "import torch, torch.distributed as dist\nfor _ in range(150): dist.all_reduce(torch.ones(50_000))"
        for number in range(12):
            timer = threading.Timer(0.03 * number, interrupt)
            with contextlib.suppress(KeyboardInterrupt):
                timer.start()
                run(source)
                timer.join()
                time.sleep(0.05)  # an interrupt that came too late for the cell
            timer.join()
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3
        assert [one.pid for one in three.states] == pids

    def test_the_second_interrupt_ends_a_rank_that_does_not_listen(self, three: Ranks, run: Run) -> None:
        source = (
            "import signal, time\nif rank == 1:\n    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
            "    time.sleep(60)"
        )
        threads = [after(0.6, interrupt), after(1.6, interrupt)]
        with pytest.raises(KeyboardInterrupt):
            run(source)
        for thread in threads:
            thread.join()
        assert [one.state for one in three.states] == ["ready", "dead", "ready"]
        three.restart()
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3


class TestSafety:
    def test_files_are_the_owners_alone(self, three: Ranks) -> None:
        folder = three._folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "connection.json").stat().st_mode) == 0o600

    def test_everything_listens_on_loopback(self, three: Ranks, run: Run) -> None:
        run(REDUCE)
        for pid in [os.getpid(), *[one.pid for one in three.states]]:
            for one in psutil.Process(pid).net_connections(kind="tcp"):
                if one.status == psutil.CONN_LISTEN:
                    assert one.laddr.ip in {"127.0.0.1", "::1"}

    def test_whoever_has_no_key_is_not_heard(self, three: Ranks, run: Run) -> None:
        connection = Connection.read(three._folder / "connection.json")
        public, secret = zmq.curve_keypair()
        heard: list[Message] = []
        stranger = connect(
            Connection(connection.address, connection.server_key, public.decode(), secret.decode()),
            b"rank-1.0",
            lambda _, message: heard.append(message),
        )
        stranger.open()
        done = {"request": 1, "status": "ok", "seconds": 0.0, "broken": False}
        stranger.send(Message("done", done))
        run("import time\ntime.sleep(0.3)")
        stranger.close()
        assert heard == []
        assert values(run(REDUCE)) == ["[3.0, 3.0]"] * 3

    def test_no_key_is_shown(self, three: Ranks, run: Run) -> None:
        connection = Connection.read(three._folder / "connection.json")
        shown = (
            repr(connection)
            + repr(three.states)
            + json.dumps([one.text for one in run("1/0").answers.values()])
        )
        shown += "".join(path.read_text() for path in three._folder.glob("*.log"))
        shown += "".join(Path(f"/proc/{one.pid}/cmdline").read_text() for one in three.states)
        shown += values(run("import os; dict(os.environ)"))[0]
        assert connection.secret_key not in shown


class TestEnds:
    def test_stop_leaves_nothing_behind(self) -> None:
        made = Ranks(2)
        made.start()
        pids, folder = [one.pid for one in made.states], made._folder
        made.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert not folder.exists()
        with pytest.raises(RanksError, match="were stopped"):
            made.ask("run", {"source": "1", "file": "c"})

    @pytest.mark.parametrize("busy", [False, True])
    def test_ranks_end_with_a_notebook_that_is_killed(self, busy: bool) -> None:
        program = (
            "from deepseek_lab.distributed import ranks\nimport threading, time\nr = ranks.start(2)\n"
            "print(*[one.pid for one in r.states], r._folder, flush=True)\n"
            + (
                "r.ask('run', {'source': 'import time; time.sleep(100)', 'file': 'c'})"
                if busy
                else "time.sleep(100)"
            )
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        *pids, folder = process.stdout.readline().split()
        assert all(psutil.pid_exists(int(pid)) for pid in pids)
        process.kill()
        process.wait()
        until = time.monotonic() + 20
        while any(psutil.pid_exists(int(pid)) for pid in pids) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(psutil.pid_exists(int(pid)) for pid in pids)
        assert not Path(folder).exists()

    def test_what_a_killed_notebook_left_is_removed_by_the_next(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        left = Path(tempfile.gettempdir()) / f"deepseek_lab-ranks-{gone.pid}-{socket.gethostname()}-abc"
        left.mkdir()
        Ranks(1).stop()
        assert not left.exists()

    def test_a_process_that_does_not_start_is_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho 'no interpreter here' >&2\nexit 3\n")
        python.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(python))
        made = Ranks(2)
        with pytest.raises(
            RanksError, match=r"rank \d ended with exit status 3 while it started\nno interpreter"
        ):
            made.start()
        assert {one.state for one in made.states} == {"stopped"}

    def test_only_one_group_at_a_time(self, monkeypatch: pytest.MonkeyPatch, three: Ranks) -> None:
        monkeypatch.setattr(module, "_current", [three])
        with pytest.raises(RanksError, match="3 ranks run already"):
            module.start(2)


def test_spans() -> None:
    assert spans([5, 0, 2, 1]) == "0-2,5"
    assert parse_spans("[0, 2-3]") == [0, 2, 3]
    assert alike({0: "a", 1: "b", 2: "a", 3: ""}) == [("0,2", "a"), ("1", "b")]
    with pytest.raises(ValueError, match="invalid literal"):
        parse_spans("all")


def test_of_long_output_the_end_is_kept() -> None:
    output = RankOutput()
    for number in range(60_000):
        output.add(0, f"line {number}\n")
    assert len(output[0]) < 250_000
    assert output[0].endswith("line 59999\n")
    assert output[0].startswith("... (")
