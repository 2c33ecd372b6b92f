"""Inductor's package around MKL's packed products, with the weights beside it."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph
from deepseek_lab.export.exporters.inductor import InductorExporter

_CODE = """
library = torch.library.Library("deepseek_lab", "FRAGMENT")
if not hasattr(torch.ops.deepseek_lab, "packed_linear"):  # the package's products with packed weights

    def packed_linear(x, packed, weight, rows):
        return torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)

    library.define("packed_linear(Tensor x, Tensor packed, Tensor weight, int rows) -> Tensor")
    for key in ("CPU", "MkldnnCPU"):
        library.impl("packed_linear", packed_linear, key)
model = torch._inductor.aoti_load_package(str(files / "model.pt2"), run_single_threaded=True)
weights = torch.load(files / "weights.pt", weights_only=True)
order = "{flags}"  # the package takes weights (w) and inputs (i) in this order, then the packed weights
packed = []
for one in json.loads((files / "packings.json").read_text()):
    weight = weights[one["weight"]].t() if one["transposed"] else weights[one["weight"]]
    packed.append(torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), one["rows"]))

def run(inputs):
    own, rest = iter(weights), iter(inputs)
    outputs = model(*[next(own if kind == "w" else rest) for kind in order], *packed)
    return outputs if isinstance(outputs, list | tuple) else (outputs,)

run.library = library  # the operator lives as long as this object
return run
"""


class PackedInductorExporter(InductorExporter):
    """Copies the package and saves the weights, which are packed again where they are loaded."""

    candidate = "inductor-packed"
    imports = ("import json",)

    def code(self, graph: ChosenGraph) -> str:
        """The plan in Inductor's words."""
        flags = "".join("w" if weight else "i" for weight in graph.problem.spec.is_weight)
        return _CODE.lstrip().replace("{flags}", flags)


EXPORTER = PackedInductorExporter()
