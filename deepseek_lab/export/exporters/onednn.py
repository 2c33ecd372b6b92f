"""The graph as PyTorch code, its linear layers as oneDNN's products over weights that are packed where it is loaded."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch
from torch import fx

from deepseek_lab.engine.candidates.onednn import PRODUCTS, put, read
from deepseek_lab.engine.problem import PRECISIONS
from deepseek_lab.export.exporters import ChosenGraph, Exporter

_CODE = """
forward = runpy.run_path(str(files / "graph.py"))["forward"]
weights = torch.load(files / "weights.pt", weights_only=True)
held = types.SimpleNamespace(**torch.load(files / "constants.pt", weights_only=True))
for number, one in enumerate(json.loads((files / "products.json").read_text())):
    weight = weights[one["weight"]].t() if one["transposed"] else weights[one["weight"]]
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to({dtype}).contiguous(), one["rows"])
    setattr(held, f"packed_{number}", packed)
order = "{flags}"  # the graph takes weights (w) and inputs (i) in this order

def run(inputs):
    own, rest = iter(weights), iter(inputs)
    outputs = forward(held, *[next(own if kind == "w" else rest) for kind in order])
    return outputs if isinstance(outputs, list | tuple) else (outputs,)

return run
"""


def source(graph: fx.GraphModule) -> str:
    """A graph as a file of ordinary Python with one function, ``forward(self, ...)``."""
    code = graph.graph.python_code("self")
    lines = []
    for name, value in sorted(code.globals.items()):
        if name not in code.src or name == "torch":
            continue
        if isinstance(value, float):
            lines.append(f"from math import {name}")
        elif isinstance(value, types.ModuleType):
            lines.append(f"import {value.__name__} as {name}")
        else:
            lines.append(f"from {value.__module__} import {value.__qualname__} as {name}")
    return "\n".join(["import torch", *lines, "", code.src.strip(), ""])


class OneDNNExporter(Exporter):
    """Writes the rewritten graph as Python, with its weights and constants beside it."""

    candidate = "onednn"
    imports = ("import json", "import runpy", "import types")
    note = "oneDNN's products belong to PyTorch; with one or two rows deepseek_lab's own read a weight faster"

    def write(self, graph: ChosenGraph, directory: Path) -> None:
        """Print the graph; save what it reads."""
        module, found = read(graph.artifact)
        dtype = PRECISIONS[graph.problem.spec.precision]

        def call(number: int, x: fx.Node, bias: fx.Node | None, weight: fx.Node) -> fx.Node:
            def cast(node: fx.Node, to: torch.dtype) -> fx.Node:
                return node if dtype == torch.float32 else module.graph.call_method("to", (node, to))

            packed = module.graph.create_node("get_attr", f"packed_{number}")
            shift = cast(bias, dtype) if bias is not None else None
            one, product = found[number], torch.ops.mkldnn._linear_pointwise.default
            arguments: Any = (cast(x, dtype), packed, shift, one.activation, [], one.algorithm)
            return cast(module.graph.call_function(product, arguments), torch.float32)

        for number in range(len(found)):
            setattr(module, f"packed_{number}", torch.empty(0))  # a name that the printed code refers to
        put(module, found, call)
        (directory / "graph.py").write_text(source(module), encoding="utf-8")
        (directory / PRODUCTS).write_text((graph.artifact / PRODUCTS).read_text())
        torch.save(dict(module.named_buffers()), directory / "constants.pt")
        torch.save(list(graph.problem.weights), directory / "weights.pt")

    def code(self, graph: ChosenGraph) -> str:
        """The plan in PyTorch's words."""
        flags = "".join("w" if weight else "i" for weight in graph.problem.spec.is_weight)
        dtype = str(PRECISIONS[graph.problem.spec.precision])
        return _CODE.lstrip().replace("{flags}", flags).replace("{dtype}", dtype)


EXPORTER = OneDNNExporter()
