"""What the background thread must not do to the user's own threads."""

from __future__ import annotations

import os
import threading

import torch

from deepseek_lab.engine.workshop import _stand_back


def test_background_thread_starts_no_openmp_team() -> None:
    """A second team in the process puts the user's own to sleep at every barrier."""
    ours = torch.get_num_threads()
    found: list[int] = []

    def work() -> None:
        _stand_back()
        before = len(os.listdir("/proc/self/task"))
        for _ in range(3):
            torch.cat([torch.ones(1 << 20), torch.ones(1 << 20)]).sum()
            torch.ones(512, 512) @ torch.ones(512, 512)
        found.extend((torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before))

    torch.ones(1 << 20).sum()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1, 0], "threads that torch would use there, and that it started"
    assert torch.get_num_threads() == ours
