"""Replays stored calls and checks results and speed: ``python test_export.py``, or pytest.

Each call's outputs are compared with those of eager mode when this folder was written. Then the call is
timed in turn with the same graph in plain PyTorch, and the ratio of the two times is printed.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
NUM_ROUNDS = 7
BLOCK_S = 0.03
KEPT = 0.8
"""Share of the ratio measured when this folder was written, or of 1.0, that must be reached here."""


def part(name: str) -> Any:
    """One file of this folder, as part of the package that the folder is, whatever its name."""
    package = "exported_package"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, HERE / "__init__.py", submodule_search_locations=[str(HERE)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[package] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"{package}.{name}")


def say(text: str) -> None:
    """One line for whoever runs this."""
    sys.stdout.write(text + "\n")


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; inf for another shape, dtype or non-finite pattern."""
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return math.inf
    if not expected.numel():
        return 0.0
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        return 0.0 if torch.equal(value, expected) else math.inf
    kind = torch.complex128 if expected.dtype.is_complex else torch.float64
    wide, against = value.to(kind), expected.to(kind)
    finite = torch.isfinite(against)
    if not torch.equal(torch.isfinite(wide), finite):
        return math.inf
    if not torch.equal(wide[~finite].nan_to_num(), against[~finite].nan_to_num()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    scale = float(against[finite].abs().max())
    return float((wide[finite] - against[finite]).abs().max()) / (scale or 1.0)


def time_block(call: Callable[[], object]) -> float:
    """Seconds of one call: a low quantile of a block's calls, the first one dropped."""
    call()
    times: list[float] = []
    until = time.perf_counter() + BLOCK_S
    while not times or (time.perf_counter() < until and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]


def ratio(eager: Callable[[], object], fast: Callable[[], object]) -> float:
    """Eager time over fast time: the median over rounds that time both, in turns."""
    found = []
    for number in range(NUM_ROUNDS):
        first, second = (eager, fast) if number % 2 == 0 else (fast, eager)
        one, other = time_block(first), time_block(second)
        found.append(one / other if number % 2 == 0 else other / one)
    return statistics.median(found)


def stored() -> dict[str, Any]:
    """The calls to replay, by the file that answers them."""
    found: dict[str, Any] = torch.load(HERE / "samples.pt", weights_only=True)
    torch.set_num_threads(found["num_threads"])
    calls: dict[str, Any] = found["calls"]
    return calls


def outputs_of(call: Callable[..., Any], sample: dict[str, Any]) -> list[Tensor]:
    """The tensors that a call returns."""
    with torch.no_grad():
        found: list[Tensor] = part("calls").tensors(call(*sample["args"], **sample["kwargs"]))
    return found


def test_outputs() -> None:
    """Every stored call returns what eager mode returned, twice."""
    for name, samples in stored().items():
        call = part(name).load()
        for sample in samples:
            for _ in range(2):
                outputs = outputs_of(call, sample)
                assert len(outputs) == len(sample["expected"]), f"{name}: {len(outputs)} outputs"
                errors = [relative_error(a, b) for a, b in zip(outputs, sample["expected"], strict=True)]
                worst = max(errors, default=0.0)
                assert worst <= sample["tolerance"], (
                    f"{name}: max rel {worst:.1e} > {sample['tolerance']:.1e}"
                )
            say(f"{name}  {sample['runs']}  max rel {worst:.1e} (allowed {sample['tolerance']:.1e})")


def test_ratio() -> None:
    """Where a program took eager mode's place, it is about as much faster as it was."""
    for name, samples in stored().items():
        call = part(name).load()
        for sample in samples:
            if sample["plain"] is None or not (HERE / sample["plain"]).exists():
                say(f"{name}  {sample['runs']}  not timed: there is no plain PyTorch beside it")
                continue
            plain = torch.export.load(HERE / sample["plain"]).module()

            def eager(plain: Any = plain, sample: dict[str, Any] = sample) -> object:
                with torch.no_grad():
                    return plain(*sample["inputs"])

            def fast(call: Any = call, sample: dict[str, Any] = sample) -> object:
                return call(*sample["args"], **sample["kwargs"])

            found = ratio(eager, fast)
            was = sample["speedup"]
            say(f"{name}  {sample['runs']}  eager/fast {found:.2f}x" + (f" (was {was:.2f}x)" if was else ""))
            if was:
                assert found >= KEPT * min(was, 1.0), f"{name}: {found:.2f}x of eager, was {was:.2f}x"


if __name__ == "__main__":
    test_outputs()
    test_ratio()
