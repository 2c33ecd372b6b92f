"""What the notebook room costs, measured in a real kernel: ``python tests/benchmarks/notebook_cost.py``.

Bars: loading under 100 ms without torch, a region around a trivial cell under 1 ms.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "notebook"))

from kernel import Kernel

LOAD = """
import sys, time
begun = time.perf_counter()
get_ipython().run_line_magic("load_ext", "deepseek_lab")
took_ms = (time.perf_counter() - begun) * 1e3
print(f"%load_ext deepseek_lab        {took_ms:8.2f} ms, torch imported: {'torch' in sys.modules}")
"""

CELLS = """
import statistics, time
shell = get_ipython()
def median_ms(text, number=300):
    times = []
    for index in range(number + 20):
        begun = time.perf_counter()
        shell.run_cell(text, silent=False, store_history=False)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[20:]) * 1e3
def compare(name, header, rounds=5):
    gains = [median_ms(header + "x = 1") - median_ms("x = 1") for _ in range(rounds)]
    print(f"{name:30}{statistics.median(gains):8.3f} ms (rounds {min(gains):.3f} to {max(gains):.3f})")
"""

TRANSFORM = """
from deepseek_lab.notebook.header import HeaderTransformer
lines = ["x = 1\\n"] * 200
begun = time.perf_counter()
for _ in range(20000): HeaderTransformer()(lines)
print(f"transformer, 200-line cell    {(time.perf_counter() - begun) / 20000 * 1e3:8.5f} ms")
"""


def _show(text: str) -> None:
    """The figures, without what the measured regions said of themselves."""
    print(
        "".join(line for line in text.splitlines(keepends=True) if not line.startswith("optimize ")), end=""
    )


def main() -> None:
    kernel = Kernel()
    try:
        for code in (
            LOAD,
            CELLS,
            TRANSFORM,
            "compare('region, no torch, quiet', '%%deepseek optimize -q\\n')",
            "compare('region, no torch', '%%deepseek optimize\\n')",
            "import recording_engine; api = recording_engine.install()",
            "compare('region, quiet', '%%deepseek optimize -q\\n')",
            "compare('region', '%%deepseek optimize\\n')",
        ):
            _show(kernel.ok(code, timeout_s=300).stdout)
    finally:
        kernel.stop()
    kernel = Kernel()
    try:
        for code in (
            "import torch",
            LOAD.replace("%load_ext deepseek_lab  ", "%load_ext, torch imported"),
            CELLS,
            "compare('region, real engine, quiet', '%%deepseek optimize -q\\n')",
            "compare('region, real engine', '%%deepseek optimize\\n')",
        ):
            _show(kernel.ok(code, timeout_s=300).stdout)
    finally:
        kernel.stop()


if __name__ == "__main__":
    main()
