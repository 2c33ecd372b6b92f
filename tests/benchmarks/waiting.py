"""What a cell loses while the engine works, and how soon it gains: GPT-2, calls one after the other without a gap.

Each measurement runs in a fresh process (``--child``), first with an empty store, then with the one it left; what is
still undecided after the time of the measurement is decided without calls.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


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
        calls, accelerated_s, runner = [], None, None
        while time.perf_counter() - opened < float(sys.argv[2]):
            start = time.perf_counter()
            case.call()
            calls.append(time.perf_counter() - start)
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
                "slow_calls": sum(call > 1.5 * base for call in calls),
                "calls": len(calls),
                "p99": sorted(calls)[int(len(calls) * 0.99)] / base,
                "accelerated_s": accelerated_s,
                "chosen": fast.report.chosen,
                "installed": runner.installed.name if runner and runner.installed else "",
            }
        )
    )


def main() -> None:
    """Print the figures cold and warm."""
    with tempfile.TemporaryDirectory() as cache:
        for label, seconds in (("cold", "240"), ("warm", "60")):
            environment = {**os.environ, "DEEPSEEK_LAB_CACHE_DIR": cache}
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.waiting", "--child", seconds]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            bar = "40 s" if label == "cold" else "4 s"
            reached = figures["accelerated_s"]
            print(
                f"{label}: first call eager + {figures['first_minus_eager_s']:.2f} s (bar 4 s); later calls: "
                f"slowest {figures['slowest_later_call']:.2f}x eager, 99th percentile {figures['p99']:.2f}x, "
                f"{figures['slow_calls']} of {figures['calls']} above 1.5x (bar: none); accelerated after "
                f"{reached if reached is None else round(reached, 1)}"
                f" s (bar {bar}) by {figures['installed'] or 'nothing'}",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        sys.argv = [sys.argv[0], *sys.argv[1:]]
        child()
    else:
        main()
