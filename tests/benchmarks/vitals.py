"""What it costs a rank to say how it is doing: ``python -m tests.benchmarks.vitals``.

Bar: 1 % of a training step of 20 ms. Steps with and without alternate in one process, by time and by processor time,
which other processes change less; the processor time of all that is added to a step is measured by itself too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deepseek_lab.distributed.channel import Message
from deepseek_lab.distributed.worker.group import Group
from deepseek_lab.distributed.worker.vitals import Vitals
from deepseek_lab.measure.race import Ratio

ROUNDS = 40
STEP_S, CHUNK_S, BEAT_S = 0.020, 0.5, 0.5
NUM_CONNECTIONS = 14
"""Of a rank of eight."""


@contextlib.contextmanager
def connections() -> Iterator[Group]:
    """A group with connections over which something has gone."""
    server = socket.create_server(("127.0.0.1", 0))
    opened = [socket.create_connection(server.getsockname()) for _ in range(NUM_CONNECTIONS)]
    for one in opened:
        one.sendall(b"x" * 1000)
    group = Group(lambda message: None)
    group._opened = {one.fileno(): _inode(one) for one in opened}
    yield group
    for one in (*opened, server):
        one.close()


def _inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def beat(vitals: Vitals) -> None:
    """What the listening thread does twice a second."""
    found = vitals.now()
    if found is not None:
        Message("vitals", {"request": 1, **found}).frames()


@contextlib.contextmanager
def listening(tick: Callable[[], None]) -> Iterator[None]:
    """A rank's listening thread, which is there with and without."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(BEAT_S):
            tick()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


def step_of(seconds: float) -> Callable[[Vitals | None], None]:
    """A training step that takes about so long."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def make(size: int) -> Callable[[Vitals | None], None]:
        x, y = torch.randn(size, 256), torch.randint(10, (size,))

        def step(vitals: Vitals | None = None) -> None:
            optimizer.zero_grad()
            with vitals.waits if vitals is not None else contextlib.nullcontext():
                pass  # as around what DDP does before the forward pass
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    size = 64
    while _median_s(make(size)) < seconds:
        size = int(1.3 * size)
    return make(size)


def _median_s(step: Callable[[Vitals | None], None]) -> float:
    times = []
    for _ in range(7):
        began_s = time.perf_counter()
        step(None)
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def added_s(group: Group) -> float:
    """Processor seconds that are added to a step of 20 ms."""
    count = 2000
    loss = torch.ones((), requires_grad=True)
    plain = _processor_s(lambda: torch.autograd.backward(loss), count)
    with Vitals("cpu", lambda: group.num_bytes) as vitals, vitals.counting(lambda: (1, 1)):

        def forward() -> None:
            with vitals.waits:
                pass

        backward_s = _processor_s(lambda: torch.autograd.backward(loss), count) - plain
        forward_s = _processor_s(forward, count)
        beat_s = _processor_s(lambda: beat(vitals), count)
    total_s = backward_s + forward_s + beat_s * STEP_S / BEAT_S
    print(
        f"added: {1e6 * backward_s:.1f} us a backward pass, {1e6 * forward_s:.1f} us a forward pass, "
        f"{1e6 * beat_s:.0f} us twice a second: {total_s / STEP_S:.2%} of a step of 20 ms"
    )
    return total_s


def _processor_s(action: Callable[[], None], count: int) -> float:
    began_s = time.thread_time()
    for _ in range(count):
        action()
    return (time.thread_time() - began_s) / count


def main() -> int:
    """Print both; 1 where the bar was missed."""
    step = step_of(STEP_S)
    num_steps = max(1, int(CHUNK_S / _median_s(step)))
    plain: list[tuple[float, float]] = []
    watched: list[tuple[float, float]] = []

    def chunk(vitals: Vitals | None) -> tuple[float, float]:
        began_s, used_s = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            step(vitals)
        return time.perf_counter() - began_s, time.process_time() - used_s

    with connections() as group:
        for number in range(ROUNDS):
            for watches in (False, True) if number % 2 else (True, False):
                if not watches:
                    with listening(lambda: None):
                        plain.append(chunk(None))
                    continue
                with (
                    Vitals("cpu", lambda: group.num_bytes) as vitals,
                    vitals.counting(lambda: (1, 1)),
                    listening(functools.partial(beat, vitals)),
                ):
                    watched.append(chunk(vitals))
        step_s = statistics.median(one for one, _ in plain) / num_steps
        for place, what in enumerate(("time", "processor time")):
            ratio = Ratio.of([one[place] for one in watched], [one[place] for one in plain])
            low, high = ratio.ci95
            print(
                f"steps of {1e3 * step_s:.1f} ms take {ratio.speedup - 1:+.2%} {what} "
                f"(95% {low - 1:+.2%} to {high - 1:+.2%})"
            )
        return int(added_s(group) > 0.01 * STEP_S)


if __name__ == "__main__":
    sys.exit(main())
