from __future__ import annotations

from tests.distributed.launchers.sshd import sshd

__all__ = ["sshd"]
