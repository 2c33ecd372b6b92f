"""What a cell loses while the engine works, and how soon it gains: GPT-2, calls one after the other without a gap.

Each measurement runs in a fresh process (``--child``), first with an empty store, then with the one it left; what is
still undecided after the time of the measurement is decided without calls. A last process makes the same calls without
the engine (``--alone``): how often the machine itself makes a call slow.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SLOW = 1.5
"""A later call that takes more than so many times eager's is one too many."""


def child() -> None:
    """One kernel's life: eager calls, then calls of the optimised model until it is fast for a while."""
    import torch

    import deepseek_lab
    from tests.benchmarks.models import gpt2

    case = gpt2(128)
    with torch.no_grad():
        case.call()
        eager = []
        for _ in range(8):
            start = time.perf_counter()
            case.call()
            eager.append(time.perf_counter() - start)
        base = statistics.median(eager)
        fast = deepseek_lab.optimize(case.model, name="gpt2")
        opened = time.perf_counter()
        case.call()
        first = time.perf_counter() - opened
        calls, slow_at, accelerated_s, runner = [], [], None, None
        while time.perf_counter() - opened < float(sys.argv[2]):
            start = time.perf_counter()
            case.call()
            calls.append(time.perf_counter() - start)
            if calls[-1] > SLOW * base:
                slow_at.append((round(start - opened, 1), round(calls[-1] / base, 2)))
            (dispatcher,) = fast.run.dispatchers.values()
            runner = dispatcher.runners[0]
            if accelerated_s is None and any(lane.accelerated for lane in dispatcher.lanes.values()):
                accelerated_s = time.perf_counter() - opened
            if accelerated_s is not None and not fast.run.undecided:
                break
        deepseek_lab.wait(900)  # the next kernel is to find a verdict
    print(
        json.dumps(
            {
                "eager_ms": base * 1e3,
                "first_minus_eager_s": first - base,
                "slowest_later_call": max(calls) / base,
                "slow_calls": len(slow_at),
                "slow_at": slow_at[:20],
                "calls": len(calls),
                "p99": sorted(calls)[int(len(calls) * 0.99)] / base,
                "accelerated_s": accelerated_s,
                "chosen": fast.report.chosen,
                "installed": runner.installed.name if runner and runner.installed else "",
            }
        )
    )


def alone() -> None:
    """The same calls for as long, of the model as it is: what the machine does to them by itself."""
    import torch

    from tests.benchmarks.models import gpt2

    case = gpt2(128)
    calls = []
    with torch.no_grad():
        case.call()
        until = time.perf_counter() + float(sys.argv[2])
        while time.perf_counter() < until:
            start = time.perf_counter()
            case.call()
            calls.append(time.perf_counter() - start)
    base = statistics.median(calls[:8])
    slow = [call for call in calls if call > SLOW * base]
    print(json.dumps({"calls": len(calls), "slow_calls": len(slow), "slowest": max(calls) / base}))


def _places(figures: dict[str, Any]) -> str:
    """When the slow calls were made."""
    found = ", ".join(f"{ratio}x after {at_s} s" for at_s, ratio in figures["slow_at"])
    return f" ({found})" if found else ""


def main() -> None:
    """Print the figures cold and warm, and of the machine alone."""
    with tempfile.TemporaryDirectory() as cache:

        def measured(what: str, seconds: str) -> dict[str, Any]:
            environment = {**os.environ, "DEEPSEEK_LAB_CACHE_DIR": cache}
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.waiting", what, seconds]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return figures

        for label, seconds in (("cold", "240"), ("warm", "60")):
            figures = measured("--child", seconds)
            bar = "40 s" if label == "cold" else "4 s"
            reached = figures["accelerated_s"]
            print(
                f"{label}: first call eager + {figures['first_minus_eager_s']:.2f} s (bar 4 s); later calls: "
                f"slowest {figures['slowest_later_call']:.2f}x eager, 99th percentile {figures['p99']:.2f}x, "
                f"{figures['slow_calls']} of {figures['calls']} above {SLOW}x (bar: none){_places(figures)}; "
                f"accelerated after {reached if reached is None else round(reached, 1)}"
                f" s (bar {bar}) by {figures['installed'] or 'nothing'}",
                flush=True,
            )
        figures = measured("--alone", "240")
        print(
            f"without the engine: {figures['slow_calls']} of {figures['calls']} calls above {SLOW}x, slowest "
            f"{figures['slowest']:.2f}x"
        )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        {"--child": child, "--alone": alone}[sys.argv[1]]()
    else:
        main()
