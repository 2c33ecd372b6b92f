"""Writes ``src/protocol.ts`` from ``deepseek_lab/base/events.py``: ``python js/protocol.py``.

The page's types and what it checks incoming events against are made of one schema; a test compares the file with what
this module would write.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from deepseek_lab.base import events
from deepseek_lab.base.version import __version__

TARGET = Path(__file__).parent / "src" / "protocol.ts"
_PLAIN = {str: "string", int: "number", float: "number", bool: "boolean"}


def type_of(hint: Any) -> str:
    """A Python annotation as TypeScript."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint).__name__
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is types.NoneType else type_of(arg) for arg in args)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        inner = type_of(args[0])
        return f"readonly {f'({inner})' if inner.startswith('readonly ') or ' | ' in inner else inner}[]"
    if origin is tuple:
        return f"readonly [{', '.join(type_of(arg) for arg in args)}]"
    if origin is dict:
        return f"Readonly<Record<{type_of(args[0])}, {type_of(args[1])}>>"
    raise TypeError(f"{hint} has no counterpart in protocol.ts: say here what it becomes")


def shape_of(hint: Any) -> Any:
    """The same for the check at run time: a word, or a list of a word and what it is made of."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if dataclasses.is_dataclass(hint):
        return ["record", fields_of(hint, shape_of)]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not types.NoneType)
        return ["optional", shape_of(inner)]
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return ["list", shape_of(args[0])]
    if origin is tuple:
        return ["tuple", [shape_of(arg) for arg in args]]
    return ["map", shape_of(args[1])]


def fields_of(record: Any, made: typing.Callable[[Any], Any]) -> dict[str, Any]:
    """A record's fields, the ones that it inherits first."""
    hints = typing.get_type_hints(record)
    return {field.name: made(hints[field.name]) for field in dataclasses.fields(record)}


def comment(record: Any, indent: str = "") -> str:
    """The first paragraph of a docstring."""
    text = " ".join((record.__doc__ or "").split("\n\n")[0].split())
    return f"{indent}/** {text} */\n" if text else ""


def interface(record: type, head: dict[str, str]) -> str:
    """A record as an interface."""
    lines = {**head, **fields_of(record, type_of)}
    body = "".join(f"  readonly {name}: {text};\n" for name, text in lines.items())
    return f"{comment(record)}export interface {record.__name__} {{\n{body}}}\n"


def records() -> list[type]:
    """What events hold beside plain values, what it is made of itself first."""
    found: dict[type, None] = {}

    def look(hint: Any) -> None:
        for arg in typing.get_args(hint):
            look(arg)
        if dataclasses.is_dataclass(hint):
            inside(typing.cast(type, hint))
            found.setdefault(typing.cast(type, hint))

    def inside(record: type) -> None:
        for hint in fields_of(record, lambda hint: hint).values():
            look(hint)

    for event in events.REGISTRY.values():
        inside(event)
    return list(found)


def protocol() -> str:
    """The whole file."""
    parts = [
        "/** Made by `js/protocol.py` from `deepseek_lab/base/events.py`: change it there. */\n",
        f"export const SCHEMA_VERSION = {events.SCHEMA_VERSION};\n",
        "/** The version of the package that this front end belongs to. */",
        f"export const VERSION = {json.dumps(__version__)};\n",
    ]
    parts += [interface(record, {}) for record in records()]
    parts += [interface(cls, {"kind": json.dumps(kind)}) for kind, cls in events.REGISTRY.items()]
    names = "".join(f"\n  | {cls.__name__}" for cls in events.REGISTRY.values())
    parts.append(f"export type AnyEvent ={names};\n")
    parts.append(
        "/** What a field must hold: a word, or a list of a word and what it is made of. */\n"
        "export type Shape =\n"
        '  | "string"\n  | "number"\n  | "boolean"\n'
        '  | readonly ["optional" | "list" | "map", Shape]\n'
        '  | readonly ["tuple", readonly Shape[]]\n'
        '  | readonly ["record", Readonly<Record<string, Shape>>];\n'
    )
    table = {kind: fields_of(cls, shape_of) for kind, cls in events.REGISTRY.items()}
    parts.append(
        "/** The fields of each kind of event. */\n"
        'export const SHAPES: Readonly<Record<AnyEvent["kind"], Readonly<Record<string, Shape>>>> = '
        f"{json.dumps(table, indent=2)};\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(protocol(), encoding="utf-8")
