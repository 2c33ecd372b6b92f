"""Predicted against measured steps on emulated links. ``python -m tests.benchmarks.scaling``.

Arguments: Mbit/s of the links, by default ``100 200 1000``. Two, three and four ranks, each in a network namespace, on
the cores of this machine; two models, DDP and the exchange in bfloat16 and int8. What a prediction knows is measured
without a step that communicates: the link between two ranks, small messages, means of whole buckets in one thread and
in two, arithmetic on one core, and steps under ``no_sync``. Prints the table; the exit status is the number of
predictions that are more than a tenth off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from deepseek_lab.distributed.scaling import record
from deepseek_lab.distributed.scaling.buckets import CAP_BYTES
from deepseek_lab.distributed.scaling.fit import fit
from deepseek_lab.distributed.scaling.network import Link, Network
from deepseek_lab.distributed.scaling.predict import Compute, Setting, predict
from deepseek_lab.distributed.scaling.step import Host
from deepseek_lab.distributed.scaling.ways import BY_NAME, Arithmetic, Stages
from tests.benchmarks.links import NoLinks, inside, links, shape

SIZES = (2, 3, 4)
WAYS = ("plain", "bf16", "int8")
ROUNDS = 5
NUM_VALUES = CAP_BYTES // 4
"""Of a whole bucket."""
BAR = 0.10


class Wide(nn.Module):
    """25.5 million parameters in layers of the sizes of a ResNet-50, and hardly any arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [
            2048 * 1000,
            *[512 * 512 * 9] * 3,
            *[1024 * 512] * 12,
            *[256 * 256 * 9] * 6,
            *[64 * 64 * 9] * 9,
        ]
        sizes.append(25_500_000 - sum(sizes))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(size) * 0.01) for size in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(((weight * x).sum() for weight in self.weights), torch.zeros(()))

    def inputs(self) -> torch.Tensor:
        return torch.tensor(1.0)


class Deep(nn.Module):
    """A transformer of 10.6 million parameters, whose backward pass takes as long as much of what is sent."""

    def __init__(self) -> None:
        super().__init__()
        layers = (
            nn.TransformerEncoderLayer(384, 6, 1536, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(6)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()

    def inputs(self) -> torch.Tensor:
        return torch.randn(6, 128, 384)


MODELS: dict[str, Callable[[], Any]] = {"wide": Wide, "deep": Deep}


def rank_main(rank: int, num_ranks: int, store: str) -> None:
    """One rank: does what it reads, a line of JSON a time, and writes what came of it."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from deepseek_lab.distributed.scaling import measure
    from deepseek_lab.distributed.worker import collectives
    from deepseek_lab.distributed.worker.exchange import Exchange

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, num_ranks), rank=rank, world_size=num_ranks)
    exchange = Exchange()
    groups = [dist.new_group() for _ in range(2)]
    made, inputs = {}, {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        # As trainings of a notebook are wrapped, whose modules need not use all that they have.
        plain, other = (DistributedDataParallel(make(), find_unused_parameters=True) for _ in range(2))
        exchange.install(other)
        inputs[name] = plain.module.inputs()
        made[name] = {"plain": plain, "bf16": other, "int8": other}

    def step(model: str, way: str) -> list[float]:
        net = made[model][way]
        exchange.way = way
        dist.barrier()
        began = time.perf_counter()
        net(inputs[model]).backward()
        taken = time.perf_counter() - began
        net.zero_grad(set_to_none=False)
        return [taken]

    def compute(model: str) -> dict[str, Any]:
        net = made[model]["plain"]
        parameters = list(net.module.parameters())
        dist.barrier()
        with net.no_sync():
            found = measure.measure_compute(
                lambda: net(inputs[model]), parameters, lambda: net.zero_grad(set_to_none=False), 1, 0
            )
        return dataclasses.asdict(found)

    def begin() -> None:
        collectives.try_again()
        for model in MODELS:
            for way in WAYS[1:]:
                step(model, way)

    def link() -> dict[str, Any]:
        found, core = measure.measure_link()
        return {"link": dataclasses.asdict(found), "core_s_per_byte": core}

    def means(way: str) -> list[float]:
        return list(measure.time_means(way, groups, NUM_VALUES))

    def arithmetic(size: int) -> dict[str, Any]:
        return dataclasses.asdict(measure.measure_arithmetic(size))

    known: dict[str, Callable[..., Any]] = {
        "begin": begin,
        "step": step,
        "compute": compute,
        "link": link,
        "means": means,
        "arithmetic": arithmetic,
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(known[name](*arguments)), flush=True)
    os._exit(0)


class Crew:
    """Ranks that are asked by their standard input: ``rank_main`` of a module."""

    def __init__(self, num_ranks: int, folder: str, module: str = "tests.benchmarks.scaling") -> None:
        self.num_ranks = num_ranks
        words = [sys.executable, "-W", "ignore", "-m", module, "rank"]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
        self._processes = [
            subprocess.Popen(
                inside(rank, [*words, str(rank), str(num_ranks), f"{folder}/store{num_ranks}"]),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(num_ranks)
        ]
        self._answers()

    def ask(self, *words: Any) -> list[Any]:
        """What each rank answers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()
        return self._answers()

    def _answers(self) -> list[Any]:
        found = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("a rank failed")
            found.append(json.loads(line))
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def crew(num_ranks: int, folder: str) -> Iterator[Crew]:
    made = Crew(num_ranks, folder)
    try:
        yield made
    finally:
        made.close()


def middle(answers: list[Any]) -> Any:
    """The median of numbers of equal structure."""
    first = answers[0]
    if isinstance(first, dict):
        return {key: middle([one[key] for one in answers]) for key in first}
    if isinstance(first, list | tuple):
        return [middle(list(one)) for one in zip(*answers, strict=True)]
    return statistics.median(answers)


def main(speeds: list[float]) -> int:
    """Measure and print; the number of predictions that are missed."""
    torch.set_num_threads(1)
    pairs: list[tuple[float, float]] = []
    print(
        f"{'ranks':5s} {'Mbit/s':>6s} {'model':6s} {'way':6s} {'predicted':>9s} {'measured':>9s} {'off':>7s}"
    )
    try:
        with tempfile.TemporaryDirectory() as folder, links(max(SIZES), None), crew(2, folder) as two:
            for num_ranks in SIZES:
                with contextlib.nullcontext(two) if num_ranks == 2 else crew(num_ranks, folder) as ranks:
                    shape(max(SIZES), None)
                    for model in MODELS:
                        for way in WAYS * 2:  # memory is there after the first
                            ranks.ask("step", model, way)
                    for mbit in speeds:
                        shape(max(SIZES), mbit)
                        one = measured(two, ranks)
                        pairs += report(num_ranks, mbit, one)
                        sys.stdout.flush()
    except NoLinks as why:
        print(f"links cannot be emulated here: {why}")
        return 0
    kept = record.keep(pairs)
    missed = sum(abs(made / got - 1) > BAR for made, got in pairs)
    print(
        f"{missed} of {len(pairs)} are more than {BAR:.0%} off; "
        f"{kept.median:.1%} in the median, {kept.worst:.1%} at most"
    )
    return missed


def measured(two: Crew, ranks: Crew) -> dict[str, Any]:
    """What a prediction may know, and what it is compared with, taking turns."""
    for each in {two, ranks}:
        each.ask("begin")
    link = middle(two.ask("link"))
    means = {way: middle(ranks.ask("means", way)) for way in WAYS[1:]}
    arithmetic, steps = [], []
    for _ in range(ROUNDS):
        arithmetic += ranks.ask("arithmetic", ranks.num_ranks)
        for model in MODELS:
            before = slowest(ranks, model)
            for way in WAYS:
                taken = statistics.mean(one[0] for one in ranks.ask("step", model, way))
                after = slowest(ranks, model)
                steps.append(
                    {"model": model, "way": way, "compute": middle([before, after]), "step_s": taken}
                )
                before = after
    return {"link": link, "means": means, "arithmetic": middle(arithmetic), "steps": steps}


def slowest(ranks: Crew, model: str) -> dict[str, Any]:
    """A step without communication, on the rank that the others wait for."""
    found: dict[str, Any] = max(ranks.ask("compute", model), key=total)
    return found


def total(compute: dict[str, Any]) -> float:
    return float(compute["forward_s"] + compute["backward_s"])


def report(num_ranks: int, mbit: float, one: dict[str, Any]) -> list[tuple[float, float]]:
    """Print a line for each step; pairs of predicted and measured seconds."""
    setting = setting_of(num_ranks, one)
    # Measured while the ranks shared the cores: a prediction takes the seconds of a core of their own.
    own = min(1.0, setting.host.num_cores / num_ranks)
    pairs = []
    for model, make in MODELS.items():
        with torch.device("meta"):
            shapes = [tuple(each.shape) for each in make().parameters()]
        for way in WAYS:
            place = setting
            if way in one["means"]:
                shares = fit(BY_NAME[way], NUM_VALUES, *one["means"][way], setting)
                place = dataclasses.replace(setting, shares=shares)
            turns = []
            for step in one["steps"]:
                if (step["model"], step["way"]) == (model, way):
                    made = step["compute"]
                    compute = Compute(
                        made["forward_s"] * own, made["backward_s"] * own, 0.0, tuple(made["ready"])
                    )
                    turns.append((predict(shapes, compute, place, BY_NAME[way]).step_s, step["step_s"]))
            # What other programs take changes from turn to turn: the turn whose ratio is in the middle counts.
            predicted, got = sorted(turns, key=lambda turn: turn[0] / turn[1])[len(turns) // 2]
            pairs.append((predicted, got))
            off = predicted / got - 1
            words = "" if abs(off) <= BAR else "  MISSED"
            print(
                f"{num_ranks:5d} {mbit:6.0f} {model:6s} {way:6s} {predicted:8.3f}s {got:8.3f}s {off:+7.1%}{words}"
            )
    return pairs


def setting_of(num_ranks: int, one: dict[str, Any]) -> Setting:
    link = Link(**one["link"]["link"])
    arithmetic = one["arithmetic"]
    num_cores = len(os.sched_getaffinity(0))
    own = min(1.0, num_cores / num_ranks)
    stages = {
        name: Stages(*(own * seconds for seconds in each.values()))
        for name, each in arithmetic["stages"].items()
    }
    return Setting(
        Network(num_ranks, 1, link, link),
        Host(num_cores, num_ranks, 1, one["link"]["core_s_per_byte"]),
        Arithmetic(stages, own * arithmetic["copy_s_per_byte"], own * arithmetic["s_per_flop"]),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank_main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    raise SystemExit(main([float(word) for word in sys.argv[1:]] or [100.0, 200.0, 1000.0]))
