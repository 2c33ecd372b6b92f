"""A process that measures, one job after the other, on what the notebook had when it began."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from multiprocessing.connection import Connection

from deepseek_lab.hpo.limits.job import Job, Outcome, Seen

_PARENT_S = 0.5
_TELL_S = 0.1


def main(descriptor: int) -> None:
    """Serve until nobody is there who asks."""
    faulthandler.enable()
    connection = Connection(descriptor)
    setup = connection.recv()
    sys.path[:] = setup["path"]
    threading.Thread(target=_follow, args=(setup["parent"],), daemon=True).start()
    import torch

    from deepseek_lab.hpo.limits.stand import Stand
    from deepseek_lab.processes.sealed import Sealed

    task = setup["task"]
    torch.set_num_threads(task.threads)
    torch.set_default_dtype(getattr(torch, task.dtype))
    torch.set_float32_matmul_precision(task.matmul)
    stand = Stand(task, Sealed.attach(setup["sealed"], setup["layout"]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            connection.send(("ready", stand.held()))
        except Exception as error:  # what the notebook defined cannot be made here
            connection.send(("unmade", f"{type(error).__name__}: {error}"))
        while True:
            connection.send(("done", _run(stand, connection, connection.recv())))
    os._exit(0)  # threads that the cell left behind do not hold the process


def _run(stand: object, connection: Connection, job: Job) -> Outcome:
    told_s = 0.0

    def told(num: int) -> None:
        nonlocal told_s
        now = time.monotonic()
        if now - told_s > _TELL_S:
            told_s = now
            connection.send(("turns", num))

    def seen(what: Seen) -> None:
        connection.send(("seen", what))

    from deepseek_lab.hpo.limits.stand import Stand

    assert isinstance(stand, Stand)
    try:
        return stand.run(job, seen, told)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return Outcome(
            "failed", error=f"{type(error).__name__}: {error}", text=f"{type(error).__name__}: {error}"
        )


def _follow(parent: int) -> None:
    """End with the process that asks, whatever the cell is doing."""
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
