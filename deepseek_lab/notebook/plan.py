"""From a command to what will be done: targets are found, nothing is done yet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from deepseek_lab.base.errors import TargetError, nearest
from deepseek_lab.notebook.grammar import VERBS, OperandKind
from deepseek_lab.notebook.parse import Command

_STEP = re.compile(r"\.(?P<name>[^\W\d]\w*)|\[(?P<index>-?\d+)\]")
_ROOT = re.compile(r"[^\W\d]\w*")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command will do. ``str(plan)`` is what ``--dry-run`` shows."""

    command: Command
    objects: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Targets by the text that was typed."""
    reports: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Reports by name."""
    later: tuple[str, ...] = ()
    """Targets that the cell itself defines; they are found when it has ended."""

    def __str__(self) -> str:
        command = self.command
        lines = [f"{command}", f"  {VERBS[command.verb].promise}"]
        lines += [f"  target {name}: {type(value).__qualname__}" for name, value in self.objects.items()]
        lines += [f"  target {name}: defined by this cell" for name in self.later]
        lines += [f"  report {name}" for name in self.reports]
        if command.form == "cell" and not (self.objects or self.later):
            lines.append("  target: the modules that the cell calls")
        lines += [f"  --{name} {value}" for name, value in command.flags if name != "dry-run"]
        lines.append(
            "  dry run: nothing was done" + (", the cell was not run" if command.form == "cell" else "")
        )
        return "\n".join(lines)


def root_of(path: str) -> str:
    """The name that a target path starts with."""
    match = _ROOT.match(path)
    return match.group() if match else ""


def resolve(path: str, namespace: Mapping[str, Any]) -> Any:
    """Follow ``name.attribute[0].attribute`` from the namespace by plain look-ups.

    Raises:
        TargetError: the text is no such path, or a part of it does not exist.
    """
    root = _ROOT.match(path)
    if root is None:
        raise TargetError(f"{path!r} is no name or attribute path", hint="a target such as model.layers[0]")
    if root.group() not in namespace:
        near = nearest(root.group(), [name for name in namespace if not name.startswith("_")])
        raise TargetError(
            f"there is no {root.group()!r} in the notebook",
            hint=path.replace(root.group(), near, 1) if near else f"define {root.group()} first",
        )
    value, position = namespace[root.group()], root.end()
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise TargetError(
                f"{path!r} is no attribute path: {path[position:]!r} is not understood; targets are never evaluated",
                hint=f"first write target = {path}, then name target",
            )
        done = path[:position]
        try:
            value = getattr(value, step["name"]) if step["name"] else value[int(step["index"])]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            names = [name for name in dir(value) if not name.startswith("_")]
            near = nearest(step["name"], names) if step["name"] else None
            raise TargetError(
                f"{done} has no {step.group()} ({type(error).__name__})",
                hint=f"{done}.{near}" if near else done,
            ) from None
        position = step.end()
    return value


def plan(command: Command, namespace: Mapping[str, Any], defined_by_cell: Collection[str] = ()) -> Plan:
    """Find what the command's words mean in the namespace.

    ``defined_by_cell`` are the names that the cell itself binds: their old values are not what is meant.

    Raises:
        TargetError: a target does not exist or is nothing that the verb can work on.
    """
    objects: dict[str, Any] = {}
    reports: dict[str, Any] = {}
    later: list[str] = []
    for word, kind in _kinds(command):
        if kind == "object" and root_of(word) in defined_by_cell:
            later.append(word)
        elif kind == "object":
            objects[word] = checked(word, resolve(word, namespace))
        elif kind == "report":
            value = resolve(word, namespace)
            if not hasattr(getattr(value, "run", None), "report"):
                raise TargetError(
                    f"{word} is a {type(value).__name__}, not a report",
                    hint="%%deepseek optimize --to r, then name r",
                )
            reports[word] = value
    return Plan(command, objects, reports, tuple(later))


def checked(word: str, value: Any) -> Any:
    """``value``, if it is something that can be called.

    Raises:
        TargetError: it is not.
    """
    if not callable(value) or isinstance(value, type):
        raise TargetError(
            f"{word} is a {type(value).__name__}{' (the class itself)' if isinstance(value, type) else ''}, "
            "not a module or a function",
            hint=f"the name of an nn.Module or a function in place of {word}",
        )
    return value


def _kinds(command: Command) -> list[tuple[str, OperandKind]]:
    operands = VERBS[command.verb].operands
    if not operands:
        return []
    return [
        (word, operands[min(index, len(operands) - 1)].kind) for index, word in enumerate(command.operands)
    ]
