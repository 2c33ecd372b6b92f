"""What a cell's text says: names it binds, things it calls, its plain Python, the cells that it needs."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

_HEADER = re.compile(r"%%(deepseek|ds_\w+)(\s|$)")
_LINE = re.compile(r"\s*%(deepseek|ds_\w+|(re|un)?load_ext\s+deepseek_lab)(\s|$)")
_TRANSPARENT = re.compile(r"%%(time|timeit|prun|capture)(\s|$)")


def is_header(line: str) -> bool:
    """Whether a line opens one of our regions."""
    return _HEADER.match(line) is not None


def is_ours(line: str) -> bool:
    """Whether a line is one of our magics, of either form."""
    return is_header(line) or _LINE.match(line) is not None


def plain(raw: str) -> str:
    """A cell as Python of the same line numbers: magics become comments.

    Cell magics that run their body as it is lose only their line; a cell of any other magic is all comment.
    """
    lines = raw.splitlines()
    for index, line in enumerate(lines):
        if is_header(line) or _TRANSPARENT.match(line):
            lines[index] = f"# {line}"
        elif line.startswith("%%"):
            return "\n".join(f"# {text}" for text in lines)
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    for _ in range(len(lines)):
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            index = (error.lineno or 0) - 1
            body = lines[index].lstrip() if 0 <= index < len(lines) else ""
            if body[:1] not in {"%", "!", "?"} and not body.endswith("?"):
                break
            indent = lines[index][: len(lines[index]) - len(body)]
            lines[index] = f"{indent}pass  # {body}" if indent else f"# {body}"
        except ValueError:
            break
        else:
            break
    return "\n".join(lines)


def parsed(source: str) -> ast.Module | None:
    """The tree of plain Python, or None where it is not."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def path_of(node: ast.AST) -> str | None:
    """``a.b[0].c`` for a chain of names, attributes and constant indices, else None."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            head = path_of(value)
            return f"{head}.{attr}" if head else None
        case ast.Subscript(value=value, slice=ast.Constant(value=int() as index)):
            head = path_of(value)
            return f"{head}[{index}]" if head else None
        case _:
            return None


def called_paths(raw: str) -> list[str]:
    """Paths of everything that the cell's text calls, and of the owners of called methods, in order."""
    tree = parsed(plain(raw))
    found: dict[str, None] = {}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            if path := path_of(node.func):
                found.setdefault(path)
            if isinstance(node.func, ast.Attribute) and (owner := path_of(node.func.value)):
                found.setdefault(owner)
    return list(found)


def called_modules(raw: str, namespace: Mapping[str, Any], module_type: type) -> dict[str, Any]:
    """Instances of ``module_type`` that the cell's text calls, by path; each object once."""
    from deepseek_lab.base.errors import TargetError
    from deepseek_lab.notebook.plan import resolve

    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path in called_paths(raw):
        try:
            value = resolve(path, namespace)
        except TargetError:
            continue
        if isinstance(value, module_type) and id(value) not in seen:
            seen.add(id(value))
            found[path] = value
    return found


@dataclasses.dataclass(frozen=True)
class Names:
    """Names that a cell binds, uses, and changes without binding them."""

    binds: frozenset[str]
    loads: frozenset[str]
    changes: frozenset[str]


def names(raw: str) -> Names:
    """Read the names off a cell's text; an unreadable cell has none."""
    tree = parsed(plain(raw))
    binds: set[str] = set()
    loads: set[str] = set()
    changes: set[str] = set()
    for node in ast.walk(tree) if tree else ():
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                loads.add(name)
            case ast.Name(id=name):
                binds.add(name)
            case ast.AugAssign(target=ast.Name(id=name)):
                loads.add(name)  # x += 1 needs the x that was there
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                binds.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                binds.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                if path := path_of(node.value):
                    changes.add(path.partition(".")[0].partition("[")[0])
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner))):
                if path := path_of(owner):
                    changes.add(path.partition(".")[0].partition("[")[0])
            case _:
                pass
    return Names(frozenset(binds), frozenset(loads), frozenset(changes))


def needed(cells: Sequence[tuple[int, str]], final: int) -> list[tuple[int, str]]:
    """The cells up to number ``final`` that its result needs, in order.

    Walks back from the final cell and keeps each earlier cell that binds or changes a name needed so far.
    The analysis is of text, so it keeps too much rather than too little.
    """
    wanted: set[str] = set()
    kept: list[tuple[int, str]] = []
    for number, raw in reversed([cell for cell in cells if cell[0] <= final]):
        seen = names(raw)
        if number == final or (seen.binds | seen.changes) & wanted:
            kept.append((number, raw))
            wanted |= seen.loads
    return kept[::-1]


def chosen(cells: Sequence[tuple[int, str]], text: str) -> list[tuple[int, str]]:
    """The cells that ``1-3,7`` names.

    Raises:
        UsageError: a number is no cell of this session.
    """
    from deepseek_lab.base.errors import UsageError

    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    known = dict(cells)
    unknown = [number for number in numbers if number not in known]
    if unknown:
        have = f"{min(known)}-{max(known)}" if known else "none"
        raise UsageError(
            f"there is no cell {unknown[0]} in this session (it has {have})", hint=f"--cells {have}"
        )
    return [(number, known[number]) for number in dict.fromkeys(numbers)]
