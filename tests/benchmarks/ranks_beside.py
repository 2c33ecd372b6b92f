"""Ranks beside those of other tools: ``python -m tests.benchmarks.ranks_beside [ROUNDS]``.

From nothing to the first collective of 4 ranks on this machine, and what a cell costs that computes nothing, as
somebody types it into IPython: with ours, with ipyparallel and ``torch.distributed`` by hand, and with nbdistributed,
each in a process of its own, in turns (3 rounds). A tool that is not installed is left out by name::

    pip install --no-deps --target FOLDER ipyparallel decorator nbdistributed
    PYTHONPATH=FOLDER python -m tests.benchmarks.ranks_beside
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout

import psutil

NUM_RANKS = 4
NUM_CELLS = 40
MOST_TRIES = 3
REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(2) * rank\ndist.all_reduce(x)\nprint(x[0].item())"
SUM = f"{float(sum(range(NUM_RANKS)))}"
MEET = """import torch.distributed as dist
dist.init_process_group("gloo", init_method="file://{file}", rank=rank, world_size={num})"""


@dataclasses.dataclass(frozen=True)
class Tool:
    """How somebody types it."""

    package: str
    start: tuple[str, ...]
    """Cells until ranks are there and have met."""
    magic: str
    """The first line of a cell that all ranks run."""
    stop: str


def tools(file: str) -> tuple[Tool, ...]:
    """The tools; ranks of the one that does not do it meet by a file."""
    return (
        Tool(
            "deepseek_lab",
            ("%load_ext deepseek_lab", f"%deepseek ranks start -n {NUM_RANKS}"),
            "%%deepseek ranks",
            "%deepseek ranks stop",
        ),
        Tool(
            "ipyparallel",
            (
                (
                    f"import ipyparallel as ipp\ncluster = ipp.Cluster(n={NUM_RANKS}, log_level=40)\n"
                    "client = cluster.start_and_connect_sync(activate=True)\n"
                    "_ = client[:].scatter('rank', client.ids, flatten=True).get()"
                ),
                "%%px\n" + MEET.format(file=file, num=NUM_RANKS),
            ),
            "%%px",
            "client.shutdown(hub=True)",
        ),
        Tool(
            "nbdistributed",
            ("%load_ext nbdistributed", f"%dist_init -n {NUM_RANKS}"),
            "%%distributed",
            "%dist_shutdown",
        ),
    )


def alone(package: str) -> None:
    """One tool in this process; prints seconds to the first collective and milliseconds a cell."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    with tempfile.TemporaryDirectory() as folder:
        tool = next(one for one in tools(f"{folder}/met") if one.package == package)
        said = io.StringIO()

        def cell(source: str) -> None:
            shell.run_cell(source).raise_error()

        with redirect_stdout(said):
            began_s = time.perf_counter()
            for source in tool.start:
                cell(source)
            for _ in range(
                MOST_TRIES
            ):  # one does not wait for its ranks: its first cell may say that nobody answered
                cell(f"{tool.magic}\n{REDUCE}")
                if SUM in said.getvalue():
                    break
            first_s = time.perf_counter() - began_s
            times = []
            for _ in range(NUM_CELLS):
                began_s = time.perf_counter()
                cell(f"{tool.magic}\n1 + 1")
                times.append(time.perf_counter() - began_s)
            cell(tool.stop)
    found = {"first_s": first_s, "cell_ms": 1e3 * statistics.median(times), "right": SUM in said.getvalue()}
    print(json.dumps(found), file=sys.stderr)
    os._exit(0)  # threads of the tools hold the process


def _ran(command: list[str]) -> tuple[list[str], int]:
    """Lines of standard error, and how many processes were left two seconds after; they are ended."""
    with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=words, stderr=errors, start_new_session=True)
        process.wait(300)
        time.sleep(2)
        left = [one for one in psutil.process_iter() if _session(one.pid) == process.pid]
        for one in left:
            one.kill()
        errors.seek(0)
        return errors.read().decode(errors="replace").strip().splitlines(), len(left)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def main() -> int:
    """All of them, in turns."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    names = [one.package for one in tools("")]
    for name in names:
        if importlib.util.find_spec(name) is None:
            print(f"{name}: left out, it is not installed")
    found: dict[str, list[dict[str, float]]] = {one: [] for one in names if importlib.util.find_spec(one)}
    for _ in range(rounds):
        for name in list(found):
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.ranks_beside", "--alone", name]
            lines, left = _ran(command)
            try:
                found[name].append({**json.loads(lines[-1]), "left": left})
            except (IndexError, ValueError):
                print(f"{name}: failed, {lines[-1:]}")
                del found[name]
    print(
        f"| {NUM_RANKS} ranks | first collective, s | a cell, ms | processes left |\n| --- | --- | --- | --- |"
    )
    for name, rows in found.items():
        firsts = ", ".join(f"{one['first_s']:.1f}" for one in rows)
        cells = ", ".join(f"{one['cell_ms']:.1f}" for one in rows)
        wrong = "" if all(one["right"] for one in rows) else " (its sum was not shown)"
        left = ", ".join(f"{one['left']}" for one in rows)
        print(f"| {name}{wrong} | {firsts} | {cells} | {left} |")
    first = statistics.median(one["first_s"] for one in found["deepseek_lab"])
    cell_ms = statistics.median(one["cell_ms"] for one in found["deepseek_lab"])
    held = first <= 12 and cell_ms <= 30
    print(f"ours: {first:.1f} s (bar 12), {cell_ms:.1f} ms (bar 30): {'HELD' if held else 'MISSED'}")
    return int(not held)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2])
    sys.exit(main())
