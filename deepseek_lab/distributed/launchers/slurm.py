"""Ranks as tasks of a Slurm job; sbatch(1), srun(1), squeue(1)."""

from __future__ import annotations

import shlex

from deepseek_lab.distributed.launchers.batch import Batch, Job, sorted_profile, write_script


class Slurm(Batch):
    """Submits with ``sbatch``. The profile has ``#SBATCH`` lines and lines of the shell, such as ``module load``."""

    name = "slurm"
    command = "sbatch"

    def render(self, job: Job) -> str:
        """A script for sbatch."""
        options, lines = sorted_profile(job.profile, "#SBATCH")
        own = [
            "--job-name=deepseek-ranks",
            f"--ntasks={len(job.identities)}",
            f'--output="{job.folder}/job-%j.log"',
            f'--chdir="{job.directory}"',
            "--no-requeue",
        ]
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {one}" for one in own),
                *options,
                'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"',
                *lines,
                "# A rank that dies is replaced and does not take the others with it.",
                f"exec srun --kill-on-bad-exit=0 --wait=0 {shlex.join(job.keeper('SLURM_PROCID'))}",
                "",
            ]
        )

    def submit(self, job: Job) -> str:
        """Submit; gives the job's number."""
        path = write_script(job, self.render(job))
        return self.run("sbatch", "--parsable", str(path)).strip().partition(";")[0]

    def state(self, name: str) -> str:
        """Such as ``PENDING (Priority)``."""
        told = self.run("squeue", "--noheader", "--jobs", name, "--format", "%T (%r)", fails=False).strip()
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "COMPLETING")
        return "" if told.startswith(over) else told.removesuffix(" (None)")

    def cancel(self, name: str) -> None:
        """Cancel."""
        self.run("scancel", name, fails=False)
