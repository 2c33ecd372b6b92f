"""A graph that trains, compiled by Inductor ahead of time: its forward and its backward pass are a library each.

They are built in the builder process, from the joint graph of both that AOTAutograd traces and its partitioner cuts
where the least has to be kept. Nothing is traced or compiled in the user's process, which loads two packages.

Random numbers are drawn by PyTorch's own generator, in eager's order, so that the user's random stream goes on as ever.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.engine.candidates.inductor import open_package, outputs_of
from deepseek_lab.engine.training.again import gradients_again
from deepseek_lab.engine.training.programs import Program

_FORWARD, _BACKWARD, _MANIFEST = "forward.pt2", "backward.pt2", "compiled.json"
_OPTIONS: dict[str, Any] = {"fallback_random": True}
_COSTLY = {
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "pow",
    "sigmoid",
    "tanh",
    "erf",
    "sin",
    "cos",
    "atan2",
}
"""Operators on single values that take a processor ten times as long as reading their results from memory."""
_MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "argument {index} of a compiled graph, of shape {shape}, is at version {now}; expected version {before} instead"
)

Form = tuple[tuple[int, ...], tuple[int, ...], str, bool]
"""Shape, strides, dtype, and whether a gradient is taken."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What the two libraries take and give.

    Attributes:
        forms: Of the arguments, as they were traced; others are not run through the libraries.
        differentiable: For each output whether a gradient flows into it.
        updates: Arguments that the graph writes to; the forward library returns their new values behind the outputs.
        saved: Where each value that the backward library takes before the outputs' gradients comes from:
            an ``argument``, an ``output``, or what the forward library returns at the end (``saved``).
        strides: Of everything that the backward library takes, in order.
        gradients: Arguments whose gradients the backward library returns, in order.
        shared: Gradients, by their place, that share memory with something else and are copied.
        draws: Whether random numbers are drawn.
    """

    forms: tuple[Form, ...]
    differentiable: tuple[bool, ...]
    updates: tuple[int, ...]
    saved: tuple[tuple[str, int], ...]
    strides: tuple[tuple[int, ...], ...]
    gradients: tuple[int, ...]
    shared: tuple[int, ...]
    draws: bool

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """What :func:`build` has written."""
        return cls(**{name: _tuples(value) for name, value in json.loads(path.read_text("utf-8")).items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def form_of(tensor: Tensor) -> Form:
    """What an argument must be like."""
    return tuple(tensor.shape), tensor.stride(), str(tensor.dtype), tensor.requires_grad


def missing() -> str | None:
    """What this machine lacks to compile, or None."""
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"needs a C++ compiler, and there is no {compiler} here"


# -- building ----------------------------------------------------------------------------------------


def build(run: Program, arguments: Sequence[Tensor], directory: Path) -> None:
    """Compile a program's forward and backward pass into a folder.

    Args:
        run: The program, in PyTorch's operators.
        arguments: What it is called with; they are changed as the program changes its arguments.
        directory: Where the packages are written.

    Raises:
        Exception: what PyTorch raises where it cannot trace or compile the program.
    """
    from torch._functorch.aot_autograd import aot_export_joint_simple
    from torch._inductor import config
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.decomposition import select_decomp_table

    directory.mkdir(parents=True, exist_ok=True)
    before, state = [(one._version, one.detach().clone()) for one in arguments], torch.get_rng_state()
    outputs = run(arguments)
    draws = not torch.equal(state, torch.get_rng_state())
    updates = tuple(  # norms write to their statistics without a new version
        index
        for index, (one, (version, value)) in enumerate(zip(arguments, before, strict=True))
        if one._version != version or not torch.equal(one, value)
    )
    del before

    def traced(*given: Tensor) -> tuple[Tensor, ...]:
        own = [one.clone() if index in updates else one for index, one in enumerate(given)]
        return (*run(own), *(own[index].detach() for index in updates))

    with config.patch(_OPTIONS):
        joint = aot_export_joint_simple(
            traced, tuple(arguments), trace_joint=True, decompositions=select_decomp_table()
        )
        assert isinstance(joint, fx.GraphModule)
        _keep_costly(joint)
        count = len(outputs) + len(updates)
        forward, backward = partition_fn(joint, tuple(arguments), num_fwd_outputs=count)
    saved = _cut_forward(forward, count)
    gradients = _cut_backward(backward)
    given = [one.detach() for one in arguments]
    _package(forward, given, directory / _FORWARD)
    results = outputs_of(_open(directory / _FORWARD)(given))
    values = [_value(source, given, results, count) for source in saved]
    placeholders = [node.meta["val"] for node in backward.graph.nodes if node.op == "placeholder"]
    strides = tuple(tuple(map(int, one.stride())) for one in placeholders)
    differentiable = tuple(one.requires_grad for one in outputs)
    tangents = [torch.ones_like(one) for one, wanted in zip(outputs, differentiable, strict=True) if wanted]
    inputs = _laid_out([*values, *tangents], strides)
    _package(backward, inputs, directory / _BACKWARD)
    found = outputs_of(_open(directory / _BACKWARD)(inputs))
    manifest = Manifest(
        forms=tuple(map(form_of, arguments)),
        differentiable=differentiable,
        updates=updates,
        saved=saved,
        strides=strides,
        gradients=gradients,
        shared=_shared(found, inputs),
        draws=draws,
    )
    (directory / _MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest)), encoding="utf-8")


def _keep_costly(joint: fx.GraphModule) -> None:
    """Have what takes a processor long kept and not computed again: the partitioner counts bytes, as a GPU would."""
    from torch.utils.checkpoint import CheckpointPolicy

    for node in joint.graph.nodes:
        if node.op == "call_function" and getattr(node.target, "__name__", "").partition(".")[0] in _COSTLY:
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def _package(graph: fx.GraphModule, arguments: Sequence[Tensor], path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(graph, tuple(arguments), strict=False)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=dict(_OPTIONS)
        )


def _cut_forward(graph: fx.GraphModule, count: int) -> tuple[tuple[str, int], ...]:
    """Have the forward graph return, after its ``count`` outputs, only what nobody else has. Returns the sources."""
    (output,) = graph.graph.find_nodes(op="output")
    arguments = {node: index for index, node in enumerate(graph.graph.find_nodes(op="placeholder"))}
    returned = list(output.args[0])
    outputs, kept = returned[:count], list[fx.Node]()
    sources = []
    for node in returned[count:]:
        if node in arguments:
            sources.append(("argument", arguments[node]))
        elif node in outputs:
            sources.append(("output", outputs.index(node)))
        else:
            if node not in kept:
                kept.append(node)
            sources.append(("saved", kept.index(node)))
    output.args = ((*outputs, *kept),)
    graph.recompile()
    return tuple(sources)


def _cut_backward(graph: fx.GraphModule) -> tuple[int, ...]:
    """Have the backward graph return the gradients that there are. Returns whose they are."""
    (output,) = graph.graph.find_nodes(op="output")
    returned = list(output.args[0])
    whose = tuple(index for index, node in enumerate(returned) if node is not None)
    output.args = (tuple(returned[index] for index in whose),)
    graph.recompile()
    return whose


def _shared(found: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of these share memory with others, or with an earlier one of them."""
    seen = {one.untyped_storage().data_ptr() for one in others if one.numel()}
    shared = []
    for index, one in enumerate(found):
        pointer = one.untyped_storage().data_ptr()
        if one.numel() and pointer in seen:
            shared.append(index)
        seen.add(pointer)
    return tuple(shared)


# -- running -----------------------------------------------------------------------------------------


def load(directory: Path, plain: Program) -> Program:
    """The libraries of a folder as a program.

    Args:
        directory: What :func:`build` has written.
        plain: The same in PyTorch's operators: for arguments of other forms, and for gradients of gradients.
    """
    return _Libraries(directory, plain).run


def _open(path: Path) -> Any:
    package = open_package(path)
    return lambda arguments: package(*arguments)


def _value(source: tuple[str, int], arguments: Sequence[Any], results: Sequence[Any], count: int) -> Tensor:
    kind, index = source
    found = {"argument": arguments, "output": results, "saved": results[count:]}[kind][index]
    assert isinstance(found, Tensor)
    return found


def _laid_out(tensors: Sequence[Tensor], strides: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The tensors with these strides; copied where they are others."""
    made = []
    for tensor, wanted in zip(tensors, strides, strict=True):
        if tensor.stride() != wanted:
            tensor = torch.empty_strided(tensor.shape, wanted, dtype=tensor.dtype).copy_(tensor)
        made.append(tensor)
    return made


class _Libraries:
    """Both libraries, loaded."""

    def __init__(self, directory: Path, plain: Program) -> None:
        self.manifest = Manifest.read(directory / _MANIFEST)
        self.forward, self.backward = _open(directory / _FORWARD), _open(directory / _BACKWARD)
        self.plain = plain

    def run(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, differentiable; buffers are updated."""
        manifest = self.manifest
        if torch.is_autocast_enabled("cpu") or manifest.forms != tuple(map(form_of, arguments)):
            return self.plain(arguments)
        updated: list[Tensor] = []
        outputs: tuple[Tensor, ...] = _Run.apply(self, updated, *arguments)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for index, value in zip(manifest.updates, updated, strict=True):
                arguments[index].copy_(value)
        return outputs


class _Run(torch.autograd.Function):
    """One call of the libraries."""

    @staticmethod
    def forward(ctx: Any, libraries: _Libraries, updated: list[Tensor], *arguments: Tensor) -> Any:
        manifest = libraries.manifest
        ctx.libraries, ctx.arguments = libraries, arguments
        ctx.versions = [
            (index, arguments[index]._version)
            for index in dict.fromkeys(index for kind, index in manifest.saved if kind == "argument")
            if index not in manifest.updates  # of these there is a copy
        ]
        ctx.state = torch.get_rng_state() if manifest.draws else None
        ctx.before = [arguments[index].clone() for index in manifest.updates]
        count = len(manifest.differentiable) + len(manifest.updates)
        results = outputs_of(libraries.forward([one.detach() for one in arguments]))
        outputs = results[: len(manifest.differentiable)]
        updated += results[len(manifest.differentiable) : count]
        # A detached output has the version of the output, and is none: an output among what is saved would be a cycle.
        ctx.save_for_backward(
            *(
                results[index].detach() if kind == "output" else results[count + index]
                for kind, index in manifest.saved
                if kind != "argument"
            )
        )
        ctx.outputs = [
            results[index].detach()
            for index in dict.fromkeys(index for kind, index in manifest.saved if kind == "output")
        ]
        ctx.mark_non_differentiable(
            *(output for output, flows in zip(outputs, manifest.differentiable, strict=True) if not flows)
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        libraries: _Libraries = ctx.libraries
        manifest = libraries.manifest
        for index, before in ctx.versions:
            if (now := ctx.arguments[index]._version) != before:
                shape = list(ctx.arguments[index].shape)
                raise RuntimeError(_MODIFIED.format(index=index, shape=shape, now=now, before=before))
        if torch.is_grad_enabled() or any(one._version for one in ctx.outputs or ()):
            found = gradients_again(
                libraries.plain,
                ctx.arguments,
                manifest.gradients,
                gradients,
                state=ctx.state,
                before=dict(zip(manifest.updates, ctx.before, strict=True)),
            )
        else:
            kept = iter(ctx.saved_tensors)
            given = list(ctx.arguments)
            for index, value in zip(manifest.updates, ctx.before, strict=True):
                given[index] = value
            values = [
                given[index].detach() if kind == "argument" else next(kept) for kind, index in manifest.saved
            ]
            ctx.outputs = None
            tangents = [
                gradient for gradient, flows in zip(gradients, manifest.differentiable, strict=True) if flows
            ]
            found = list(outputs_of(libraries.backward(_laid_out([*values, *tangents], manifest.strides))))
            for place in manifest.shared:
                found[place] = found[place].clone()  # type: ignore[union-attr]
        all_of: list[Tensor | None] = [None] * len(ctx.arguments)
        for index, gradient in zip(manifest.gradients, found, strict=True):
            all_of[index] = gradient
        return (None, None, *all_of)
