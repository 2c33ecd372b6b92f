"""Slurm is a real one on this machine; PBS, of which there is no package, is scripts that do run the jobs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes_validate
import psutil
import pytest

from deepseek_lab.distributed.channel import Connection, Message, connect, listen
from deepseek_lab.distributed.launchers.batch import Batch, BatchError
from deepseek_lab.distributed.launchers.kubernetes import Kubernetes
from deepseek_lab.distributed.launchers.pbs import Pbs
from deepseek_lab.distributed.launchers.slurm import Slurm
from deepseek_lab.distributed.ranks import Ranks, RanksError
from tests.distributed.launchers.sshd import gone, listens, places_of_the_key

KEEPER = [sys.executable, "-m", "deepseek_lab.distributed.worker.keeper"]
REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nx.tolist()"


def values(ranks: Ranks, source: str) -> list[str]:
    answers = ranks.ask("run", {"source": source, "file": "cell"}).answers
    return [answers[rank].value or answers[rank].text for rank in sorted(answers)]


def until(condition: Callable[[], object], limit_s: float = 20) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of one node, and a folder that its jobs see."""
    programs = {name: shutil.which(name) or shutil.which(f"/usr/sbin/{name}") for name in _SLURM}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no {missing[0]} on this machine (Debian: slurmctld slurmd slurm-client munge)")
    if os.getuid():
        pytest.skip("a Slurm for a test is started by root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    ports = [_free_port(), _free_port()]
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(folder=folder, host=host, ports=ports, cpus=os.cpu_count())
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        commands = [
            ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/socket"]
            + [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ]
        ready = [lambda: (folder / "socket").exists(), lambda: listens(ports[0]), lambda: listens(ports[1])]
        daemons = []
        try:
            for (name, *words), is_ready in zip(commands, ready, strict=True):
                log = (folder / f"{name}.out").open("wb")
                command = [str(programs[name]), *words]
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
                log.close()
                if not until(is_ready):
                    pytest.skip(f"{name} does not start here: {(folder / f'{name}.out').read_text()[-500:]}")
            yield folder
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


_SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES OverSubscribe=FORCE:4 State=UP
"""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class TestSlurm:
    def test_from_a_job_to_its_end(self, slurm: Path) -> None:
        home = slurm / "home"
        made = Ranks(2, launcher=Slurm(listen="127.0.0.1", folder=home))
        made.start()
        try:
            assert values(made, REDUCE) == ["[1.0, 1.0]"] * 2
            assert places_of_the_key(made) == []
            assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(made._folder.stat().st_mode) == 0o700
            assert {stat.S_IMODE(one.stat().st_mode) for one in made._folder.glob("[cj]*.[js][sh]*")} == {
                0o600
            }
            assert "rank 1 was ended by SIGABRT (on " in values(made, "import os\nif rank: os.abort()")[1]
            assert made.restart() == [1]
            assert values(made, REDUCE) == ["[1.0, 1.0]"] * 2
            first, second = (int(job.name) for job in made._launcher._jobs)  # type: ignore[attr-defined]
            subprocess.run(["scancel", str(second)], check=True)
            assert until(lambda: made.states[1].state == "dead")
            assert made.states[0].state == "ready"
            assert made.resize(1) == ([], [1])
            assert made.resize(2) == ([1], [])  # by a job of its own
            launcher = made._launcher
            assert isinstance(launcher, Slurm)
            launcher._profile, launcher.start_limit_s = "#SBATCH --begin=now+1hour\n", 1
            with pytest.raises(RanksError, match=r"rank 2 did not start within 1 s; job \d+ is PENDING"):
                made.resize(3)
            assert subprocess.check_output(["squeue", "-h", "-t", "PD"]) == b""
            assert values(made, REDUCE) == ["[1.0, 1.0]"] * 2  # as it was
            pids = [one.pid for one in made.states]
        finally:
            made.stop()
        assert gone(pids)
        assert not list(home.iterdir())
        assert until(lambda: subprocess.check_output(["squeue", "-h", "-t", "R,PD", "-j", str(first)]) == b"")

    def test_a_job_that_waits_is_told_and_cancelled(self, slurm: Path, tmp_path: Path) -> None:
        (tmp_path / "site").write_text("#SBATCH --begin=now+1hour\n")
        made = Ranks(
            1, launcher=Slurm(listen="127.0.0.1", folder=slurm / "home", profile=tmp_path / "site", wait_s=1)
        )
        with pytest.raises(RanksError, match=r"did not start within 1 s; job \d+ is PENDING \(BeginTime\)"):
            made.start()
        assert subprocess.check_output(["squeue", "-h", "-t", "PD"]) == b""

    def test_a_refusal_is_told(self, slurm: Path, tmp_path: Path) -> None:
        (tmp_path / "site").write_text("#SBATCH --partition=nowhere\n")
        made = Ranks(1, launcher=Slurm(listen="127.0.0.1", folder=slurm / "home", profile=tmp_path / "site"))
        with pytest.raises(BatchError, match=r"sbatch refused: .*invalid partition"):
            made.start()


_PBS = {
    "qsub": """log=$(sed -n 's/^#PBS -o //p' "$1")
setsid bash "$1" >"$log" 2>&1 & echo $! >"$JOBS/7.here"; echo 7.here""",
    "pbsdsh": """shift 3; exec "$@" """,
    "qstat": """kill -0 $(cat "$JOBS/$1") 2>/dev/null || exit 35
printf 'Job id  Name  User  Time Use S Queue\\n------\\n%s deepseek me 0 R all\\n' "$1" """,
    "qdel": """kill -- -$(cat "$JOBS/$1") """,
}


def test_a_script_of_pbs_starts_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in _PBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path))
    profile = tmp_path / "site"
    profile.write_text("#PBS -q short\nexport SITE='its own'\n")
    made = Ranks(2, launcher=Pbs(listen="127.0.0.1", folder=tmp_path / "home", profile=profile))
    made.start()
    try:
        assert values(made, "import os\n(rank, os.environ['SITE'])") == ["(0, 'its own')", "(1, 'its own')"]
        assert made._launcher.state("7.here") == "running"  # type: ignore[attr-defined]
        pids = [one.pid for one in made.states]
    finally:
        made.stop()
    assert gone(pids)


@pytest.mark.parametrize(("kind", "mark"), [(Slurm, "#SBATCH --time=5"), (Pbs, "#PBS -l select=4:ncpus=8")])
def test_scripts(kind: type[Batch], mark: str, tmp_path: Path) -> None:
    profile = tmp_path / "site.sh"
    profile.write_text(f"#!/bin/sh\nmodule load it's\n{mark}\n".replace("it's", "cuda"))
    text = kind(profile=profile, python="/opt/my python").script(4)
    lines = text.splitlines()
    assert lines.index(mark) < next(number for number, line in enumerate(lines) if "module load cuda" in line)
    assert text.count("select=") == (1 if kind is Pbs else 0)
    assert "'/opt/my python' -m" in text.replace("'\\''", "'").replace("'\"'\"'", "'")
    assert "rank-0.0,rank-1.0,rank-2.0,rank-3.0" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


class TestKubernetes:
    @pytest.fixture
    def profile(self, tmp_path: Path) -> Path:
        path = tmp_path / "site.toml"
        path.write_text(
            'image = "here/it:1"\nnamespace = "team"\n[container.resources.limits]\ncpu = "4"\n'
            '[pod.nodeSelector]\nkind = "large"\n'
        )
        return path

    def test_a_manifest_is_what_the_schemas_want(self, profile: Path) -> None:
        made = json.loads(Kubernetes(profile=profile).script(3))
        job, secret = made["items"]
        for one in (job, secret):
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        broken = json.loads(json.dumps(job))
        broken["spec"]["completions"] = "three"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)
        pod = job["spec"]["template"]["spec"]
        assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
        assert job["metadata"]["namespace"] == secret["metadata"]["namespace"] == "team"
        assert pod["nodeSelector"] == {"kind": "large"}
        assert pod["containers"][0]["resources"]["limits"] == {"cpu": "4"}
        assert pod["containers"][0]["command"][:2] == ["python", "-m"]
        assert pod["volumes"][0]["secret"]["secretName"] == secret["metadata"]["name"]
        assert secret["data"]["connection.json"].startswith("(")

    def test_the_key_goes_by_standard_input_alone(
        self, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The command is a script that writes down what it is given; there is no cluster here."""
        (tmp_path / "kubectl").write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/words\ncase "$*" in\n'
            f"*create*) cat >>{tmp_path}/given; echo uid-1;;\n"
            """*get*) echo '{"status": {"active": 1, "ready": 0}}';;\nesac\n"""
        )
        (tmp_path / "kubectl").chmod(0o700)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        made = Ranks(1, launcher=Kubernetes(profile=profile, listen="127.0.0.1", wait_s=0.1))
        connection = json.loads((made._folder / "connection.json").read_text())
        with pytest.raises(
            RanksError, match=r"did not start .*; job deepseek-ranks-\w+ is with 1 pods active, 0 ready"
        ):
            made.start()
        words = (tmp_path / "words").read_text()
        given = (tmp_path / "given").read_text()
        job, end = json.JSONDecoder().raw_decode(given)
        secret = json.loads(given[end:])
        assert connection["secret_key"] not in words + given
        assert json.loads(base64.b64decode(secret["data"]["connection.json"])) == connection
        assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
        assert f"--namespace team delete job {job['metadata']['name']}" in words

    def test_an_image_is_needed(self) -> None:
        with pytest.raises(BatchError, match=r"needs an image(?s:.*)try: --profile"):
            Kubernetes().script(2)


class TestErrors:
    @pytest.mark.parametrize(("kind", "command"), [(Slurm, "sbatch"), (Pbs, "qsub"), (Kubernetes, "kubectl")])
    def test_a_system_that_is_not_there(
        self, kind: type[Batch], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        launcher = kind(listen="127.0.0.1")
        launcher.parent = tmp_path / "home"
        with pytest.raises(BatchError, match=rf"{command} is not on this machine\n.*ranks script --launcher"):
            Ranks(2, launcher=launcher)
        assert not list(launcher.parent.iterdir())

    def test_a_profile_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BatchError, match="cannot be read: No such file"):
            Slurm(profile=tmp_path / "none")


class TestKeeper:
    def test_a_notebook_that_was_reached_before_anybody_looked_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "connection.json"
        notebook = listen("127.0.0.1", path, lambda *_: None)
        lost: list[str] = []
        ends = connect(
            Connection.read(path), b"x", lambda *_: None, lost=lambda: lost.append("x"), lost_s=1.5
        )
        time.sleep(0.3)
        ends.open()
        try:
            time.sleep(1.5)
            assert lost == []
            notebook.close()
            assert until(lambda: lost == ["x"])
        finally:
            ends.close()

    def test_it_ends_a_rank_whose_notebook_is_gone(self, tmp_path: Path) -> None:
        """As on the machine of a job: nothing else than the connection tells."""
        folder = tmp_path / "deepseek_lab-ranks-1-elsewhere-x"
        folder.mkdir()
        program = (
            "import sys, time\nfrom pathlib import Path\nfrom deepseek_lab.distributed.channel import listen\n"
            "def say(_, message): print(message.kind, message.fields.get('pid'), flush=True)\n"
            "listen('127.0.0.1', Path(sys.argv[1]), say)\ntime.sleep(99)"
        )
        path = str(folder / "connection.json")
        notebook = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
        assert until(lambda: Path(path).exists() and Path(path).stat().st_size)
        keeper = subprocess.Popen(
            [*KEEPER, "--connection", path, "--ranks", "rank-0.0,rank-1.0", "--task", "1", "--lost", "3"]
        )
        assert notebook.stdout is not None
        pid = next(int(line.split()[1]) for line in notebook.stdout if line.startswith("kept"))
        assert psutil.pid_exists(pid)
        time.sleep(1)
        assert keeper.poll() is None
        notebook.kill()
        notebook.wait()
        assert keeper.wait(20) == 128 + signal.SIGKILL
        assert gone([pid])
        assert not folder.exists()

    def test_it_tells_how_a_rank_ended(self, tmp_path: Path) -> None:
        heard: list[Message] = []
        channel = listen("127.0.0.1", tmp_path / "connection.json", lambda _, message: heard.append(message))
        path = str(tmp_path / "connection.json")
        keeper = subprocess.Popen(
            [*KEEPER, "--connection", path, "--ranks", "rank-0.0", "--task", "PLACE"],
            env={**os.environ, "PLACE": "0"},
        )
        try:
            assert until(lambda: {"kept", "hello"} <= {one.kind for one in heard})
            keeper.terminate()  # as a batch system does
            assert keeper.wait(20) == 128 + signal.SIGKILL
            (ended,) = [one.fields for one in heard if one.kind == "ended"]
            assert ended["why"] == "was ended by the batch system"
        finally:
            channel.close()
