"""Ways to start the processes of ranks. Each file beside ``launcher.py`` is one way to meet its contract."""

from deepseek_lab.distributed.launchers.batch import Batch
from deepseek_lab.distributed.launchers.kubernetes import Kubernetes
from deepseek_lab.distributed.launchers.launcher import Launcher, Process, Site, Start
from deepseek_lab.distributed.launchers.local import Local
from deepseek_lab.distributed.launchers.pbs import Pbs
from deepseek_lab.distributed.launchers.slurm import Slurm
from deepseek_lab.distributed.launchers.ssh import Ssh

__all__ = ["Batch", "Kubernetes", "Launcher", "Local", "Pbs", "Process", "Site", "Slurm", "Ssh", "Start"]
