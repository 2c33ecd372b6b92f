"""Over a real server of OpenSSH on this machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deepseek_lab.distributed.launchers.ssh import Ssh, SshError
from deepseek_lab.distributed.ranks import Ranks, RanksError
from deepseek_lab.distributed.worker.network import interface, local_address
from tests.distributed.launchers.sshd import Sshd, gone, places_of_the_key

REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nx.tolist()"


@pytest.fixture(scope="module")
def two(sshd: Sshd) -> Iterator[Ranks]:
    made = Ranks(2, launcher=Ssh([sshd.host], options=sshd.options))
    made.start()
    yield made
    made.stop()


def cell(ranks: Ranks, source: str) -> list[str]:
    if len(ranks.live) < len(ranks):
        ranks.restart()
    answers = ranks.ask("run", {"source": source, "file": "cell"}).answers
    return [answers[rank].value or answers[rank].text for rank in sorted(answers)]


class TestRanks:
    def test_they_form_a_group(self, two: Ranks) -> None:
        assert cell(two, REDUCE) == ["[1.0, 1.0]"] * 2
        told = cell(
            two, "import os\n(os.environ['LOCAL_RANK'], os.environ['GLOO_SOCKET_IFNAME'], os.getcwd())"
        )
        assert told == [str((str(rank), "lo", str(Path.cwd()))) for rank in range(2)]

    def test_everything_stays_on_loopback_where_the_host_is_this_machine(self, two: Ranks) -> None:
        cell(two, REDUCE)
        for pid in [os.getpid(), *[one.pid for one in two.states]]:
            for one in psutil.Process(pid).net_connections(kind="tcp"):
                assert one.status != psutil.CONN_LISTEN or one.laddr.ip in {"127.0.0.1", "::1"}

    def test_no_key_is_shown(self, two: Ranks) -> None:
        cell(two, REDUCE)
        assert places_of_the_key(two) == []
        assert stat.S_IMODE((two._folder / "connection.json").stat().st_mode) == 0o600

    def test_a_rank_that_dies_is_named_with_its_last_words(self, two: Ranks) -> None:
        told = cell(two, "import os\nprint('so far')\nif rank == 1:\n    os.abort()\n'well'")
        assert "rank 1 was ended by SIGABRT (on " in told[1]
        assert "Fatal Python error: Aborted" in told[1]
        assert 'File "cell", line 4' in told[1]
        assert told[0] == "'well'"

    def test_a_rank_is_ended_on_its_machine_and_a_lost_connection_is_told(self, two: Ranks) -> None:
        cell(two, REDUCE)
        child = int(cell(two, "import subprocess\nsubprocess.Popen(['sleep', '99']).pid")[0])
        ended, lost = (one.process for one in two._ranks)
        assert ended is not None
        assert lost is not None
        ended.kill()
        keeper = psutil.Process(lost.pid).parent()
        assert keeper is not None
        keeper.kill()
        assert ended.wait(10)
        assert lost.wait(10)
        assert gone([ended.pid, child, lost.pid])
        whys = [one.why for one in two.states]
        assert whys[0].startswith("was ended by the notebook (on ")
        assert whys[1].startswith("lost its connection (on ")
        assert cell(two, REDUCE) == ["[1.0, 1.0]"] * 2


def test_nothing_is_left_of_a_notebook_that_is_killed(sshd: Sshd) -> None:
    program = (
        "from deepseek_lab.distributed.ranks import Ranks\nfrom deepseek_lab.distributed.launchers import Ssh\n"
        f"import psutil\nr = Ranks(1, launcher=Ssh([{sshd.host!r}], options={sshd.options!r}))\nr.start()\n"
        "pids = [one.pid for one in psutil.Process().children(recursive=True)]\n"
        "pids += [r.states[0].pid, psutil.Process(r.states[0].pid).ppid()]\n"
        "print(*pids, r._folder, flush=True)\n"
        "r.ask('run', {'source': 'while True: pass', 'file': 'c'})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *pids, folder = process.stdout.readline().split()
    assert len(pids) == 4  # a shell, ssh, the keeper, the rank
    assert all(psutil.pid_exists(int(pid)) for pid in pids)
    process.kill()
    process.wait()
    assert gone([int(pid) for pid in pids], 10)  # before the keeper gives up by itself
    assert not Path(folder).exists()


def test_hosts_with_counts_have_so_many_places(sshd: Sshd) -> None:
    assert Ssh([f"{sshd.host}*2", sshd.host], options=sshd.options).most == 3
    assert Ssh([sshd.host, sshd.host], options=sshd.options).most is None


class TestErrors:
    def test_a_host_that_does_not_answer(self, sshd: Sshd) -> None:
        made = Ranks(1, launcher=Ssh([sshd.host.partition(":")[0] + ":1"], options=sshd.options))
        with pytest.raises(
            RanksError, match=r"(?s)rank 0 could not be started: ssh failed.*refused.*try: ssh"
        ):
            made.start()

    def test_an_interpreter_that_is_not_there(self, sshd: Sshd) -> None:
        made = Ranks(1, launcher=Ssh([sshd.host], options=sshd.options, python="/no/python"))
        with pytest.raises(RanksError, match=r"(?s)ended with exit status 127.*/no/python"):
            made.start()

    @pytest.mark.parametrize("host", ["", "-oProxyCommand=true", "a*b"])
    def test_what_is_no_host(self, host: str) -> None:
        with pytest.raises(SshError, match="is no host\n  try: --hosts"):
            Ssh([host])

    def test_no_hosts(self) -> None:
        with pytest.raises(SshError, match="no hosts"):
            Ssh([])


def test_hosts_take_turns_and_counts_take_rows() -> None:
    turns = Ssh(["127.0.0.1", "u@127.0.0.2:22"])
    assert [turns._host_of(rank) for rank in range(3)] == ["127.0.0.1", "u@127.0.0.2:22", "127.0.0.1"]
    rows = Ssh(["127.0.0.1*2", "127.0.0.2"])
    assert [rows._host_of(rank) for rank in range(4)] == ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.1"]
    assert rows.host == "127.0.0.1"


def test_the_interface_that_reaches_an_address() -> None:
    assert interface(local_address("127.0.0.1", 9)) == "lo"
    for many in psutil.net_if_addrs().values():
        for address in [one.address for one in many if one.family == socket.AF_INET]:
            found = psutil.net_if_addrs()[interface(address)]  # perhaps another one that has it too
            assert address in {one.address for one in found}
