"""Our own kernels go out as what they mean: the PyTorch operators that the rewriting started from."""

from __future__ import annotations

from deepseek_lab.export.exporters.plain import PlainExporter


class KernelsExporter(PlainExporter):
    """Writes the graph as it was before our operators took the place of PyTorch's."""

    def __init__(self) -> None:
        super().__init__("kernels")
        self.note = (
            "the kernels belong to deepseek_lab and stay there: what runs here is their meaning in plain "
            "PyTorch, with the same results at eager's speed"
        )


EXPORTER = KernelsExporter()
