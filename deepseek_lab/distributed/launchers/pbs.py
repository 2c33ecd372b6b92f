"""Ranks as tasks of a PBS job; qsub(1B), pbsdsh(1B), qstat(1B)."""

from __future__ import annotations

import re
import shlex

from deepseek_lab.distributed.launchers.batch import Batch, Job, sorted_profile, write_script


class Pbs(Batch):
    """Submits with ``qsub``. The profile has ``#PBS`` lines and lines of the shell, such as ``module load``.

    There is a rank for each line of the node file; a profile's own ``-l select`` must give as many.
    """

    name = "pbs"
    command = "qsub"

    def render(self, job: Job) -> str:
        """A script for qsub."""
        options, lines = sorted_profile(job.profile, "#PBS")
        own = ["-N deepseek-ranks", "-j oe", f"-o {job.folder}/job.log", "-r n", "-W umask=077"]
        if not any(re.search(r"-l\s*(select|nodes)=", one) for one in options):
            own.append(f"-l select={len(job.identities)}:ncpus=1")
        # pbsdsh starts programs with a short environment of its own, so each task repeats the lines of the profile.
        inner = "\n".join(
            [f"cd {shlex.quote(str(job.directory))}", *lines, f"exec {shlex.join(job.keeper('PLACE'))}"]
        )
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#PBS {one}" for one in own),
                *options,
                "place=0",
                f"while [ $place -lt {len(job.identities)} ]; do",
                f'    pbsdsh -n $place -- /bin/bash -lc "PLACE=$place; export PLACE; "{shlex.quote(inner)} &',
                "    place=$((place + 1))",
                "done",
                "wait",
                "",
            ]
        )

    def submit(self, job: Job) -> str:
        """Submit; gives the job's name."""
        return self.run("qsub", str(write_script(job, self.render(job)))).strip()

    def state(self, name: str) -> str:
        """The letter of qstat, such as ``Q``, in words where it is a common one."""
        lines = self.run("qstat", name, fails=False).strip().splitlines()
        letter = lines[-1].split()[-2] if lines else ""
        words = {"Q": "queued", "R": "running", "H": "held", "W": "waiting", "S": "suspended"}
        return "" if letter in {"C", "E", "F", "X"} else words.get(letter, letter)

    def cancel(self, name: str) -> None:
        """Cancel."""
        self.run("qdel", name, fails=False)
