"""Ways to start the processes of ranks. Each file beside ``launcher.py`` is one way to meet its contract."""

from deepseek_lab.distributed.launchers.launcher import Launcher, Process, Site, Start
from deepseek_lab.distributed.launchers.local import Local
from deepseek_lab.distributed.launchers.ssh import Ssh

__all__ = ["Launcher", "Local", "Process", "Site", "Ssh", "Start"]
