"""What a search costs and brings: ``python -m tests.benchmarks.search PART``.

``gain [SEEDS] [IMAGES]``: Fashion-MNIST, a CNN with 8 dimensions: what a search finds beside hand-set defaults at the
same training for each model (4 epochs of 10,000 images), 3 seeds, on the test images that no search sees. Bar: +2.7
points, or a quarter of the error.
``compute [SEEDS] [TASK]``: whole trials' worth of training until a search reaches what Optuna's default sampler has
after 60 whole trials, 5 seeds, and the same for Optuna's TPE with Hyperband. Bars: 0.4 of the one, 0.8 of the other
(medians).
``tasks [SEEDS]``: six tasks, six methods with the same training each: mean ranks by what the best found gives on data
that no search sees.
``overhead``: what a trial costs beyond the cell's own code, here and in a worker, up to 5,000 trials.
``workers``: trials in a minute with two workers and with one.
``kills [N]``: kernel, worker or both killed at N random moments (30), and gone on with.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import itertools
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import torch

from deepseek_lab.base import events as ev
from deepseek_lab.base.settings import settings
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.search import Options, Search
from deepseek_lab.hpo.spaces import Plain, Space
from deepseek_lab.hpo.trial import Job, Outcome
from deepseek_lab.hpo.worker import Bench
from deepseek_lab.hpo.workers import Task as Cell
from deepseek_lab.processes.sealed import Sealed
from deepseek_lab.processes.travel import Luggage
from tests.benchmarks.search_tasks import CNN, TASKS, Task, fashion_parts

BUDGET = 12.0
"""Whole trials' worth of training that each method has for a task."""


def sealed_of(task: Task) -> Sealed:
    """What the cell of a task begins with."""
    names = task.names()
    return Sealed(Luggage(names, sorted(names)).pack())


def search_of(
    task: Task, sealed: Sealed, name: str, *, ready: Callable[[Search], None] | None = None, **options: Any
) -> Search:
    """Run our search over a task; returns it."""
    made = Options(("score",), (task.direction,), **{"repeats": 0, "workers": 0, **options})
    record = Record(name)
    record.begin(task.source, "<cell>", ("score",), (task.direction,))
    cell = Cell(task.source, "<cell>", ("score",), made.final, ("score", "test"))
    search = Search(cell, sealed, made, record, ev.EventLog())
    if ready is not None:
        ready(search)
    search.run()
    return search


class Alone:
    """The cell of a task, run by somebody else's search."""

    def __init__(self, task: Task, sealed: Sealed, seed: int) -> None:
        self._bench = Bench(task.source, "<cell>", ("score",), "test", sealed, ())
        self._seed, self._task = seed, task
        self.spent = 0.0
        """In whole trials."""
        self.found: list[tuple[float, float, float]] = []
        """What had been spent, validation and test, of each whole trial."""

    def run(
        self, ask: Callable[[str, Space], Plain], report: Callable[[int, float], bool] | None = None
    ) -> Outcome:
        """One whole trial, which ``report`` may end early."""
        outcome: Outcome = self._bench.run(Job(0, self._seed), ask, report or (lambda step, value: True))
        turns = max(1, outcome.num_turns)
        self.spent += (len(outcome.curve) if outcome.curve else turns) / turns
        if outcome.status == "complete":
            self.found.append((self.spent, outcome.values[0], outcome.final or 0.0))
        return outcome

    def best(self) -> tuple[float, float]:
        """Validation and test of the best by validation."""
        sign = 1.0 if self._task.direction == "max" else -1.0
        _, score, test = max(self.found, key=lambda one: sign * one[1])
        return score, test


def suggest(trial: optuna.Trial, name: str, space: Space) -> Plain:
    """A range, asked of Optuna."""
    match space.kind:
        case "log" | "uniform":
            return trial.suggest_float(name, space.low, space.high, log=space.kind == "log")
        case "integer" | "log-integer":
            return trial.suggest_int(name, int(space.low), int(space.high), log=space.kind == "log-integer")
        case _:
            return trial.suggest_categorical(name, space.labels)


def optuna_search(task: Task, sealed: Sealed, seed: int, kind: str, over: Callable[[Alone], bool]) -> Alone:
    """Optuna as its documentation uses it; the defaults are its first trial, as they are of ours."""
    alone = Alone(task, sealed, seed)
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "hyperband": lambda: optuna.samplers.TPESampler(seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
    }
    pruner = optuna.pruners.HyperbandPruner() if kind == "hyperband" else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", sampler=samplers[kind](), pruner=pruner)
    sign = 1.0 if task.direction == "max" else -1.0
    first = True
    while not over(alone):
        if first:
            defaults: dict[str, Plain] = {}
            alone.run(lambda name, space: defaults.setdefault(name, space.default))
            alone.spent, alone.found = 0.0, []
            study.enqueue_trial(defaults)
            first = False
        trial = study.ask()

        def report(step: int, value: float, trial: optuna.Trial = trial) -> bool:
            trial.report(sign * value, step)
            return not (kind == "hyperband" and trial.should_prune())

        outcome = alone.run(lambda name, space, trial=trial: suggest(trial, name, space), report)  # type: ignore[misc]
        if outcome.status == "complete":
            study.tell(trial, sign * outcome.values[0])
        elif outcome.status == "stopped" and outcome.curve:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return alone


def ax_search(task: Task, sealed: Sealed, seed: int, over: Callable[[Alone], bool]) -> Alone:
    """Ax's service interface with what it chooses by itself.

    Raises:
        ImportError: it is not installed.
    """
    from ax.service.ax_client import AxClient, ObjectiveProperties

    alone = Alone(task, sealed, seed)
    spaces: dict[str, Space] = {}

    def defaults(name: str, space: Space) -> Plain:
        spaces[name] = space
        return space.default

    first = alone.run(defaults)
    parameters = []
    for name, space in spaces.items():
        if space.kind == "choice":
            parameters.append(
                {
                    "name": name,
                    "type": "choice",
                    "values": list(space.labels),
                    "is_ordered": False,
                    "value_type": "str",
                }
            )
        else:
            whole = "integer" in space.kind
            bounds = [int(space.low), int(space.high)] if whole else [space.low, space.high]
            parameters.append(
                {
                    "name": name,
                    "type": "range",
                    "bounds": bounds,
                    "log_scale": "log" in space.kind,
                    "value_type": "int" if whole else "float",
                }
            )
    client = AxClient(random_seed=seed, verbose_logging=False)
    client.create_experiment(
        parameters=parameters, objectives={"score": ObjectiveProperties(minimize=task.direction == "min")}
    )
    _, index = client.attach_trial({name: space.default for name, space in spaces.items()})
    client.complete_trial(index, raw_data=first.values[0])
    while not over(alone):
        values, index = client.get_next_trial()
        outcome = alone.run(lambda name, space, values=values: values[name])  # type: ignore[misc]
        if outcome.status == "complete":
            client.complete_trial(index, raw_data=outcome.values[0])
        else:
            client.log_trial_failure(index)
    return alone


def our_search(task: Task, sealed: Sealed, seed: int, budget: float, name: str) -> tuple[float, float]:
    """Validation and test of the best that our search finds for so much training."""
    search = search_of(task, sealed, name, seed=seed, trials=100_000, limit_cost=budget, final="test")
    whole = [one for one in search._entries if one.whole and one.status == "complete"]
    sign = 1.0 if task.direction == "max" else -1.0
    best = max(whole, key=lambda one: sign * one.values[0])
    return best.values[0], best.final or 0.0


def tasks(num_seeds: int) -> None:
    """Six tasks side by side."""
    methods = ["ours", "random", "tpe", "hyperband", "gp"]
    if importlib.util.find_spec("ax") is None:
        print("ax: not run, it is not installed")
    else:
        methods.append("ax")
    rows: list[dict[str, Any]] = []
    with on_all_cores() as pool:
        running = [pool.submit(_row, name, seed, methods) for seed in range(num_seeds) for name in TASKS]
        for one in concurrent.futures.as_completed(running):
            rows.append(one.result())
            print(json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: (list(TASKS).index(row["task"]), row["seed"]))
    _ranked([row for row in rows if "ours" in row], methods)


def on_all_cores() -> concurrent.futures.Executor:
    """Processes for what is counted in epochs and not in seconds: one for each core, each with one thread."""
    return concurrent.futures.ProcessPoolExecutor(
        os.cpu_count(),
        multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(settings.cache_dir,),
    )


def _begin_process(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings.cache_dir = folder
    torch.set_num_threads(1)


def _row(name: str, seed: int, methods: Sequence[str]) -> dict[str, Any]:
    """What each method finds for a task: validation and test of the best, and the seconds that it took."""
    task = TASKS[name]
    row: dict[str, Any] = {"task": name, "seed": seed}
    try:
        sealed = sealed_of(task)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return {**row, "not run": str(error)}
    for method in methods:
        began_s = time.perf_counter()
        row[method] = _found(task, sealed, seed, method)
        row[f"{method} s"] = time.perf_counter() - began_s
    return row


def _found(task: Task, sealed: Sealed, seed: int, method: str) -> tuple[float, float]:
    def over(alone: Alone) -> bool:
        return alone.spent >= BUDGET

    if method == "ours":
        return our_search(task, sealed, seed, BUDGET, f"{task.name} {seed}".replace("/", " "))
    if method == "ax":
        return ax_search(task, sealed, seed, over).best()
    return optuna_search(task, sealed, seed, method, over).best()


def _ranked(rows: list[dict[str, Any]], methods: list[str]) -> None:
    print(f"\n| task | {' | '.join(methods)} |\n| --- |{' --- |' * len(methods)}")
    total: dict[str, list[float]] = {method: [] for method in methods}
    for name in dict.fromkeys(row["task"] for row in rows):
        cells = []
        ranks: dict[str, list[float]] = {method: [] for method in methods}
        for row in (row for row in rows if row["task"] == name):
            for method in methods:
                tests = [row[each][1] for each in methods]
                better = sum(one > row[method][1] for one in tests)
                same = sum(one == row[method][1] for one in tests)
                ranks[method].append(better + (same + 1) / 2)
        for method in methods:
            total[method] += ranks[method]
            tests = [row[method][1] for row in rows if row["task"] == name]
            cells.append(f"{statistics.mean(tests):.4g} (rank {statistics.mean(ranks[method]):.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"| mean rank | {' | '.join(f'{statistics.mean(total[one]):.2f}' for one in methods)} |")


def compute(num_seeds: int = 5, name: str = "fashion CNN") -> None:
    """Training until what 60 whole trials of TPE reach."""
    ratios: dict[str, list[float]] = {"tpe": [], "hyperband": []}
    with on_all_cores() as pool:
        for one in concurrent.futures.as_completed(
            [pool.submit(_spent, name, seed) for seed in range(num_seeds)]
        ):
            seed, wanted, first, band, ours = one.result()
            ratios["tpe"].append(ours / 60)
            ratios["hyperband"].append(ours / band)
            print(
                f"seed {seed}: {wanted:.2f} was reached by TPE after {first:.0f} of 60, by TPE + Hyperband after "
                f"{band:.1f}, by ours after {ours:.1f}",
                flush=True,
            )
    for kind, bar in (("tpe", 0.4), ("hyperband", 0.8)):
        middle = statistics.median(ratios[kind])
        print(f"of {kind}: median {middle:.2f}, bar {bar}: {'HELD' if middle <= bar else 'MISSED'}")


def _spent(name: str, seed: int) -> tuple[int, float, float, float, float]:
    """The seed, what 60 whole trials of TPE reach, and after how many that of TPE, TPE with Hyperband, and ours do."""
    task = TASKS[name]
    sealed = sealed_of(task)
    plain = optuna_search(task, sealed, seed, "tpe", lambda alone: len(alone.found) >= 60)
    wanted = max(score for _, score, _ in plain.found)

    def reached(alone: Alone) -> bool:
        return alone.spent >= 60 or any(score >= wanted for _, score, _ in alone.found)

    band = optuna_search(task, sealed, seed, "hyperband", reached).spent
    first = next(spent for spent, score, _ in plain.found if score >= wanted)
    return seed, wanted, first, band, _until(task, sealed, seed, wanted)


def _until(task: Task, sealed: Sealed, seed: int, wanted: float, most: float = 60.0) -> float:
    """What our search spends until a whole trial reaches a score."""
    search = search_of(
        task,
        sealed,
        f"until {task.name} {seed}",
        seed=seed,
        trials=100_000,
        limit_cost=most,
        target=wanted,
    )
    return search.result.cost


def gain(num_seeds: int = 3, num_images: int = 10_000) -> None:
    """A search beside the defaults."""
    data = fashion_parts(num_images)
    task = Task("fashion", CNN.replace("EPOCHS", "4"), lambda: data)
    sealed = sealed_of(task)
    points, shares = [], []
    for seed in range(num_seeds):
        began_s = time.perf_counter()
        search = search_of(
            task, sealed, f"gain {seed}", seed=seed * 7, trials=40, workers=2, repeats=3, final="test"
        )
        compared = search.result.compared
        if compared is None:
            print(f"seed {seed}: the defaults were not beaten")
            points.append(0.0)
            shares.append(0.0)
            continue
        before, after = statistics.mean(compared.defaults), statistics.mean(compared.found)
        points.append(after - before)
        shares.append((after - before) / (100 - before))
        params = search.params[compared.config]
        print(
            f"seed {seed}: {before:.2f} -> {after:.2f} % on test images, {compared.difference:+.2f} points "
            f"(95 % {compared.ci95}), {shares[-1]:.0%} of the error, {search.result.cost:.1f} whole trials, "
            f"{time.perf_counter() - began_s:.0f} s, {params}",
            flush=True,
        )
    held = statistics.mean(points) >= 2.7 or statistics.mean(shares) >= 0.25
    print(
        f"mean {statistics.mean(points):+.2f} points, {statistics.mean(shares):.0%} of the error: "
        f"{'HELD' if held else 'MISSED'}"
    )


NOTHING = """
a = ds.log(1e-5, 1e-1)
b = ds.uniform(0, 1)
c = ds.integer(1, 100)
d = ds.choice("x", "y", "z")
e = ds.uniform(0, 1)
f = ds.uniform(0, 1)
g = ds.integer(1, 8)
h = ds.log(1e-3, 1)
score = -abs(b - 0.3) - abs(e - 0.6)
"""


def overhead(num: int = 5_000) -> None:
    """Milliseconds a trial, the cell doing nothing."""
    for workers, bar in ((0, 20.0), (1, 60.0)):
        times: list[float] = []
        task = Task("nothing", NOTHING, lambda: ((), (), ()))
        sealed = Sealed(Luggage({}, []).pack())

        def ready(search: Search, times: list[float] = times) -> None:
            search._log.listen(
                lambda event: times.append(event.at_s) if isinstance(event, ev.TrialEnded) else None
            )

        search_of(task, sealed, f"overhead {workers}", trials=num, workers=workers, ready=ready)
        for at in (100, num // 2, num):
            part = times[max(1, at - 200) : at]
            ms = 1e3 * statistics.median(b - a for a, b in itertools.pairwise(part))
            mean = 1e3 * (part[-1] - part[0]) / (len(part) - 1)
            verdict = "HELD" if mean <= bar else "MISSED"
            print(
                f"{'in process' if not workers else 'in a worker'}, up to trial {at:,}: median {ms:.1f} ms, "
                f"mean {mean:.1f} ms a trial, bar {bar:.0f}: {verdict}",
                flush=True,
            )


def workers() -> None:
    """Two workers beside one, in turns."""
    task = TASKS["digits MLP"]
    sealed = sealed_of(task)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(4):
        for num in (1, 2):
            began: list[float] = []

            def ready(search: Search, began: list[float] = began) -> None:
                search._log.listen(
                    lambda event: (
                        began.append(event.at_s) if isinstance(event, ev.TrialBegan | ev.TrialEnded) else None
                    )
                )

            search = search_of(
                task,
                sealed,
                f"workers {num} {turn}",
                seed=turn,
                trials=24,
                workers=num,
                sampler="random",
                schedule="whole",
                ready=ready,
            )
            rates[num].append(60 * len(search.result.rows) / (began[-1] - began[0]))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    middle = statistics.median(ratios)
    print(
        f"trials a minute: {statistics.median(rates[1]):.0f} with one worker, {statistics.median(rates[2]):.0f} with "
        f"two, ratio {middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f}), bar 1.7: "
        f"{'HELD' if middle >= 1.7 else 'MISSED'}"
    )


KILLED = """
import sys
from tests.benchmarks.search import search_of, sealed_of
from tests.benchmarks.search_tasks import Task
SOURCE = '''
import time
lr = ds.log(1e-4, 1e-1)
score = 0.0
for step in range(8):
    time.sleep(0.004)
    score = 1 - abs(lr - 0.01) - 1 / (step + 2)
'''
if __name__ == "__main__":
    from deepseek_lab.processes.sealed import Sealed
    from deepseek_lab.processes.travel import Luggage
    sealed = Sealed(Luggage({}, []).pack())
    print("ready", flush=True)
    search = search_of(Task("kills", SOURCE, None), sealed, "kills", trials=int(sys.argv[1]), workers=2)
    print("done", search.result.best.values[0], flush=True)
"""


def kills(num: int = 30) -> None:
    """Kernel, worker or both, killed at random moments."""
    draw = random.Random(3)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(KILLED)
        script.flush()
        lost = twice = wrong = 0
        seen: dict[tuple[str, int], tuple[float, ...]] = {}
        for turn in range(num):
            target = draw.choice(["kernel", "worker", "both"])
            total = 20 * (turn + 1)
            last = _killed(script.name, total, target, draw)
            record = Record("kills")
            record.load()
            entries = [one for one in record.news() if one.status != "failed"]
            now = {(one.config, one.rung): one.values for one in entries}
            lost += sum(now.get(key) != value for key, value in seen.items())
            twice += len(entries) - len(now)
            best = max((one.values[0] for one in entries if one.whole), default=None)
            if last is not None and last != best:
                wrong += 1
            seen = now
        print(
            f"{num} kills, {len(seen)} trials: {lost} lost, {twice} counted twice, {wrong} times another best value: "
            f"{'HELD' if not lost + twice + wrong else 'MISSED'}"
        )


def _killed(script: str, total: int, target: str, draw: random.Random) -> float | None:
    """Run a search and kill; returns the best value that it told of, if it came to its end."""
    process = subprocess.Popen(
        [sys.executable, script, str(total)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "DEEPSEEK_LAB_CACHE_DIR": str(settings.cache_dir),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0 + 2.0 * draw.random())
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if target in ("worker", "both") and children:
        draw.choice(children).send_signal(signal.SIGKILL)
    if target in ("kernel", "both"):
        process.send_signal(signal.SIGKILL)
    text = process.stdout.read()
    process.wait()
    return float(text.split()[1]) if text.startswith("done") else None


def main() -> None:
    """Run the part that is asked for."""
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    part, *rest = sys.argv[1:] or ["overhead"]
    with tempfile.TemporaryDirectory() as folder:
        settings.cache_dir = Path(folder)
        parts: dict[str, Callable[..., None]] = {
            "gain": gain,
            "compute": compute,
            "tasks": tasks,
            "overhead": overhead,
            "workers": workers,
            "kills": kills,
        }
        given = [int(one) if one.isdigit() else one for one in rest]
        parts[part](*given or ([5] if part == "tasks" else []))


if __name__ == "__main__":
    main()
