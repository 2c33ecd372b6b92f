"""Everything that the README claims, table by table, each in a process of its own. ``make bench``."""

from __future__ import annotations

import subprocess
import sys

TABLES = (
    ("speed", "gpt2-128"),
    ("speed", "gpt2-128", "--precision", "bf16"),
    ("speed", "gpt2-1"),
    ("speed", "bert-1"),
    ("speed", "minilm"),
    ("speed", "generate"),
    ("architectures",),
    ("waiting",),
    ("notebook_cost",),
    ("kernels",),
    ("profile",),
    ("timeline_cost",),
    ("training", "resnet50"),
    ("training", "float32"),
    ("training", "convergence"),
    ("accumulation",),
    ("memory",),
    ("memory_devices",),
    ("inspector",),
    ("ranks",),
    ("ranks_beside",),
    ("communication",),
    ("time_to_loss",),
    ("convergence_lossy", "3500", "int8"),
    ("convergence_lossy", "256"),
    ("convergence_lossy", "fashion"),
    ("scaling",),
    ("scaling_v100",),
    ("search", "overhead"),
    ("search", "workers"),
    ("search", "compute", "5", "digits MLP"),
)


def main(wanted: list[str]) -> int:
    """Run the tables whose module is named, or all; the number that failed."""
    failed = 0
    for module, *arguments in TABLES:
        if wanted and module not in wanted:
            continue
        command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", *arguments]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
