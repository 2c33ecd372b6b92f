"""How the CPU kernels compare with torch's own operators: `python -m tests.benchmarks.kernels [NAME ...]`.

Per kernel and shape: the median of torch time / kernel time over pairs of blocks that alternate on the live inputs, and
the 95 % interval of that median (order statistics). Shapes are those of GPT-2 (768) and SmolLM2 (576). A line says
"loses" or "no difference" as plainly as "wins".
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab import _kernels

BLOCK_S = 0.01
SIZES = ((768, 2304), (768, 3072), (3072, 768), (768, 50257), (576, 1536), (576, 49152))


@dataclass(frozen=True)
class Duel:
    """Two callables that compute the same: torch's operators, and ours."""

    kernel: str
    against: str
    shape: str
    baseline: Callable[[], Tensor]
    ours: Callable[[], Tensor]


@dataclass(frozen=True)
class Ratio:
    """baseline time / our time: the median of the pairs, and its 95 % interval."""

    median: float
    low: float
    high: float
    kernel_us: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 1.0:
            return "wins"
        return "loses" if self.high < 1.0 else "no difference"


def time_block(call: Callable[[], Tensor], num_calls: int) -> float:
    """Seconds per call, over one block."""
    start = time.perf_counter()
    for _ in range(num_calls):
        call()
    return (time.perf_counter() - start) / num_calls


def race(duel: Duel, num_pairs: int) -> Ratio:
    """Alternate blocks of about BLOCK_S; who goes first alternates too."""
    for call in (duel.baseline, duel.ours):
        time_block(call, 3)
    counts = [max(1, int(BLOCK_S / time_block(call, 3))) for call in (duel.baseline, duel.ours)]
    ratios, ours = [], []
    for pair in range(num_pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        seconds = [0.0, 0.0]
        for side in order:
            seconds[side] = time_block((duel.baseline, duel.ours)[side], counts[side])
        ratios.append(seconds[0] / seconds[1])
        ours.append(seconds[1])
    ratios.sort()
    # The interval of a median from ranks: n/2 -+ 1.96 sqrt(n)/2.
    spread = 0.98 * num_pairs**0.5
    low = max(0, int(num_pairs / 2 - spread))
    high = min(num_pairs - 1, int(num_pairs / 2 + spread))
    return Ratio(median(ratios), ratios[low], ratios[high], median(ours) * 1e6)


def composed_layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """LayerNorm as model code spells it out."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * gamma + beta


def composed_gelu(x: Tensor) -> Tensor:
    """The tanh-GELU as GPT-2's model code spells it out."""
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


def duels(ops: Any) -> Iterator[Duel]:
    """Every comparison, made when it is its turn; ops has the kernels as attributes."""
    for dtype in (torch.float32, torch.bfloat16):
        label = str(dtype).removeprefix("torch.")
        for k, n in SIZES:
            for m in (1, 4, 8):
                x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
                shape = f"{m}x{k} -> {n} {label}"
                yield Duel("linear", "F.linear", shape, lambda: F.linear(x, w), lambda: ops.linear(x, w))
                if k * n > 3e6:
                    continue
                t = w.t().contiguous().t()
                yield Duel(
                    "linear", "F.linear", f"{shape} Conv1D", lambda: F.linear(x, t), lambda: ops.linear(x, t)
                )
    for k, n in SIZES:
        for m in (1, 4, 8, 16, 32):
            x, w = torch.randn(m, k), torch.randn(n, k)
            wq, s = _kernels.quantize_weight(w)
            yield Duel(
                "int8_linear",
                "F.linear in float32",
                f"{m}x{k} -> {n} float32",
                lambda: F.linear(x, w),
                lambda: ops.int8_linear(x, wq, s),
            )
    for m in (1, 8, 128):
        for k, n in ((768, 2304), (576, 1536)):
            x, w, g, b = torch.randn(m, k), torch.randn(n, k), torch.randn(k), torch.randn(k)
            t, shape = w.t().contiguous().t(), f"{m}x{k} -> {n} float32"
            for weight, layout in ((w, ""), (t, " Conv1D")):
                yield Duel(
                    "layer_norm_linear",
                    "F.layer_norm, F.linear",
                    shape + layout,
                    lambda: F.linear(F.layer_norm(x, (k,), g, b), weight),
                    lambda: ops.layer_norm_linear(x, g, b, weight, None),
                )
        x, w, wide = torch.randn(m, 3072), torch.randn(768, 3072), torch.zeros(3072)
        t, shape = w.t().contiguous().t(), f"{m}x3072 -> 768 float32"
        for weight, layout in ((w, ""), (t, " Conv1D")):
            yield Duel(
                "gelu_linear",
                "bias, F.gelu tanh, F.linear",
                shape + layout,
                lambda: F.linear(F.gelu(x + wide, approximate="tanh"), weight),
                lambda: ops.gelu_linear(x, wide, weight, None, "tanh"),
            )
            yield Duel(
                "gelu_linear",
                "composed tanh-GELU, F.linear",
                shape + layout,
                lambda: F.linear(composed_gelu(x), weight),
                lambda: ops.gelu_linear(x, None, weight, None, "tanh"),
            )
        yield Duel(
            "gelu_linear",
            "bias, F.gelu erf, F.linear",
            shape,
            lambda: F.linear(F.gelu(x + wide), w),
            lambda: ops.gelu_linear(x, wide, w, None),
        )
    for m, k in ((1, 768), (128, 768), (2048, 768), (512, 4096)):
        for dtype in (torch.float32, torch.bfloat16):
            x, g, b = (torch.randn(*size, dtype=dtype) for size in ((m, k), (k,), (k,)))
            shape = f"{m}x{k} {str(dtype).removeprefix('torch.')}"
            yield Duel(
                "layer_norm",
                "composed",
                shape,
                lambda: composed_layer_norm(x, g, b),
                lambda: ops.layer_norm(x, g, b),
            )
            yield Duel(
                "layer_norm",
                "F.layer_norm",
                shape,
                lambda: F.layer_norm(x, (k,), g, b),
                lambda: ops.layer_norm(x, g, b),
            )


def warn_of_other_work(num_threads: int) -> None:
    """Threads that wait for a preempted one measure the scheduler: say so beforehand."""
    load, num_cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load + num_threads > num_cpus + 0.5:
        print(
            f"load average {load:.1f} on {num_cpus} processors: with {num_threads} threads, ratios of short calls "
            "measure the scheduler. Use fewer --threads, or an idle machine."
        )


def main() -> None:
    """Print the machine, then one line per comparison."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kernels", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="NAME", help="only these kernels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pairs", type=int, default=25, help="pairs of blocks per comparison")
    parser.add_argument("--isa", help="instruction set, instead of the best")
    parser.add_argument("--direct", action="store_true", help="call the kernels without PyTorch's dispatcher")
    options = parser.parse_args()
    status = _kernels.load()
    ops: Any = torch.ops.deepseek
    if options.direct:
        ops = SimpleNamespace(**{name: _kernels.direct(name) for name in _kernels.CONTRACTS})
    unknown = set(options.kernels) - set(_kernels.CONTRACTS)
    if unknown or not status.available:
        parser.error(f"no kernel {sorted(unknown)}" if unknown else status.reason)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    warn_of_other_work(options.threads)
    with torch.no_grad(), _kernels.force_isa(options.isa or status.isa):
        print(
            f"torch {torch.__version__}, {_kernels.load().isa}, {options.threads} threads, {options.pairs} pairs"
        )
        for duel in duels(ops):
            if options.kernels and duel.kernel not in options.kernels:
                continue
            ratio = race(duel, options.pairs)
            print(
                f"{duel.kernel:18} {duel.shape:32} {ratio.kernel_us:9.1f} us  {ratio.median:5.2f}x "
                f"(95% {ratio.low:.2f}-{ratio.high:.2f})  {ratio.verdict:13} against {duel.against}",
                flush=True,
            )


if __name__ == "__main__":
    main()
