"""``limits``: the largest safe batch size and the range of learning rates of a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import MissingPackageError, TargetError, UsageError, nearest
from deepseek_lab.base.limits import LimitsReport
from deepseek_lab.base.sizes import parse_limit
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import Cell, Host, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan, resolve, root_of
from deepseek_lab.notebook.show import Shown

if TYPE_CHECKING:
    from deepseek_lab.hpo.limits.measure import Options

_SHOWN_S, _SAID_S = 0.5, 10.0
"""Pause between two pictures of what is under way, and between two lines at a terminal."""
_FILE = "<limits>"


class CellFailed(TargetError):
    """The cell does not run as it is."""


class ShownLimits(Shown):
    """What was measured; attributes are the report's."""

    def __init__(self, report: LimitsReport, *, view: str = "auto") -> None:
        from deepseek_lab import views

        html_text = "" if view == "text" else views.limits_html(report)
        super().__init__(views.limits_text(report), html_text=html_text, data=report.to_dict())
        self.report = report

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "report":
            raise AttributeError(name)
        return getattr(self.report, name)


class _Live:
    """What is under way, below the cell."""

    def __init__(self, command: Command, host: Host) -> None:
        self._command, self._host = command, host
        self._now = Shown("limits")
        self._again: Callable[[], None] | None = None
        self._at_s = time.monotonic()

    def told(self, report: LimitsReport) -> None:
        """The report has changed."""
        if self._command.has("quiet"):
            return
        now = time.monotonic()
        if now - self._at_s < (_SHOWN_S if self._host.updates else _SAID_S):
            return
        self._at_s = now
        from deepseek_lab import views

        try:
            if self._host.updates:
                self._show(Shown(views.limits_line(report)))
            else:
                self._host.say(views.limits_line(report))
        except Exception as error:  # what is shown is ours to get right, measuring goes on
            warn(f"limits: what is under way is not shown ({type(error).__name__}: {error})")

    def _show(self, shown: Shown) -> None:
        self._now = shown
        if self._again is None:
            self._again = self._host.display(_Now(self))
        else:
            self._again()

    def end(self, shown: Shown) -> None:
        """What is shown now stays."""
        if self._command.has("quiet"):
            return
        if self._host.updates:
            self._show(shown)
        else:
            self._host.say(repr(shown))

    def leave(self, text: str) -> None:
        """Have a line in the place of what was under way, if that was shown."""
        if self._again is not None:
            self._show(Shown(text))


class _Now(Shown):
    """Whatever is to be seen at the moment."""

    def __init__(self, of: _Live) -> None:
        super().__init__("")
        self._of = of

    def bundle(self) -> dict[str, Any]:
        return self._of._now.bundle()

    def __repr__(self) -> str:
        return repr(self._of._now)


def elsewhere(plan: Plan, cell: Cell, body: str, host: Host) -> Shown:
    """Measure the training loop of a cell."""
    command = plan.command
    if command.operands:
        raise UsageError(
            f"above a cell limits measures the cell's own loop, not {command.operands[0]}",
            hint=f"%deepseek limits {command.operands[0]}, on a line, or %%deepseek limits alone",
        )
    for flag in ("optimizer", "loss", "data"):
        if command.has(flag):
            raise UsageError(
                f"above a cell the loop itself says what --{flag} is",
                hint="%%deepseek limits, or %deepseek limits MODEL on a line",
            )
    if not body.strip():
        raise UsageError("there is no training loop to measure", hint="%%deepseek limits above one")
    options = _options(command)
    _need()
    source = host.python(body)
    seen = cells.names(source)
    live = _Live(command, host)
    report = _measure(host, source, cell.name, seen.loads | seen.changes, options, "the cell", live)
    shown = ShownLimits(report, view=view_of(command))
    live.end(shown)
    return shown


def run(plan: Plan, host: Host) -> Shown:
    """Measure a loop over objects of the notebook."""
    command = plan.command
    if not command.operands:
        raise UsageError(
            "limits on a line needs a model",
            hint="%deepseek limits MODEL --optimizer NAME --loss NAME --data NAME, or %%deepseek limits above a cell",
        )
    options = _options(command)
    _need()
    (model,) = command.operands
    from torch import nn

    if not isinstance(plan.objects[model], nn.Module):
        kind = type(plan.objects[model]).__name__
        raise TargetError(f"{model} is a {kind}, not a model", hint="the name of an nn.Module")
    optimizer = _optimizer(command, host, model, plan.objects[model])
    loss, data = _loss(command, host), _data(command, host, model)
    from deepseek_lab.hpo.limits.loops import source_of

    used = {root_of(one) for one in (model, optimizer, data, *([loss] if loss else []))}
    live = _Live(command, host)
    report = _measure(host, source_of(model, optimizer, loss, data), _FILE, used, options, model, live)
    live.leave(f"limits  measured in {report.seconds:.0f} s")
    return ShownLimits(report, view=view_of(command))


def _measure(
    host: Host,
    source: str,
    file: str,
    used: set[str] | frozenset[str],
    options: Options,
    what: str,
    live: _Live,
) -> LimitsReport:
    from deepseek_lab.hpo.limits.measure import CellFails, Measurement, sealed, task_of
    from deepseek_lab.notebook.verbs.ranks import vars_of

    names: dict[str, Any] = vars_of(host)
    content = sealed(names, [name for name in used if name in names])
    try:
        return Measurement(task_of(source, file), content, options, live.told, what).run()
    except CellFails as error:
        raise CellFailed(str(error)) from None
    finally:
        content.close()


def _options(command: Command) -> Options:
    from deepseek_lab.hpo.limits.measure import TIME_S, Options

    seconds, seed = command.number("time"), command.number("seed")
    if seconds == 0:
        raise UsageError("--time 0 measures nothing", hint="--time 60")
    return Options(
        limit_bytes=_limit(command.text("memory") or "auto"),
        time_s=TIME_S if seconds is None else seconds,
        seed=int(seed or 0),
    )


def _limit(text: str) -> int | None:
    try:
        return parse_limit(text)
    except UsageError as error:
        raise UsageError(error.message, hint="--memory 8GiB, 512MB or auto") from None


def _need() -> None:
    """Say what is not installed.

    Raises:
        MissingPackageError: objects cannot travel.
    """
    try:
        __import__("cloudpickle")
    except ImportError:
        raise MissingPackageError("cloudpickle", extra="hpo", needed_for="limits") from None


# What the line form is about.


def _named(command: Command, host: Host, flag: str) -> tuple[str, Any] | None:
    name = command.text(flag)
    return None if name is None else (name, resolve(name, host.namespace))


def _optimizer(command: Command, host: Host, model: str, module: Any) -> str:
    """The optimizer that is named, else the one that has parameters of the model."""
    from torch.optim import Optimizer

    named = _named(command, host, "optimizer")
    if named is not None:
        name, value = named
        if not isinstance(value, Optimizer):
            raise TargetError(
                f"{name} is a {type(value).__name__}, not an optimizer of torch.optim",
                hint="--optimizer NAME",
            )
        return name
    own = {id(one) for one in module.parameters()}
    found = {
        name: value
        for name, value in _public(host.namespace).items()
        if isinstance(value, Optimizer)
        and any(id(one) in own for group in value.param_groups for one in group["params"])
    }
    return _only(found, "optimizer", f"that trains {model}", model)


def _data(command: Command, host: Host, model: str) -> str:
    """The loader that is named, else the only one."""
    from torch.utils.data import DataLoader

    named = _named(command, host, "data")
    if named is not None:
        name, value = named
        if not isinstance(value, DataLoader):
            raise TargetError(
                f"{name} is a {type(value).__name__}, not a DataLoader",
                hint=f"loader = DataLoader({name}, batch_size=32, shuffle=True), then --data loader",
            )
        return name
    found = {name: one for name, one in _public(host.namespace).items() if isinstance(one, DataLoader)}
    training = {name: one for name, one in found.items() if "train" in name.lower()}
    return _only(training if len(training) == 1 else found, "data", "of training data (a DataLoader)", model)


def _loss(command: Command, host: Host) -> str | None:
    named = _named(command, host, "loss")
    if named is None:
        return None
    name, value = named
    if not callable(value):
        raise TargetError(f"{name} is a {type(value).__name__}, not a loss function", hint="--loss NAME")
    return name


def _public(namespace: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in namespace.items() if not name.startswith("_")}


def _only(found: Mapping[str, Any], flag: str, what: str, model: str) -> str:
    different = {id(value): name for name, value in found.items()}
    if len(different) == 1:
        return next(iter(found))
    names = sorted(different.values())
    if not names:
        raise TargetError(
            f"the notebook has no {'optimizer' if flag == 'optimizer' else 'loader'} {what}",
            hint=f"--{flag} NAME, or %%deepseek limits above your own training loop",
        )
    near = nearest(model, names) or names[0]
    raise TargetError(
        f"which one is it: {', '.join(names[:6])}?", hint=f"%deepseek limits {model} --{flag} {near}"
    )
