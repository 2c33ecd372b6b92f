"""The ways to run a graph that trains: memory format and precision, each with gradients by autograd as ever.

A way takes the user's own parameters and changes none of them: what it casts or lays out anew are copies within the
call, and gradients come back in the parameters' own dtype and layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from deepseek_lab.engine.problem import PRECISIONS, Problem, Spec
from deepseek_lab.engine.results import inverse
from deepseek_lab.engine.training.programs import Program
from deepseek_lab.engine.training.scaling import Scaled

Orders = tuple[tuple[int, ...] | None, ...]
"""For each output the order of its dimensions in memory; None where it is contiguous."""


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run a training step.

    Attributes:
        layout: ``channels-last`` for images in that order, or empty.
        precision: ``float32`` leaves the graph's own; ``bf16`` and ``fp16`` are autocast, fp16 with scaled gradients.
        fused: Whether the optimiser runs in PyTorch's fused form.
        keeps: Whether memory that a step frees is kept for the next one.
        compiled: Whether Inductor has compiled forward and backward pass.
    """

    layout: str = ""
    precision: str = "float32"
    fused: bool = False
    keeps: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """What reports call it."""
        parts = [self.precision if self.lowers else "", self.layout, "inductor" if self.compiled else ""]
        parts.append("fused optimizer" if self.fused else "")
        parts.append("memory reuse" if self.keeps else "")
        return "+".join(filter(None, parts)) or "eager"

    @property
    def lowers(self) -> bool:
        """Whether it computes in a lower precision than the code says."""
        return self.precision != "float32"

    @property
    def graph(self) -> Way:
        """The part of it that is about the graph."""
        return dataclasses.replace(self, fused=False, keeps=False)

    def plan(self) -> str:
        """The same by hand, as Python."""
        lines = []
        if self.keeps:
            lines += ["libc = ctypes.CDLL(None)  # keep freed memory: no page is cleared anew at each step"]
            lines += ["libc.mallopt(-1, -1), libc.mallopt(-3, 1 << 30)"]
        if self.compiled:
            lines.append(
                "model = torch.compile(model, options={'fallback_random': True})  # eager's random numbers"
            )
        if self.layout:
            lines.append("inputs = inputs.to(memory_format=torch.channels_last)")
        if self.lowers:
            dtype = PRECISIONS[self.precision]
            lines += [f'with torch.autocast("cpu", dtype={dtype}):', "    outputs = model(inputs)"]
            lines.append("outputs = outputs.float()  # the loss in float32")
            if self.precision == "fp16":
                lines.append('scaler = torch.amp.GradScaler("cpu")  # scale(loss).backward(), step, update')
        else:
            lines.append("outputs = model(inputs)")
        if self.fused:
            lines.append("for group in optimizer.param_groups:")
            lines.append('    group["fused"], group["foreach"] = True, False')
        return "\n".join(lines) + "\n"


def ways_for(problem: Problem) -> list[Way]:
    """The ways that may gain, most promising first."""
    layouts = ["channels-last", ""] if _has_images(problem) else [""]
    precision = problem.spec.precision
    if precision in ("bf16", "fp16"):
        lowered = [Way(layout, precision) for layout in layouts]
        return [*lowered, *(Way(layout) for layout in layouts if layout)]
    return [Way(layout) for layout in layouts if layout]


def _has_images(problem: Problem) -> bool:
    convolves = any(
        getattr(node.target, "__name__", "") in ("conv2d", "conv_transpose2d")
        for node in problem.graph.graph.nodes
    )
    return convolves and any(map(_is_image, problem.live))


def _is_image(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_floating_point()


def program(
    graph: fx.GraphModule, spec: Spec, way: Way, orders: Orders, dtypes: Sequence[torch.dtype]
) -> Program:
    """The graph, run in a way.

    Args:
        graph: A normalised graph.
        spec: Its inputs.
        way: How.
        orders: How eager's outputs are laid out in memory.
        dtypes: Eager's output dtypes.
    """
    run = _with_reshape(graph) if way.layout else graph
    dtype = PRECISIONS[way.precision]
    images = way.layout == "channels-last"

    def call(arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if images:
            arguments = [
                one.contiguous(memory_format=torch.channels_last) if not weight and _is_image(one) else one
                for one, weight in zip(arguments, spec.is_weight, strict=True)
            ]
        if way.lowers:
            with torch.autocast("cpu", dtype=dtype):
                outputs = run(*arguments)
        else:
            outputs = run(*arguments)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return tuple(
            _as_eager(output, order, kind)
            for output, order, kind in zip(outputs, orders, dtypes, strict=True)
        )

    if way.precision != "fp16":
        return call
    plain = program(graph, spec, dataclasses.replace(way, precision="float32"), orders, dtypes)
    return Scaled(call, plain, [index for index, weight in enumerate(spec.is_weight) if weight])


def _as_eager(output: Tensor, order: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
    output = output.to(dtype)
    if order is None:
        return output.contiguous()
    return output.permute(order).contiguous().permute(inverse(order))


def _with_reshape(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with ``view`` as ``reshape``: what is laid out otherwise cannot always be viewed."""
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    for node in nodes.nodes:
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"
    return fx.GraphModule(graph, nodes)
