"""How fast the main job makes real models, beside the best of its peers, all interleaved in one process.

``python -m tests.benchmarks.speed gpt2-128 [--precision bf16]`` prints one table; ``run.py`` calls it for all.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import torch

import deepseek_lab
from deepseek_lab.base.report import CandidateRow
from deepseek_lab.measure.race import Ratio, race
from tests.benchmarks import models, peers

CASES = {
    "gpt2-128": lambda: models.gpt2(128),
    "gpt2-1": lambda: models.gpt2(1),
    "bert-1": lambda: models.bert(1),
    "minilm": models.minilm,
}
BARS = {
    ("gpt2-128", None): 1.5,
    ("gpt2-1", None): 1.5,
    ("bert-1", None): 1.2,
    ("minilm", None): 1.3,
    ("gpt2-128", "bf16"): 2.6,
}


GENERATION_WAIT_S = 400
"""The last candidates for a graph whose sizes vary take many minutes more to build, and no user waits for them."""


def table(name: str, precision: str | None) -> tuple[dict[str, Ratio], str]:
    """Race one case; returns the ratios against float32 eager and what the engine chose."""
    case = CASES[name]()
    with torch.no_grad():
        fast = deepseek_lab.optimize(case.model, name=name, precision=precision)
        case.call()
        deepseek_lab.wait(900)
        calls = {"eager": case.eager, "deepseek_lab": case.call}
        with peers.without_engine(case.model):
            for peer, make in (peers.BF16 if precision == "bf16" else peers.FLOAT32).items():
                try:
                    calls[peer] = make(case)
                except Exception as error:  # a peer that fails is a row of the table, not our failure
                    print(f"  {peer}: failed, {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        return race(calls, "eager", budget_s=60.0, max_rounds=25), "\n".join(
            [fast.report.summary(), *map(candidate, fast.report.candidates)]
        )


def candidate(row: CandidateRow) -> str:
    """A row of the engine's own table."""
    built = f"built in {row.build_s:.1f} s" if row.build_s else ""
    times = f"{row.speedup:.2f}x in the builder" if row.speedup else ""
    return "    " + "  ".join(filter(None, (f"{row.name:16s}", row.status, times, built, row.reason)))


def generation() -> None:
    """SmolLM2-135M, greedy, 64 tokens: tokens and seconds of whole generations, in turn."""
    _, _, generate = (loaded := models.smollm2())
    model = loaded[0]
    with torch.no_grad():
        expected = generate()
        fast = deepseek_lab.optimize(model, name="smollm2")
        same = True
        for _ in range(2):
            same &= torch.equal(generate(), expected)
        if not deepseek_lab.wait(GENERATION_WAIT_S):
            fast.run.interrupt()  # what was won so far stays
        same &= torch.equal(generate(), expected)

        def plain() -> object:
            with peers.without_engine(model):
                return generate()

        rounds: dict[str, list[float]] = {"eager": [], "deepseek_lab": []}
        for number in range(8):
            order = [("eager", plain), ("deepseek_lab", generate)]
            for label, call in order if number % 2 == 0 else reversed(order):
                start = time.perf_counter()
                same &= torch.equal(call(), expected)  # type: ignore[arg-type]
                rounds[label].append(time.perf_counter() - start)
    ratio = Ratio.of(rounds["eager"], rounds["deepseek_lab"])
    print(f"\nsmollm2 generate 64 (bar 1.5x): tokens identical: {same}")
    print(f"  deepseek_lab {line(ratio)}  [{fast.report.summary()}]")


def line(ratio: Ratio) -> str:
    """A ratio in words."""
    low, high = ratio.ci95
    return f"{ratio.speedup:5.2f}x (95% {low:.2f}-{high:.2f})  {ratio.median_ms:8.2f} ms"


def main(arguments: list[str]) -> None:
    """Print one table."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=[*CASES, "generate"])
    parser.add_argument("--precision", choices=["bf16", "int8"])
    options = parser.parse_args(arguments)
    if options.case == "generate":
        generation()
        return
    ratios, summary = table(options.case, options.precision)
    bar = BARS.get((options.case, options.precision))
    print(f"\n{options.case} {options.precision or 'float32'}" + (f" (bar {bar}x)" if bar else ""))
    for label, ratio in ratios.items():
        print(f"  {label:22s} {line(ratio)}")
    best = max(r.speedup for label, r in ratios.items() if label != "deepseek_lab")
    print(f"  of the best peer: {ratios['deepseek_lab'].speedup / best:.3f}\n  {summary}")


if __name__ == "__main__":
    main(sys.argv[1:])
