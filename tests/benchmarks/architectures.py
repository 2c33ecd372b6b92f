"""24 architectures: right, never slower than eager, and how much faster; torch.compile's figures beside.

``python -m tests.benchmarks.architectures [NAME ...]``
"""

from __future__ import annotations

import gc
import math
import sys
import warnings

import torch

import deepseek_lab
from deepseek_lab.engine.verify import relative_error
from deepseek_lab.measure.race import race
from tests.architectures import ARCHITECTURES, outputs
from tests.benchmarks.speed import line


def main(names: list[str]) -> None:
    """Print a row for each architecture and the geometric means."""
    warnings.filterwarnings("ignore")
    ours, theirs, wrong = [], [], []
    for architecture in ARCHITECTURES:
        if names and architecture.name not in names:
            continue
        model, inputs = architecture.build(), architecture.inputs(0)
        with torch.no_grad():
            expected = list(outputs(model(**inputs)).values())
            fast = deepseek_lab.optimize(model, name=architecture.name)
            model(**inputs)
            deepseek_lab.wait(900)
            found = list(outputs(model(**inputs)).values())
            error = max(relative_error(a, b) for a, b in zip(found, expected, strict=True))
            if not error < 1e-4:
                wrong.append(architecture.name)
            compiled = torch.compile(model._call_impl)
            calls = {
                "eager": lambda m=model, i=inputs: m._call_impl(**i),
                "deepseek_lab": lambda m=model, i=inputs: m(**i),
                "torch.compile": lambda c=compiled, i=inputs: c(**i),
            }
            try:
                compiled(**inputs)
            except Exception as error_of_peer:
                print(f"  torch.compile failed: {type(error_of_peer).__name__}")
                del calls["torch.compile"]
            ratios = race(calls, "eager", budget_s=8.0, max_rounds=21)
        ours.append(ratios["deepseek_lab"].speedup)
        peer = ratios.get("torch.compile")
        theirs.append(peer.speedup if peer else 1.0)
        print(
            f"{architecture.name:16s} {architecture.family:18s} {line(ratios['deepseek_lab'])}  "
            f"{fast.report.chosen:16s} max rel {error:.0e}   torch.compile {theirs[-1]:.2f}x",
            flush=True,
        )
        if fast.report.chosen == "eager":
            print(f"    {fast.report.summary()}", flush=True)
        fast.restore()
        del model, compiled, calls, fast
        deepseek_lab.engine.api.free()
        torch._dynamo.reset()
        gc.collect()
    if ours:
        print(f"\n{len(ours)} architectures, wrong: {wrong or 'none'}, slowest {min(ours):.2f}x (bar 0.97)")
        print(f"geometric mean {mean(ours):.2f}x (bar 1.35), torch.compile {mean(theirs):.2f}x")


def mean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    main(sys.argv[1:])
