"""The notebook's cells as plain Python: nothing of ours, of IPython's or of its magics is left."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from deepseek_lab.base.errors import UsageError

_MAGIC = re.compile(r"#\s*[%!?]")
_SHELL = {"get_ipython", "display"}
_ENGINE = {"report", "restore", "run"}
Edit = tuple[int, int, str]


def plain_source(cells: Sequence[tuple[str, str]], references: Mapping[str, str]) -> str:
    """The cells one below the other as a module's text.

    Args:
        cells: Names and texts, magics already turned to comments.
        references: For each stub that borrows a reference's meaning, the reference's name.

    Raises:
        UsageError: a cell is not Python, or awaits outside of a function.
    """
    parts = []
    for name, text in cells:
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise UsageError(
                f"{name} is not plain Python: line {error.lineno}: {error.msg}",
                hint="%deepseek export out/ --cells with the numbers of the others",
            ) from None
        if any(_awaits(statement) for statement in tree.body):
            raise UsageError(
                f"{name} awaits outside of a function, which only a notebook can",
                hint="%deepseek export out/ --cells with the numbers of the others",
            )
        parts.append(f"# {name}\n{text.strip()}\n")
    text = _without_magic_comments("\n".join(parts))
    first = _Cleaner(text, references)
    text = _Cleaner(first.without_calls(), references, first.optimized).without_statements()
    return re.sub(r"\n{4,}", "\n\n\n", text)


def binds(source: str, path: str) -> bool:
    """Whether the root of a path such as ``model.encoder[0]`` gets its value at the module's top level."""
    return binding_end(source, path) is not None


def binding_end(source: str, path: str) -> int | None:
    """Number of the last line of the last top-level statement that binds the root of ``path``."""
    try:
        root = next((n.id for n in ast.walk(ast.parse(path, mode="eval")) if isinstance(n, ast.Name)), "")
    except SyntaxError:
        return None
    found = None
    for statement in ast.parse(source).body:
        if root and root in _bound(statement):
            found = statement.end_lineno
    return found


def imported(source: str) -> set[str]:
    """Top-level names of the packages that a module's text imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def literals(source: str, target: str) -> dict[str, object]:
    """Keyword arguments that every call of ``target`` in the text gives as the same literal."""
    calls = [
        {
            keyword.arg: keyword.value.value
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == target
    ]
    return {str(name): value for name, value in calls[-1].items() if name is not None} if calls else {}


def _awaits(node: ast.AST) -> bool:
    if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef | ast.Lambda):
        return False
    if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
        return True
    return any(_awaits(child) for child in ast.iter_child_nodes(node))


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    found = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def _without_magic_comments(text: str) -> str:
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and _MAGIC.match(token.string):
            row, column = token.start
            kept = lines[row - 1][:column].rstrip()
            lines[row - 1] = f"{kept}\n" if kept else ""
    return "".join(lines)


class _Cleaner:
    """Edits a text at the places that its tree points to."""

    def __init__(
        self, text: str, references: Mapping[str, str], optimized: AbstractSet[str] = frozenset()
    ) -> None:
        self.text, self.references = text, references
        self.tree = ast.parse(text)
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self.ours: set[str] = set()
        """Names of the packages that go."""
        self.handles: set[str] = set()
        """Names whose values go with them."""
        self.optimized = set(optimized)
        """Names of targets that had our attributes."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.ours |= {
                    (a.asname or a.name).partition(".")[0] for a in node.names if self._foreign(node, a)
                }

    @staticmethod
    def _foreign(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
        name = alias.name if isinstance(node, ast.Import) else node.module or ""
        return name.partition(".")[0] in ("deepseek_lab", "IPython")

    def without_calls(self) -> str:
        """Every ``optimize(TARGET, ...)`` becomes TARGET."""
        apart = {
            id(expression)
            for node in ast.walk(self.tree)
            for expression in (
                [
                    *getattr(node, "decorator_list", ()),
                    *(item.context_expr for item in getattr(node, "items", ())),
                ]
            )
        }
        edits = []
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and self._is_optimize(node.value)
            ):
                self.optimized |= _bound(node)
            if isinstance(node, ast.Call) and id(node) not in apart and node.args and self._is_optimize(node):
                inner = ast.get_source_segment(self.text, node.args[0]) or ""
                simple = isinstance(node.args[0], ast.Name | ast.Attribute | ast.Call | ast.Subscript)
                edits.append((*self._span(node), inner if simple else f"({inner})"))
        return self._edited(edits)

    def _is_optimize(self, node: ast.Call) -> bool:
        match node.func:
            case ast.Attribute(value=ast.Name(id=owner), attr="optimize"):
                return owner in self.ours
            case ast.Name(id="optimize"):
                return "optimize" in self.ours
            case _:
                return False

    def without_statements(self) -> str:
        """Statements that speak to us or to the shell go; blocks and functions of ours become plain ones."""
        return self._edited(list(self._edits(self.tree.body, top=True)))

    def _edits(self, body: Sequence[ast.stmt], *, top: bool = False) -> Iterator[Edit]:
        for statement in body:
            start, end = self._span(statement)
            gone = (start, end, "" if top else "pass")
            match statement:
                case ast.Import() | ast.ImportFrom():
                    rest = [alias for alias in statement.names if not self._foreign(statement, alias)]
                    if len(rest) != len(statement.names):
                        statement.names = rest
                        yield (start, end, ast.unparse(statement)) if rest else gone
                case ast.With(items=items) if any(self._mentions(item.context_expr) for item in items):
                    for item in items:
                        if isinstance(item.optional_vars, ast.Name):
                            self.handles.add(item.optional_vars.id)
                    first = statement.body[0]
                    kept = [ast.unparse(item) for item in items if not self._mentions(item.context_expr)]
                    header = f"with {', '.join(kept)}:" if kept else "if True:"
                    yield (start, self._span(first)[0], f"{header}\n{' ' * first.col_offset}")
                    yield from self._edits(statement.body)
                case ast.FunctionDef(name=name) if (reference := self._reference(statement)) is not None:
                    at = min([start, *(self._span(one)[0] - 1 for one in statement.decorator_list)])
                    yield (at, end, f"{name} = {reference}")
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    marks = [self._span(one)[0] - 1 for one in statement.decorator_list] + [start]
                    for index, decorator in enumerate(statement.decorator_list):
                        if self._mentions(decorator):
                            yield (marks[index], marks[index + 1], "")
                    yield from self._edits(statement.body)
                case ast.If() | ast.For() | ast.While() | ast.Try() | ast.With():
                    heads = (getattr(statement, part, None) for part in ("test", "iter"))
                    if any(head is not None and self._mentions(head) for head in heads):
                        yield gone
                        continue
                    for part in ("body", "orelse", "finalbody"):
                        yield from self._edits(getattr(statement, part, ()))
                    for handler in getattr(statement, "handlers", ()):
                        yield from self._edits(handler.body)
                case _:
                    if self._mentions(statement):
                        self.handles |= _bound(statement)
                        yield gone

    def _reference(self, function: ast.FunctionDef) -> str | None:
        """Name of the function whose meaning a stub has."""
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and self._is_optimize(decorator):
                for keyword in decorator.keywords:
                    if keyword.arg == "like" and isinstance(keyword.value, ast.Name):
                        return keyword.value.id
                    if keyword.arg == "like" and isinstance(keyword.value, ast.Constant):
                        return str(keyword.value.value)
        return self.references.get(function.name)

    def _mentions(self, node: ast.AST) -> bool:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id in self.ours | _SHELL | self.handles:
                return True
            match inner:
                case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in _ENGINE:
                    if owner in self.optimized:
                        return True
                case _:
                    pass
        return False

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _edited(self, edits: Sequence[Edit]) -> str:
        data = self.text.encode()
        last = len(data) + 1
        for start, end, text in sorted(edits, reverse=True):
            if end <= last:
                data = data[:start] + text.encode() + data[end:]
                last = start
        return data.decode()
