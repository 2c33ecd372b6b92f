"""Ranks as jobs of a batch system: a job is rendered, submitted, asked after and cancelled.

The launchers of ipyparallel do the like for engines of its own; here the processes are ours, and a file for each system
is less than an adapter.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.distributed.launchers.launcher import Process, Site, Start, tail
from deepseek_lab.distributed.launchers.remote import Remote, RemoteProcess
from deepseek_lab.distributed.worker.network import local_address

WAIT_S = 600.0
_ASK_S = 5
"""A batch system is asked after its jobs so often."""
_OUTSIDE = "192.0.2.1"
"""No machine has this address (RFC 5737): the way to it is the way to any other network."""


class BatchError(DeepseekError):
    """A batch system cannot be used, or refused a job."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a job is rendered from; no key is in it."""

    identities: tuple[str, ...]
    """Of its ranks, one a task."""
    connection: Path
    """The connection file, where the job's machines see it."""
    folder: Path
    """For its output."""
    directory: Path
    """Where to run."""
    python: str
    profile: str
    """Text of the site's own file."""

    def keeper(self, task: str) -> list[str]:
        """The command of a task; ``task`` is its number, or the variable that holds it."""
        words = [self.python, "-m", "deepseek_lab.distributed.worker.keeper"]
        words += ["--connection", str(self.connection), "--ranks", ",".join(self.identities), "--task", task]
        return [*words, "--directory", str(self.directory)]


@dataclasses.dataclass
class Submitted:
    """A job that a batch system has."""

    name: str
    """What the batch system calls it."""
    processes: list[RemoteProcess] = dataclasses.field(default_factory=list)
    state: str = ""
    num_missed: int = 0
    """How often in a row the system knew nothing of it."""


class Batch(Remote):
    """Starts ranks as one job, and new ones for dead ranks as another.

    Args:
        profile: File with what the site needs: lines of a script, or for Kubernetes a TOML file.
        python: Interpreter on the machines of the job, with this package; by default the path of this one.
        listen: Address of this machine at which those machines reach it; by default that from which it reaches others.
        wait_s: A job that has not started after so long is given up.
        folder: Where the machines of the job see files of the notebook; by default in the user's home.

    Raises:
        BatchError: there is no such file, or this machine has no way to others.
    """

    name = ""
    """As the user types it."""
    command = ""
    """Submits a job."""
    own_python = sys.executable

    def __init__(
        self,
        *,
        profile: Path | None = None,
        python: str | None = None,
        listen: str | None = None,
        wait_s: float = WAIT_S,
        folder: Path | None = None,
    ) -> None:
        self._profile = ""
        if profile is not None:
            try:
                self._profile = profile.read_text(encoding="utf-8")
            except OSError as error:
                raise BatchError(f"{profile} cannot be read: {error.strerror}") from None
        self._python = python or self.own_python
        self._listen = listen
        self.start_limit_s = wait_s
        self._jobs: list[Submitted] = []
        # The machines of a job see the user's home, where a system has one for all of them, and not /tmp.
        self.parent = (folder or Path.home() / ".cache" / "deepseek_lab").absolute()

    @property
    def host(self) -> str:  # type: ignore[override]
        """Where the machines of a job reach this one."""
        if self._listen is None:
            try:
                self._listen = local_address(_OUTSIDE, 9)
            except OSError:
                raise BatchError(
                    "this machine has no way to others", hint="--listen, its address as the job sees it"
                ) from None
        return self._listen

    def script(self, num_ranks: int) -> str:
        """What would be submitted, for people to read; nothing is made."""
        folder = self.parent / "deepseek_lab-ranks-..."
        return self.render(self._job([f"rank-{rank}.0" for rank in range(num_ranks)], folder))

    def open(self, site: Site) -> None:
        """Look whether the batch system is there.

        Raises:
            BatchError: it is not.
        """
        self.needed()
        super().open(site)
        self._seconds = 0

    def needed(self) -> None:
        """Look whether the batch system is there.

        Raises:
            BatchError: it is not.
        """
        if shutil.which(self.command) is None:
            raise BatchError(
                f"{self.command} is not on this machine",
                hint=f"%deepseek ranks script --launcher {self.name} -n 16, to see what it would be given",
            )

    def launch(self, starts: Sequence[Start]) -> list[Process]:
        """Submit a job for all of them."""
        name = self.submit(self._job([start.identity for start in starts], self._site.folder))
        job = Submitted(name)
        job.processes += [self._keep(start, end=partial(self._give_up, job)) for start in starts]
        self._jobs.append(job)
        return list(job.processes)

    def _give_up(self, job: Submitted) -> None:
        """End a job that has not begun: no keeper can be asked to."""
        if not any(one.spoke for one in job.processes):
            self.cancel(job.name)
            for one in job.processes:
                one.end("was cancelled before it began")

    def waits_for(self) -> str:
        """State of the jobs that have not started."""
        waiting = [job for job in self._jobs if not any(one.spoke for one in job.processes)]
        for job in waiting:
            job.state = self.state(job.name) or job.state
        return "".join(f"; job {job.name} is {job.state or 'not known'}" for job in waiting)

    def close(self) -> None:
        """Cancel what has not ended."""
        super().close()
        for job in self._jobs:
            self.cancel(job.name)
        self._jobs.clear()

    def _job(self, identities: Sequence[str], folder: Path) -> Job:
        connection = folder / "connection.json"
        return Job(tuple(identities), connection, folder, Path.cwd(), self._python, self._profile)

    def _looked(self) -> None:
        self._seconds += 1
        if self._seconds % _ASK_S:
            return
        for job in list(self._jobs):
            left = [one for one in job.processes if one.alive]
            if not left:
                continue
            with contextlib.suppress(BatchError):  # asked again soon
                state = self.state(job.name)
                job.state = state or job.state
                job.num_missed = 0 if state else job.num_missed + 1
                if job.num_missed > 1:
                    words = self.output(job.name)
                    for one in left:
                        one.end(f"ended with its job {job.name}, last seen {job.state or 'nowhere'}", words)

    def output(self, name: str) -> str:
        """The end of what a job wrote."""
        for path in sorted(self._site.folder.glob("job*.log")):
            with contextlib.suppress(OSError):
                if path.name in {f"job-{name}.log", "job.log"}:
                    return tail(path.read_bytes())
        return ""

    def run(self, *words: str, given: str = "", fails: bool = True) -> str:
        """Run a command of the batch system; gives what it printed.

        Raises:
            BatchError: it failed, unless that is an answer too.
        """
        try:
            done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BatchError(f"{words[0]} does not answer: {error}") from None
        if done.returncode and fails:
            raise BatchError(f"{words[0]} refused: {(done.stderr or done.stdout).strip()}")
        return "" if done.returncode else done.stdout

    @abc.abstractmethod
    def render(self, job: Job) -> str:
        """What the batch system is given."""

    @abc.abstractmethod
    def submit(self, job: Job) -> str:
        """Submit a job; gives its name there."""

    @abc.abstractmethod
    def state(self, name: str) -> str:
        """What a job that has not ended is doing, in the system's words; empty when it has ended."""

    @abc.abstractmethod
    def cancel(self, name: str) -> None:
        """End a job, whether it has begun or not."""


def sorted_profile(text: str, mark: str) -> tuple[list[str], list[str]]:
    """Lines of a site's script: those for the batch system, which come first in a script, and those for the shell."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#!")]
    return [one for one in lines if one.startswith(mark)], [one for one in lines if not one.startswith(mark)]


def write_script(job: Job, text: str) -> Path:
    """Write a script that its owner alone may read."""
    path = job.folder / f"job-{job.identities[0]}.sh"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path
