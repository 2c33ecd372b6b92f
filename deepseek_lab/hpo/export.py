"""A cell with the values that a search has found in the place of its ranges."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from deepseek_lab.hpo.spaces import Plain, Space

_RANGES = {"log", "uniform", "integer", "choice"}
_PLAIN = {"epochs": "range"}
_GONE = {"report", "constrain"}
_SAME = {"subset", "validation"}


def filled(source: str, params: Mapping[str, Plain], spaces: Mapping[str, Space]) -> tuple[str, list[str]]:
    """The cell as a script: each range becomes its value, with the range as a comment.

    Args:
        source: The cell.
        params: Values by name; of choices the labels.
        spaces: The ranges by name.

    Returns:
        The text, and names whose range is in none of its lines (in a function of another cell).
    """
    tree = ast.parse(source)
    edits: list[tuple[int, int, int, int, str]] = []
    comments: dict[int, list[str]] = {}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (word := _word(node)) is not None:
            text = _replacement(node, word, source, tree, params, spaces, used)
            if text is None:
                continue
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            edits.append((node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, text))
            if word in _RANGES:
                asked = ast.get_source_segment(source, node) or ""
                comments.setdefault(node.end_lineno, []).append(" ".join(asked.split()))
    lines = source.splitlines()
    for number, words in comments.items():
        if "#" not in lines[number - 1]:
            lines[number - 1] += f"  # searched: {', '.join(words)}"
    for start, column, end, end_column, text in sorted(edits, reverse=True):
        head = lines[start - 1].encode()[:column].decode()
        tail = lines[end - 1].encode()[end_column:].decode()
        lines[start - 1 : end] = [head + text + tail]
    text = "\n".join(lines) + "\n"
    if any(isinstance(node, ast.Call) and _word(node) is not None for node in ast.walk(ast.parse(text))):
        text = f"import deepseek_lab as ds\n\n{text}"  # of ranges that the best configuration did not ask for
    return text, sorted(set(params) - used)


def _word(node: ast.Call) -> str | None:
    """``log`` of ``ds.log(...)``."""
    match node.func:
        case ast.Attribute(value=ast.Name(id="ds" | "deepseek_lab"), attr=word):
            return word if word in {*_RANGES, *_PLAIN, *_GONE, *_SAME} else None
        case _:
            return None


def _replacement(
    node: ast.Call,
    word: str,
    source: str,
    tree: ast.Module,
    params: Mapping[str, Plain],
    spaces: Mapping[str, Space],
    used: set[str],
) -> str | None:
    inside = [ast.get_source_segment(source, one) or "" for one in node.args]
    if word in _PLAIN:
        return f"{_PLAIN[word]}({', '.join(inside)})"
    if word in _GONE:
        return "None"
    if word in _SAME:
        return inside[0] if len(inside) == 1 else f"({', '.join(inside)})"
    name = _kept(_name(node, tree), node, params, spaces)
    if name is None:
        return None
    used.add(name)
    value = params[name]
    if word != "choice":
        return repr(value)
    options = {_label(one): ast.get_source_segment(source, one) or "" for one in node.args}
    return options.get(str(value), str(value))


def _kept(
    name: str | None, node: ast.Call, params: Mapping[str, Plain], spaces: Mapping[str, Space]
) -> str | None:
    """The name under which the values of a range stand: ``lr_2`` for another range of the same name."""
    if name is None:
        return None
    candidates = [one for one in params if one == name or one.rpartition("_")[0] == name]
    numbers = [one.value for one in node.args if isinstance(one, ast.Constant)]
    for one in candidates:
        space = spaces.get(one)
        if space is not None and space.kind != "choice" and numbers[:2] == [space.low, space.high]:
            return one
    return name if name in params else None


def _label(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=value):
            return repr(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ast.unparse(node)


def _name(call: ast.Call, tree: ast.Module) -> str | None:
    """What a call is assigned or passed to."""
    for keyword in call.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=value) if (
                value is call
            ):
                return _target(target)
            case ast.keyword(arg=str() as name, value=value) if value is call:
                return name
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if value is call and isinstance(key, ast.Constant):
                        return str(key.value)
            case _:
                pass
    return f"line {call.lineno}"


def _target(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str() as name)):
            return name
        case _:
            return None
