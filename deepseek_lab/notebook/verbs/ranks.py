"""``ranks``: processes that stay, and cells that run on them."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepseek_lab.base.errors import MissingPackageError, TargetError, UsageError, nearest
from deepseek_lab.base.ranks import parse_spans, spans
from deepseek_lab.notebook import launch, rank_shell, recorded
from deepseek_lab.notebook.host import Cell, Host
from deepseek_lab.notebook.on_ranks import OnRanks, failed, name_of
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import torch_loaded
from deepseek_lab.notebook.show import Shown, table

_TOLD = 20
"""Events of ranks that are shown below their table, at most."""

if TYPE_CHECKING:
    from deepseek_lab.distributed.ranks import Ranks

_WORDS = ("start", "status", "stop", "restart", "resize", "record", "script")


def run(plan: Plan, host: Host) -> Shown:
    """Start, show, repair or end ranks."""
    word, *rest = plan.command.operands or ("status",)
    if word not in _WORDS:
        near = nearest(word, _WORDS)
        raise UsageError(f"ranks does not know {word!r}", hint=f"%deepseek ranks {near or 'status'}")
    if rest and word not in {"restart", "resize"}:
        raise UsageError(
            f"ranks {word} does not know what to do with {rest[0]!r}", hint=f"%deepseek ranks {word}"
        )
    need()
    from deepseek_lab.distributed import ranks

    if word == "script":
        return Shown(launch.script(plan.command))
    if word == "start":
        made = start(plan.command)
        return _table(f"ranks  {len(made)} started", made)
    if word == "status":
        running = ranks.current()
        return _table("ranks", running) if running is not None else Shown("ranks  none have been started")
    running = ranks.needed()
    if word == "record":
        return recorded.shown(running)
    if word == "stop":
        running.stop()
        return Shown(f"ranks  {len(running)} stopped")
    if word == "resize":
        return _resize(rest, running)
    numbers = _numbers(rest) if rest else []
    again = running.restart(numbers)
    return _table(
        f"ranks  {spans(again)} started again; names that cells made there are gone"
        if again
        else "ranks  none is dead",
        running,
    )


def _resize(words: list[str], running: Ranks) -> Shown:
    """Grow or shrink the set of ranks.

    Raises:
        UsageError: it was not said to how many.
    """
    if len(words) != 1 or not words[0].isdecimal():
        what = f"{' '.join(words)!r} is none" if words else "none was given"
        raise UsageError(
            f"ranks resize needs a number, and {what}", hint=f"%deepseek ranks resize {len(running)}"
        )
    before = len(running)
    started, ended = running.resize(int(words[0]))
    parts = [
        f"ranks  {before} became {len(running)}" if len(running) != before else f"ranks  {before} as before"
    ]
    if started:
        parts.append(f"{spans(started)} started, with no names yet")
    if ended:
        parts.append(f"{spans(ended)} ended")
    return _table("; ".join(parts), running)


def elsewhere(plan: Plan, cell: Cell, body: str, host: Host) -> Shown:
    """Run a cell on ranks."""
    command = plan.command
    need()
    from deepseek_lab.distributed import ranks
    from deepseek_lab.processes import travel

    running = ranks.needed()
    numbers = _numbers(command.operands) if command.operands else list(range(len(running)))
    source = host.python(body, magics=True)
    shell = rank_shell.__name__ if "get_ipython" in source else ""
    push, gather = (_names(command, flag) for flag in ("push", "gather"))
    payload = []
    if push:
        if missing := [name for name in push if name not in host.namespace]:
            raise TargetError(
                f"there is no {missing[0]!r} in the notebook", hint=f"define {missing[0]} first"
            )
        payload = travel.Luggage(vars_of(host), push).pack()
    shown = OnRanks(command, host)
    request = running.ask(
        "run",
        {"source": source, "file": cell.name, "gather": list(gather), "shell": shell},
        payload,
        ranks=numbers,
        said=shown.said,
    )
    made = shown.end(request.answers)
    if any(one.status != "ok" for one in request.answers.values()):
        raise failed(request.answers, cell.name, name_of(cell))
    if gather:
        came = {
            number: travel.unpack(request.payloads[number], vars_of(host)).value for number in sorted(numbers)
        }
        for name in gather:
            host.namespace[name] = [came[number][name] for number in sorted(numbers)]
    return made


def need() -> None:
    """Say what is not installed.

    Raises:
        MissingPackageError: the packages of ranks are not.
    """
    for package in ("cloudpickle", "zmq"):
        try:
            __import__(package)
        except ImportError:
            raise MissingPackageError(package, extra="distributed", needed_for="ranks") from None


def start(command: Command, size: int | None = None) -> Ranks:
    """Start as many as the command says; where it does not, ``size`` of them, or one a GPU or core."""
    from deepseek_lab.distributed import ranks

    num = command.number("num")
    wanted = int(num) if num is not None else size or default_size(command)
    return ranks.start(wanted, launcher=launch.launcher_of(command))


def default_size(command: Command) -> int:
    """How many ranks are started where nobody says."""
    return launch.default_num(command) or _default()


def vars_of(host: Host) -> dict[str, object]:
    """The notebook's names, as the dictionary that its functions have as their globals."""
    return host.shell.user_ns if host.shell is not None else dict(host.namespace)


def _default() -> int:
    if torch_loaded():
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    return max(2, len(os.sched_getaffinity(0)))


def _names(command: Command, flag: str) -> tuple[str, ...]:
    value = command.get(flag)
    return value if isinstance(value, tuple) else ()


def _numbers(words: list[str] | tuple[str, ...]) -> list[int]:
    text = ",".join(word.strip(",") for word in words)
    try:
        return parse_spans(text)
    except ValueError:
        raise UsageError(f"{' '.join(words)!r} names no ranks", hint="%%deepseek ranks [0,2-3]") from None


def _table(title: str, running: Ranks) -> Shown:
    elsewhere = any(one.host for one in running.states)
    columns, figures = recorded.figures(running)
    rows = [
        (
            one.rank,
            one.state,
            *([one.host] if elsewhere else []),
            one.pid,
            one.device,
            *figures.get(one.rank, ("",) * len(columns)),
            one.why or (f"line {one.line}, {one.function}" if one.line is not None else ""),
            one.last_line[-80:],
        )
        for one in running.states
    ]
    host = ("host",) if elsewhere else ()
    shown = table(title, ("rank", "state", *host, "process", "device", *columns, "where", "last line"), rows)
    return _with_history(shown, running.history[-_TOLD:])


def _with_history(shown: Shown, history: Sequence[tuple[float, str]]) -> Shown:
    """A table, and what has become of ranks below it."""
    if not history:
        return shown
    lines = [f"{time.strftime('%H:%M:%S', time.localtime(at_s))}  {text}" for at_s, text in history]
    page = shown.bundle()["text/html"] + "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    data = {**shown.to_dict(), "history": [{"at_s": at_s, "what": text} for at_s, text in history]}
    return Shown("\n".join([repr(shown), *lines]), html_text=page, data=data)
