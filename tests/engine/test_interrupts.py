"""SIGINT at every stage: it reaches the user, and what follows is right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("strangers")

_PRELUDE = """
import os, signal, torch, deepseek_lab
from deepseek_lab.base import events as ev
from deepseek_lab.engine import api
from deepseek_lab.engine.runs import workshop
from tests.engine.cases import Tower, equal, pristine, rows, uses_program

torch.set_num_threads(1)
torch.manual_seed(0)
module, x = Tower(), rows()
twin = pristine(module)
fast = deepseek_lab.optimize(module, backends=("planted-fast",))
hits = 0

def interrupt(): os.kill(os.getpid(), signal.SIGINT)

def interrupted(call):
    global hits
    try:
        call()
    except KeyboardInterrupt:
        hits += 1

def at(kind):
    def listener(event):
        if isinstance(event, kind):
            stop()
            interrupt()
    stop = fast.run.log.listen(listener)

def end():
    with torch.no_grad():
        fast(x)
        assert deepseek_lab.wait(100)
        for _ in range(3):
            fresh = rows()
            equal(fast(fresh), twin(fresh))
    assert hits >= 1, "the interrupt did not reach the user"
    print("right", fast.report.chosen, flush=True)
"""

STAGES = {
    "in the first call, once it was captured": """
with torch.no_grad():
    from deepseek_lab.engine.runtime import GraphRunner
    plain = GraphRunner.__call__
    to_come = [KeyboardInterrupt]
    def once(self, *arguments):  # Dynamo keeps the method that it was given
        if to_come:
            raise to_come.pop()
        return plain(self, *arguments)
    GraphRunner.__call__ = once
    interrupted(lambda: fast(x))
    GraphRunner.__call__ = plain
""",
    "while the first call is captured": """
with torch.no_grad():
    at(ev.GraphCaptured)
    interrupted(lambda: fast(x))
""",
    "in the user's own forward, while the builder works": """
original = Tower.forward
def forward(self, x):
    if not torch.compiler.is_compiling():
        raise KeyboardInterrupt
    return original(self, x)
with torch.no_grad():
    fast(x)
    Tower.forward = forward
    interrupted(lambda: fast(x))
    Tower.forward = original
""",
    "while the builder builds and nobody waits": """
with torch.no_grad():
    fast(x)
    def loop():
        at(ev.CandidateStarted)
        while True:
            fast(x)
    interrupted(loop)
""",
    "while waiting for the builder": """
with torch.no_grad():
    fast(x)
    at(ev.CandidateStarted)
    interrupted(lambda: deepseek_lab.wait(100))
""",
    "when the program is installed, after the build": """
with torch.no_grad():
    fast(x)
    at(ev.PlanChosen)
    interrupted(lambda: deepseek_lab.wait(100))
""",
    "in the first call, while it waits for the store": """
with torch.no_grad():
    at(ev.PlanChosen)
    interrupted(lambda: fast(x))
""",
    "while racing": """
with torch.no_grad():
    fast(x)
    dispatcher = next(iter(fast.run.dispatchers.values()))
    original, calls = dispatcher.eager, []
    def counting(*args, **kwargs):
        calls.append(None)
        lane = next(iter(dispatcher.lanes.values()))
        if lane.state == "racing" and len(lane.race.arms["eager"].blocks_s) == 2 and not hits:
            interrupt()
        return original(*args, **kwargs)
    dispatcher.eager = counting
    interrupted(lambda: deepseek_lab.wait(100))
    dispatcher.eager = original
""",
    "again and again in accelerated calls": """
with torch.no_grad():
    fast(x)
    assert deepseek_lab.wait(100)
    assert uses_program(fast)
    signal.signal(signal.SIGALRM, lambda *_: interrupt())
    for step in range(1, 40):
        def loop():
            # Repeated, for one that arrives while C code runs a callback of Python's is only printed.
            signal.setitimer(signal.ITIMER_REAL, 0.0007 * step, 0.2)
            try:
                while True:
                    equal(fast(x), twin(x))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        interrupted(loop)
    assert hits == 39
""",
}


@pytest.mark.parametrize("stage", STAGES)
def test_interrupt(stage: str, repository: Path, tmp_path: Path) -> None:
    path = os.pathsep.join((str(repository), os.environ["PYTHONPATH"]))
    environment = {**os.environ, "PYTHONPATH": path}
    if "build" in stage:  # the other stages find what was built, and come to their point sooner
        environment["DEEPSEEK_LAB_CACHE_DIR"] = str(tmp_path)
    environment["DEEPSEEK_LAB_STORE_WAIT_S"] = "30" if "store" in stage else "0"
    code = _PRELUDE + STAGES[stage] + "\nend()\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("right")
    assert "planted-fast" in done.stdout


def test_interrupt_of_the_terminal_does_not_reach_the_builder(repository: Path, tmp_path: Path) -> None:
    """Ctrl-C goes to every process of the terminal's group; the builder stands in one of its own."""
    from deepseek_lab.engine.runs import workshop

    builder = workshop().builder
    builder.start()
    pid = builder.pid
    assert pid is not None
    assert os.getpgid(pid) == pid != os.getpgid(0)
    assert builder.ask("close", budget_s=60.0) is None
    os.kill(pid, signal.SIGINT)
    assert builder.ask("close", budget_s=60.0) is None
    assert builder.pid == pid
