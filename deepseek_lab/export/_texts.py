"""The texts of an export: a module for each target, ``__init__``, ``main`` and the README."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence

from torch import Tensor

from deepseek_lab.export import _source
from deepseek_lab.export._plan import GraphPlan, TargetPlan
from deepseek_lab.export.calls import Out, Result
from deepseek_lab.export.exporters import ChosenGraph, Exporter, eager

_LITERALS = (type(None), bool, int, float, str, type(...))


def literal(value: object) -> str:
    """A value as Python source; what is no plain literal is REQUIRED."""
    match value:
        case Out(index=index, views=views):
            return f"Out({index}, {literal(views)})" if views else f"Out({index})"
        case slice(start=start, stop=stop, step=step):
            return f"slice({', '.join(map(literal, (start, stop, step)))})"
        case Result():
            return f"Result({{{', '.join(f'{key!r}: {literal(item)}' for key, item in value.items())}}})"
        case dict():
            return f"{{{', '.join(f'{key!r}: {literal(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case tuple():
            return f"({''.join(f'{literal(item)}, ' for item in value).strip()})"
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case _:
            return repr(value) if isinstance(value, _LITERALS) else "REQUIRED"


def described(value: object, outputs: Sequence[Tensor]) -> str:
    """A call's value in words: ``Result(logits=float32[1,128])``."""
    match value:
        case Out():
            one = value.of(outputs)
            return f"{str(one.dtype).removeprefix('torch.')}[{','.join(map(str, one.shape))}]"
        case dict():
            inner = ", ".join(f"{key}={described(item, outputs)}" for key, item in value.items())
            return f"{type(value).__name__}({inner})"
        case list() | tuple():
            inner = ", ".join(described(item, outputs) for item in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        case _:
            return repr(value)


def inputs_of(graph: GraphPlan) -> list[tuple[tuple[str | int, ...], str, tuple[int | None, ...]]]:
    """Path, dtype and shape of each tensor that the call brings; None for a size that varies."""
    rows = []
    for path, spec in zip(graph.arguments.paths, graph.problem.spec.live, strict=True):
        if path is not None:
            shape = tuple(None if dim in spec.dynamic else size for dim, size in enumerate(spec.shape))
            rows.append((path, spec.dtype, shape))
    return rows


def call_of(target: TargetPlan, graph: GraphPlan) -> str:
    """The call that a graph answers, in words."""
    given = [
        f"{path[0]}{''.join(f'[{key!r}]' for key in path[1:])}: "
        f"{dtype}[{','.join('*' if size is None else str(size) for size in shape)}]"
        for path, dtype, shape in inputs_of(graph)
    ]
    given += [f"{name}={value!r}" for name, value in graph.fixed.items()]
    return f"{target.name}({', '.join(given)}) -> {described(graph.value, graph.outputs)}"


def won(graph: GraphPlan) -> str:
    """What runs a graph and what that was worth."""
    gain = f", {graph.speedup:.2f} times as fast as eager when it was measured" if graph.speedup else ""
    return f"{graph.candidate}{gain}"


def program_module(target: TargetPlan, parts: Sequence[tuple[GraphPlan, ChosenGraph, Exporter]]) -> str:
    """The file of a target that programs run."""
    head = [f'"""``{target.name}`` in the words of the libraries that run it.', ""]
    head += [line for graph, _, _ in parts for line in (call_of(target, graph), f"    {won(graph)}")]
    imports = sorted({line for _, _, exporter in parts for line in exporter.imports})
    lines = [*head, '"""', "", "from pathlib import Path", "", *imports, *([""] if imports else [])]
    lines.insert(len(lines) - (1 if imports else 0), "import torch")
    names = {name for graph, _, _ in parts for path, _, _ in inputs_of(graph) for name in [str(path[0])]}
    known = {**target.parameters, **dict.fromkeys(sorted(names - target.parameters.keys()), REQUIRED_WORD)}
    lines += [
        *([] if imports else [""]),
        _IMPORT,
        "",
        "HERE = Path(__file__).resolve().parent",
        "PARAMETERS = {"
        + ", ".join(f"{name!r}: {literal(default)}" for name, default in known.items())
        + "}",
    ]
    for graph, chosen, exporter in parts:
        body = f'files = HERE / "artifacts" / "{target.module}" / "{graph.name}"\n{exporter.code(chosen)}'
        lines += ["", "", f"def open_{graph.name}():", f'    """{won(graph)}."""']
        lines.append(textwrap.indent(body, "    ").rstrip())
    lines += ["", "", "def load(eager=None):", f'    """A callable like ``{target.name}``.', ""]
    lines += [
        "    Calls that were not captured go to ``eager``; without one they are a TypeError.",
        '    """',
    ]
    lines += ["    graphs = ["]
    for graph, _, _ in parts:
        lines += _graph_lines(target, graph)
    lines += ["    ]", f"    return Calls({target.name!r}, PARAMETERS, graphs, eager)", ""]
    text = "\n".join(lines)
    used = [name for name in _HELPERS if re.search(rf"\b{name}\b", text)]
    return text.replace(_IMPORT, f"from .calls import {', '.join(used)}")


_HELPERS = ("REQUIRED", "Calls", "Graph", "Input", "Out", "Result", "with_constants")
_IMPORT = "from .calls import *"
REQUIRED_WORD = object()
"""Stands for a parameter without a default."""


def _graph_lines(target: TargetPlan, graph: GraphPlan) -> list[str]:
    run = f"open_{graph.name}()"
    if any(one is not None for one in graph.arguments.constants):
        path = f'HERE / "artifacts/{target.module}/{graph.name}/constants.pt"'
        run = f"with_constants({run}, torch.load({path}, weights_only=True))"
    inputs = [
        f"            Input({path!r}, torch.{dtype}, {shape!r})," for path, dtype, shape in inputs_of(graph)
    ]
    return [
        "        Graph(",
        f"            run={run},",
        "            inputs=(",
        *(f"    {line}" for line in inputs),
        "            ),",
        f"            fixed={literal(graph.fixed)},",
        f"            value={literal(graph.value)},",
        "        ),",
    ]


def eager_module(target: TargetPlan, weights: str | None) -> str:
    """The file of a target that stays what it is."""
    training = bool(getattr(target.target, "training", False))
    what = "your own module with the weights of the day of the export" if weights else "your own function"
    return (
        f'"""``{target.name}``: {what}, run by PyTorch.\n\nEager mode was kept: {_plain(target.reason)}.\n"""\n\n'
        "from pathlib import Path\n\nimport torch\n\nHERE = Path(__file__).resolve().parent\n\n\n"
        f'def load():\n    """Run the cells and return their ``{target.name}``."""\n'
        + textwrap.indent(eager.code(target.name, weights, training), "    ", lambda line: bool(line.strip()))
    )


def _plain(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")


def script(source: str, targets: Sequence[TargetPlan], weights: Mapping[str, str]) -> str:
    """The cells as a script whose calls go to the programs that won, and to eager mode where none fits."""
    lines = source.splitlines()
    edits = []
    for target in targets:
        end = _source.binding_end(source, target.name)
        if end is None:
            continue
        added = []
        if target.module in weights:
            added.append(
                f"{target.name}.load_state_dict(torch.load(_HERE / {weights[target.module]!r}, weights_only=True))"
            )
        if target.graphs:
            place = f"{target.name}.forward" if target.is_module else target.name
            added.append(f"{place} = _part({target.module!r}).load({place})")
        edits.append((end, added))
    for end, added in sorted(edits, reverse=True):
        lines[end:end] = added
    futures = [line for line in lines if line.startswith("from __future__")]
    rest = [line for line in lines if not line.startswith("from __future__")]
    head = [
        '"""The cells as a script; what was won runs in place of eager mode."""',
        "",
        *futures,
        "import torch",
    ]
    own = ["from test_export import HERE as _HERE", "from test_export import part as _part"]
    return "\n".join([*head, "", *own, "", *rest, ""])


def readme(
    targets: Sequence[TargetPlan],
    notes: Sequence[str],
    requirements: Sequence[str],
    files: Sequence[str],
    as_: str,
    folder: str,
) -> str:
    """How to run what was exported, and what it is."""
    lines = ["# Exported code", "", "Plain Python, written by deepseek_lab, which it does not need.", ""]
    lines += ["```", "pip install -r requirements.txt"]
    lines += ["python test_export.py   # checks results and speed; pytest runs it too"]
    lines += ["python main.py          # the cells, with what was won in place"] if as_ == "script" else []
    lines += ["```", ""]
    for target in targets:
        lines += [
            f"## {target.name}",
            "",
            "```python",
            f"from {folder}.{target.module} import load",
            "",
            f"{target.module} = load()",
            "```",
            "",
        ]
        if target.graphs:
            lines += [f"- `{call_of(target, graph)}`: {won(graph)}" for graph in target.graphs]
        else:
            lines += [
                f"Your own code: eager mode was kept, because {target.reason}. `load()` runs `cells.py`."
            ]
        lines.append("")
    if notes:
        lines += ["## To know", "", *(f"- {note}" for note in notes), ""]
    lines += ["## Packages", "", *(f"- {line}" for line in requirements), "", "## Files", ""]
    return "\n".join([*lines, *(f"- `{name}`" for name in files), ""])
