"""``hpo``: a cell becomes a search over the ranges that stand in it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import MissingPackageError, TargetError, UsageError, nearest
from deepseek_lab.base.search import SearchReport
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import Cell, Host, view_of
from deepseek_lab.notebook.live_search import LiveSearch
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown, table

if TYPE_CHECKING:
    from deepseek_lab.hpo.record import Entry, Record
    from deepseek_lab.hpo.search import Kept, Options

_MOST_FIRST = 8
"""Configurations of another study that are tried first, at most, and a fifth of all."""
_WORDS = ("list", "show", "resume", "apply", "export", "remove", "dashboard")
_DIRECTIONS = {
    "max": "max", "min": "min", "maximize": "max", "minimize": "min", "maximise": "max", "minimise": "min",
}  # fmt: skip
_SMALL = ("loss", "error", "mse", "mae", "rmse", "perplexity", "wer", "seconds", "latency", "bytes")


class CellFailed(TargetError):
    """The cell does not run with its own defaults."""


class ShownSearch(Shown):
    """What a search found; attributes are its report's."""

    def __init__(self, report: SearchReport, log: ev.EventLog | None = None, *, view: str = "auto") -> None:
        from deepseek_lab import views

        html_text = "" if view == "text" else views.search_html(report)
        super().__init__(views.search_text(report), html_text=html_text, data=report.to_dict())
        self.report, self.log = report, log

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "report":
            raise AttributeError(name)
        return getattr(self.report, name)


def run(plan: Plan, host: Host) -> Shown:
    """Show, go on with, apply, export or forget a study."""
    command = plan.command
    word, *rest = command.operands or ("list",)
    if word not in _WORDS:
        near = nearest(word, _WORDS)
        raise UsageError(
            f"hpo does not know {word!r}", hint=f"%deepseek hpo {near or 'list'}, or %%deepseek hpo"
        )
    need()
    if len(rest) > 1:
        raise UsageError(f"hpo {word} takes one study", hint=f"%deepseek hpo {word} {rest[0]}")
    if word == "dashboard":
        from deepseek_lab.notebook import dashboard

        return dashboard.show(rest[0] if rest else None, host)
    if word == "list":
        return _listed(command)
    record = _record(command, rest[0] if rest else None)
    if word == "remove":
        if not rest:
            raise UsageError(
                "hpo remove needs the name of a study", hint=f"%deepseek hpo remove {record.name}"
            )
        record.remove()
        return Shown(f"hpo  study {record.name} is forgotten")
    if word == "show":
        return _replayed(record, view=view_of(command))
    if word == "resume":
        facts = record.facts
        cell = Cell(facts["file"], facts["source"], None)
        return _search(
            command, host, cell, facts["source"], record, tuple(facts["metrics"]), tuple(facts["directions"])
        )
    best, params = _best(record)
    if word == "apply":
        return _apply(record, params, host)
    return _export(command, record, best, params)


def elsewhere(plan: Plan, cell: Cell, body: str, host: Host) -> Shown:
    """Search."""
    command = plan.command
    need()
    from deepseek_lab.hpo import record as records

    metrics, directions = _metrics(command)
    source = host.python(body)
    seen = cells.names(source)
    if missing := [name for name in metrics if name not in seen.binds]:
        near = nearest(missing[0], seen.binds)
        raise UsageError(
            f"the cell does not bind {missing[0]}",
            hint=f"--metric {near}" if near else f"{missing[0]} = ... in it",
        )
    name = command.text("name")
    name = records.check_name(name) if name is not None else f"search-{dt.datetime.now():%Y%m%d-%H%M%S}"
    from deepseek_lab.hpo.workers import random_streams

    with random_streams():  # packages draw from them when they are imported
        record = records.Record(name, command.text("storage"))
        return _search(command, host, cell, source, record, metrics, directions)


def need() -> None:
    """Say what is not installed.

    Raises:
        MissingPackageError: the packages of searches are not.
    """
    for package in ("optuna", "cloudpickle"):
        try:
            __import__(package)
        except ImportError:
            raise MissingPackageError(package, extra="hpo", needed_for="hpo") from None


def _search(
    command: Command,
    host: Host,
    cell: Cell,
    source: str,
    record: Record,
    metrics: tuple[str, ...],
    directions: tuple[str, ...],
) -> Shown:
    from deepseek_lab.hpo.record import StudyChanged
    from deepseek_lab.hpo.search import CellFails, Search
    from deepseek_lab.hpo.workers import Task
    from deepseek_lab.notebook.verbs.ranks import vars_of
    from deepseek_lab.processes.sealed import Sealed
    from deepseek_lab.processes.travel import Luggage

    options = _options(command, metrics, directions)
    try:
        record.begin(source, cell.name, metrics, directions)
    except StudyChanged:
        answer = command.text("on-change") or "stop"
        if answer == "stop":
            raise
        if answer == "restart":
            record.remove()
            record.begin(source, cell.name, metrics, directions)
        else:
            record.accept(source, cell.name)
            options = dataclasses.replace(options, changed=True)
    seen = cells.names(source)
    names = vars_of(host)
    luggage = Luggage(names, sorted(name for name in seen.loads | seen.changes if name in names))
    sealed = Sealed(luggage.pack())
    task = Task(source, cell.name, metrics, options.final, tuple(sorted(seen.binds)))
    log = ev.EventLog()
    search = Search(task, sealed, options, record, log)
    live = LiveSearch(command, host, search, log)
    try:
        with live:
            kept = search.run()
    except CellFails as error:
        raise CellFailed(
            f"{error.outcome.text or error.outcome.error}\n\nThe cell fails with its own defaults."
        ) from None
    finally:
        sealed.close()
    bound = [] if kept is None else _bind(kept, names)
    if bound:
        log.emit(ev.Noted(run=search.run_id, text=f"back in the notebook, of the best: {', '.join(bound)}"))
    shown = ShownSearch(SearchReport.fold(log), log, view=view_of(command))
    live.end(shown)
    return shown


def _options(command: Command, metrics: tuple[str, ...], directions: tuple[str, ...]) -> Options:
    from deepseek_lab.hpo.search import Options

    def whole(flag: str, least: int) -> int | None:
        value = command.number(flag)
        if value is not None and value < least:
            raise UsageError(f"--{flag} {value:.0f} is less than {least}", hint=f"--{flag} {least}")
        return None if value is None else int(value)

    num, repeats, seed = whole("workers", 0), whole("repeats", 0), whole("seed", 0)
    trials = whole("trials", 1)
    first, first_of = _warm(command, trials)
    return Options(
        metrics=metrics,
        directions=directions,
        final=command.text("final"),
        trials=trials,
        limit_s=command.number("time"),
        target=command.number("target"),
        workers=_default_workers() if num is None else num,
        sampler=command.text("sampler") or "auto",
        schedule=command.text("schedule") or "auto",
        seed=seed or 0,
        repeats=3 if repeats is None else repeats,
        timeout_s=command.number("trial-timeout"),
        first=first,
        first_of=first_of,
    )


def _default_workers() -> int:
    """One for each two cores and at least two, as small models seldom gain from more threads."""
    import os

    return max(1, min(8, len(os.sched_getaffinity(0))))


def _metrics(command: Command) -> tuple[tuple[str, ...], tuple[str, ...]]:
    metrics = command.get("metric")
    if not isinstance(metrics, tuple) or not metrics:
        raise UsageError(
            "hpo needs --metric: the name of what the cell is judged by",
            hint="%%deepseek hpo --metric accuracy",
        )
    if wrong := [name for name in metrics if not name.isidentifier()]:
        raise UsageError(f"{wrong[0]!r} is no name", hint="--metric accuracy")
    given = command.get("direction")
    words = given if isinstance(given, tuple) else ()
    if wrong := [word for word in words if word not in _DIRECTIONS]:
        raise UsageError(f"--direction {wrong[0]} is neither max nor min", hint="--direction max")
    if not words:
        words = tuple("min" if any(part in name.lower() for part in _SMALL) else "max" for name in metrics)
    if len(words) == 1:
        words *= len(metrics)
    if len(words) != len(metrics):
        raise UsageError(
            f"{len(metrics)} metrics have {len(words)} directions",
            hint=f"--direction {','.join(['max'] * len(metrics))}",
        )
    return metrics, tuple(_DIRECTIONS[word] for word in words)


def _bind(kept: Kept, names: dict[str, Any]) -> list[str]:
    from deepseek_lab.processes import travel

    came = travel.unpack(kept.payload, names).value
    names |= came
    return sorted(came)


# Studies that are there.


def _record(command: Command, name: str | None) -> Record:
    from deepseek_lab.hpo import record as records

    name = name or command.text("name")
    if name is None:
        known = _names(command)
        if not known:
            raise TargetError("there is no study yet", hint="%%deepseek hpo --metric accuracy --name first")
        name = known[0]
    found = records.Record(records.check_name(name), command.text("storage"))
    found.load()
    return found


def _names(command: Command) -> list[str]:
    """The studies that there are, the newest first."""
    from deepseek_lab.hpo import record as records

    place = command.text("storage")
    return records.names() if place is None else records.names_in(records.storage_of("", place))


def _listed(command: Command) -> Shown:
    from deepseek_lab.hpo import record as records

    rows: list[tuple[Any, ...]] = []
    for name in _names(command):
        record = records.Record(name, command.text("storage"))
        try:
            record.load()
        except TargetError as error:
            rows.append((name, str(error.message), "", "", ""))
            continue
        found = [one for one in record.news() if one.purpose != "repeat"]
        best = next(iter(records.ranked(found, record.facts["directions"])), None)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(max((one.at_s for one in found), default=0)))
        metric = f"{record.facts['metrics'][0]} {record.facts['directions'][0]}"
        rows.append(
            (name, len({one.config for one in found}), metric, best.values[0] if best else None, when)
        )
    title = "hpo  studies" if rows else "hpo  no studies yet"
    return table(title, ("study", "trials", "metric", "best", "last trial"), rows, name="studies")


def _best(record: Record) -> tuple[Entry, dict[str, Any]]:
    """The configuration that was best, as judged with fresh seeds where it was."""
    best = _ranked(record)[0]
    return best, best.params


def _ranked(record: Record) -> list[Entry]:
    """Its whole trials, that first which was best with fresh seeds where some were run again, then by what they gave.

    Raises:
        TargetError: there is none.
    """
    from deepseek_lab.hpo.record import ranked

    judged = record.facts.get("best")
    found = sorted(ranked(record.news(), record.facts["directions"]), key=lambda one: one.config != judged)
    if not found:
        raise TargetError(
            f"no whole trial of study {record.name} has ended yet", hint=f"%deepseek hpo resume {record.name}"
        )
    return found


def _warm(command: Command, num_trials: int | None) -> tuple[tuple[dict[str, Any], ...], str]:
    """Values of the best configurations of another study, and its name."""
    from deepseek_lab.hpo.search import TRIALS

    name = command.text("warm-start")
    if name is None:
        return (), ""
    num = max(1, min(_MOST_FIRST, (num_trials or TRIALS) // 5))
    return tuple(dict(one.params) for one in _ranked(_record(command, name))[:num]), name


def _replayed(record: Record, *, view: str) -> Shown:
    from deepseek_lab.hpo.replay import events_of

    log = ev.EventLog()
    for event in events_of(record):
        log.emit(event)
    return ShownSearch(SearchReport.fold(log), log, view=view)


def _apply(record: Record, params: dict[str, Any], host: Host) -> Shown:
    """Bind the best values under the cell's own names."""
    bound, left = [], []
    for name, value in params.items():
        if not name.isidentifier():
            left.append(f"{name} has no name of its own")
        elif record.spaces[name].kind == "choice" and not _is_plain(str(value)):
            left.append(f"{name} is {value}, which the cell chooses")
        else:
            host.namespace[name] = _plain(record, name, value)
            bound.append(f"{name} = {host.namespace[name]!r}")
    lines = [f"hpo  from study {record.name}: {', '.join(bound) or 'nothing'}", *(f"  {one}" for one in left)]
    return Shown("\n".join(lines), data={"applied": bound, "left": left})


def _is_plain(label: str) -> bool:
    import ast

    try:
        ast.literal_eval(label)
    except (ValueError, SyntaxError):
        return False
    return True


def _plain(record: Record, name: str, value: Any) -> Any:
    import ast

    return ast.literal_eval(str(value)) if record.spaces[name].kind == "choice" else value


def _export(command: Command, record: Record, best: Entry, params: dict[str, Any]) -> Shown:
    from deepseek_lab.hpo.export import filled

    text, missing = filled(record.facts["source"], params, record.spaces)
    metric = record.facts["metrics"][0]
    head = f'"""Study {record.name}: {metric} {best.values[0]:.6g}."""\n\n'
    if missing:
        values = ", ".join(f"{name} = {params[name]!r}" for name in missing)
        head += f"# Not in this cell, to be set where they stand: {values}\n\n"
    return _Code(head + text)


class _Code(Shown):
    """A script."""

    def __init__(self, code: str) -> None:
        super().__init__(code, data={"code": code})
        self.code = code

    def save(self, path: Path) -> None:
        """Write the script itself to a ``.py``."""
        if path.suffix == ".py":
            path.write_text(self.code, encoding="utf-8")
        else:
            super().save(path)
