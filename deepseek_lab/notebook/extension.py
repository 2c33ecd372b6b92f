"""Loading into a shell, and leaving it exactly as it was."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

from deepseek_lab.base.errors import TargetError
from deepseek_lab.notebook import questions
from deepseek_lab.notebook.cells import is_ours
from deepseek_lab.notebook.completion import matcher
from deepseek_lab.notebook.header import HeaderTransformer
from deepseek_lab.notebook.holdings import on_memory_error
from deepseek_lab.notebook.host import warn
from deepseek_lab.notebook.magics import Magics
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.regions import Regions
from deepseek_lab.notebook.show import Shown

_EVENTS = ("pre_execute", "pre_run_cell", "post_execute", "post_run_cell")
_loaded: weakref.WeakKeyDictionary[Any, Extension] = weakref.WeakKeyDictionary()


class NotebookHost:
    """The notebook as verbs see it."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._always: Command | None = None
        self.run_cells: dict[str, int] = {}
        self.failed: set[int] = set()
        """Numbers of cells that ended with an error."""

    @property
    def always(self) -> Command | None:
        """What surrounds every following cell, if anything; pages are told when it changes."""
        return self._always

    @always.setter
    def always(self, command: Command | None) -> None:
        self._always = command
        if self.updates:
            questions.announce(self)

    @property
    def namespace(self) -> MutableMapping[str, Any]:
        """The user's names."""
        names: MutableMapping[str, Any] = self._shell.user_ns
        return names

    @namespace.setter
    def namespace(self, _: MutableMapping[str, Any]) -> None:
        raise AttributeError("the namespace is the shell's")

    @property
    def shell(self) -> Any:
        """The shell itself."""
        return self._shell

    @shell.setter
    def shell(self, _: Any) -> None:
        raise AttributeError("a host has the shell that it was made for")

    @property
    def updates(self) -> bool:
        """Whether the front end can change an output; a terminal cannot."""
        return hasattr(self._shell, "kernel")

    @updates.setter
    def updates(self, _: bool) -> None:
        raise AttributeError("whether outputs can change is the shell's matter")

    def display(self, shown: Shown) -> Callable[[], None]:
        """Show below the cell; the function that is returned updates that output."""
        from IPython.display import display

        # The bundle itself, raw: asking every formatter of the shell costs more than all else that we do.
        show: Callable[..., Any] = display
        handle = show(shown.bundle(), metadata=shown.metadata(), raw=True, display_id=True)
        return lambda: handle.update(shown.bundle(), metadata=shown.metadata(), raw=True)

    def say(self, text: str) -> None:
        """One line of the cell's own output."""
        from deepseek_lab.notebook.host import say

        say(text)

    def prepare(self, body: str) -> tuple[str, Callable[[], Any]]:
        """Compile text as the shell compiles a cell: the file name of its code, and what runs it and gives its value.

        ``await`` at the top level is not allowed here.
        """
        __tracebackhide__ = True
        shell = self._shell
        transformed = shell.transform_cell(body)
        name = shell.compile.cache(transformed, raw_code=body)
        tree = shell.transform_ast(shell.compile.ast_parse(transformed, filename=name))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        code = shell.compile(tree, name, "exec")
        value = None if last is None else shell.compile(ast.Expression(last.value), name, "eval")

        def run() -> Any:
            __tracebackhide__ = True
            exec(code, shell.user_ns)
            return None if value is None else eval(value, shell.user_ns)

        return name, run

    def python(self, body: str, *, magics: bool = False) -> str:
        """A cell's text as Python that runs without the notebook; lines keep their numbers.

        ``magics`` are calls of ``get_ipython()`` then, but for ours.

        Raises:
            TargetError: it holds a magic, or waits for something at its top level.
            SyntaxError: it is no Python.
        """
        text = body.lstrip("\n")
        above = len(body) - len(text)
        transformed: str = "\n" * above + self._shell.transform_cell(text)
        tree = ast.parse(transformed)
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and (_is_ours(node) if magics else _is_shell(node)):
                raise TargetError(
                    f"line {node.lineno} is a magic or a command of the notebook, which other processes do not have",
                    hint="run that line in a cell of its own",
                )
        for statement in tree.body:
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for node in ast.walk(statement):
                    if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
                        raise TargetError(
                            f"line {node.lineno} awaits at the top level, which is not allowed in other processes",
                            hint="asyncio.run(...) around it",
                        )
        return transformed

    def cells(self) -> list[tuple[int, str]]:
        """What ran without an error in this session."""
        history = self._shell.history_manager
        typed = history.input_hist_raw if history is not None else []
        return [
            (number, raw) for number, raw in enumerate(typed) if raw.strip() and number not in self.failed
        ]

    def post_run_cell(self, result: Any) -> None:
        """Remember which cells failed, and say what helps where memory ran out."""
        if result is not None and not result.success:
            if result.execution_count:
                self.failed.add(result.execution_count)
            on_memory_error(result.error_in_exec, warn)


def _is_shell(node: ast.expr) -> bool:
    """Whether a node of a transformed cell is what every magic begins with."""
    return isinstance(node, ast.Name) and node.id == "get_ipython"


def _is_ours(node: ast.expr) -> bool:
    """Whether a node of a transformed cell is one of our magics."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=func), attr=attr),
            args=[ast.Constant(value=str(name)), ast.Constant(value=str(line)), *_],
        ) if _is_shell(func):
            sign = "%%" if attr == "run_cell_magic" else "%"
            return is_ours(f"{sign}{name} {line}")
        case _:
            return False


class Extension:
    """Everything that one shell was given, and how to take it back."""

    def __init__(self, shell: Any) -> None:
        self._shell = weakref.ref(shell)
        host = NotebookHost(shell)
        self.regions = Regions(shell, host)
        self._transformer = HeaderTransformer()
        self._matcher = matcher(shell)
        self._callbacks = [(event, getattr(self.regions, event)) for event in _EVENTS]
        self._callbacks.append(("post_run_cell", host.post_run_cell))
        shell.input_transformers_cleanup.append(self._transformer)
        shell.Completer.custom_matchers.append(self._matcher)
        for event, callback in self._callbacks:
            shell.events.register(event, callback)
        if host.updates:
            questions.accept(host)
        self._before: list[tuple[str, str, Any]] = []
        for kind, functions in Magics(host, self.regions).functions().items():
            table = shell.magics_manager.magics[kind]
            for name, function in functions.items():
                self._before.append((kind, name, table.get(name)))
                table[name] = function

    def undo(self) -> None:
        """Take everything back."""
        shell = self._shell()
        if shell is None:
            return
        self.regions.close_all()
        if hasattr(shell, "kernel"):
            questions.refuse()
        _discard(shell.input_transformers_cleanup, self._transformer)
        _discard(shell.Completer.custom_matchers, self._matcher)
        for event, callback in self._callbacks:
            _discard(shell.events.callbacks[event], callback)
        for kind, name, before in self._before:
            table = shell.magics_manager.magics[kind]
            if before is None:
                table.pop(name, None)
            else:
                table[name] = before


def _discard(items: list[Any], item: Any) -> None:
    if item in items:
        items.remove(item)


def load(shell: Any) -> None:
    """Add the magics, the header transformer, completion and the region events to a shell. Prints nothing."""
    if shell not in _loaded:
        _loaded[shell] = Extension(shell)


def unload(shell: Any) -> None:
    """Restore the shell exactly. What was installed in modules keeps running."""
    extension = _loaded.pop(shell, None)
    if extension is not None:
        extension.undo()
