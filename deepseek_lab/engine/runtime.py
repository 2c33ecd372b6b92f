"""What stands in the user's process for one captured graph: eager at once, something faster later.

A runner is what the Dynamo backend returns. Swapping is one attribute assignment between two calls, and
every call checks what the installed program depends on before it trusts it.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.problem import PLAIN, Problem, Spec, TensorSpec, graph_key, normalise
from deepseek_lab.engine.results import Result, computing, inverse
from deepseek_lab.measure.race import Ratio

_numbers = itertools.count(1)
STABLE_CALLS = 8
"""Calls with unchanged weights after which a stale program is worth building again."""
MAX_REBUILDS = 4
KEPT_BYTES = 1 << 24
"""Inputs of the captured call that are kept as copies, to measure the graph on later, are no larger than this."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """A program with what it needs to stay right."""

    name: str
    program: Program
    guard: WeightGuard | None
    output_order: tuple[tuple[int, ...] | None, ...]


def in_order(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """The tensor with its dimensions laid out in memory in the given order, as eager lays them out."""
    if order is None or tensor.numel() == 0:
        return tensor
    return tensor.permute(order).contiguous().permute(inverse(order))


def value_range(tensor: Tensor) -> tuple[float, float]:
    """Smallest and largest finite value of a tensor; (0, 0) where there is none."""
    plain = tensor.detach()
    if plain.is_complex():
        plain = plain.abs()
    wide = plain.double()
    finite = wide[torch.isfinite(wide)]
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)


def random_like(spec: TensorSpec, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform values between ``low`` and ``high`` in a spec's shape and dtype."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype == torch.bool:
        return torch.full(spec.shape, bool(high))
    made = torch.rand(spec.shape, generator=generator, dtype=torch.float64) * (high - low) + low
    return made.round().to(dtype) if not (dtype.is_floating_point or dtype.is_complex) else made.to(dtype)


@dataclasses.dataclass(frozen=True)
class Repeat:
    """What a captured graph can be run on once more."""

    arguments: tuple[Any, ...]
    """The graph's own, in the order of its placeholders."""
    is_weight: tuple[bool, ...]
    wants_gradient: tuple[bool, ...]
    inputs: str
    """Where those that are no weights come from, in words."""


def is_weight(node: fx.Node, value: Any) -> bool:
    """Whether a graph input is a parameter or buffer of a module rather than something the call brought."""
    return isinstance(value, torch.nn.Parameter) or "_buffers_" in str(node.target)


def _size(value: Any, sizes: Mapping[str, int]) -> Any:
    """A size that a graph takes as an argument of its own; None where no tensor carries it: nothing reads it then."""
    return sizes.get(str(value.node.expr)) if isinstance(value, torch.SymInt) else value


class GraphRunner:
    """One captured graph. Called by Dynamo's code with the graph's own arguments.

    What Dynamo is given is the bound ``__call__``: Dynamo wraps it, and would keep a copy of all that an object with a
    ``__dict__`` held then, example inputs and weights among it.

    Args:
        graph_module: What Dynamo captured.
        example_inputs: The arguments of the call that was captured; not kept once a decision is made.
        precision, tolerance: What the user gave away.
        on_fallback: Told the reason when a call could not use the installed program.
        on_stale: Told when the weights have changed and have then been stable for some calls.
        on_training: Told when results of an installed program are differentiated.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        precision: str = "float32",
        tolerance: float | None = None,
        on_fallback: Callable[[GraphRunner, str], None] = lambda runner, reason: None,
        on_stale: Callable[[GraphRunner], None] = lambda runner: None,
        on_training: Callable[[GraphRunner], None] = lambda runner: None,
    ) -> None:
        self.graph_id = f"graph{next(_numbers)}"
        self.graph_module = graph_module
        self.eager: Callable[..., Any] = graph_module.forward
        self.num_calls = 0
        self.installed: Installed | None = None
        self.artifact: Path | None = None
        """Where the store keeps the files of what is installed; None when it keeps none."""
        self.decided = False
        self.looked_up = threading.Event()
        """Set when the store's program is installed, or when it is known that there is none."""
        self.awaited = False
        """Whether a call of the user's waits for that."""
        self.remembered: Ratio | None = None
        """What the installed program brought in the user's own calls in an earlier process."""
        self.sure = True
        """Whether the builder's race alone says that the installed program is faster."""
        self.trains = False
        self.training: Callable[[Sequence[Any]], Any] | None = None
        """How the graph is run with gradients, where it trains."""
        self.refusal: str | None = None
        self.literals: dict[int | str, object] = {}
        """Arguments of the captured call that are plain values, by positions or names: the graph holds for these."""
        self.submitted = False
        """Whether the workshop was told of this graph."""
        self.lasting_effects = False
        """Whether the captured call changes objects that outlive it, so that repeating it could be seen."""
        self.spec: Spec | None = None
        self._on_fallback, self._on_stale, self.on_training = on_fallback, on_stale, on_training
        self._watch: WeightGuard | None = None
        self._stable_calls = 0
        self.num_rebuilds = 0
        self._lock = threading.Lock()
        self.results: tuple[Result, ...] | None = None
        """Where each result comes from; None where they are the graph's outputs."""
        self.plain = self.eager
        """The graph in eager mode, its results as a program returns them."""
        try:
            plain, self.results = computing(graph_module)
            self.plain = plain.forward
            self.graph, self._positions, dims = normalise(plain)
        except CaptureError as error:
            self.refusal = error.message
            return
        results = next(node for node in self.graph.graph.nodes if node.op == "output").args[0]
        self.has_gradient = tuple(
            bool(node.meta["example_value"].requires_grad)
            for node in (results if isinstance(results, tuple | list) else (results,))
        )
        """For each output whether eager's is part of the gradient's graph; one that was detached is not."""
        placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
        tensors = [example_inputs[position] for position in self._positions]
        self._weight_at = tuple(
            is_weight(placeholders[position], value)
            for position, value in zip(self._positions, tensors, strict=True)
        )
        specs = tuple(TensorSpec.of(value, dim) for value, dim in zip(tensors, dims, strict=True))
        self.refusal = self._refusal(tensors)
        self.spec = Spec(
            inputs=specs,
            is_weight=self._weight_at,
            precision=precision,
            tolerance=tolerance,
            num_threads=torch.get_num_threads(),
            graph_key=graph_key(self.graph, specs, self._weight_at, precision, tolerance),
        )
        self._live_positions = tuple(
            p for p, weight in zip(self._positions, self._weight_at, strict=True) if not weight
        )
        self._weight_positions = tuple(
            p for p, weight in zip(self._positions, self._weight_at, strict=True) if weight
        )
        self._last: tuple[Any, ...] | None = tuple(example_inputs)
        self._weights = tuple(example_inputs[position] for position in self._weight_positions)
        self._ranges = tuple(value_range(example_inputs[position]) for position in self._live_positions)
        self._kept = self._small_inputs(example_inputs)

    def _refusal(self, tensors: Sequence[Tensor]) -> str | None:
        operations = [node for node in self.graph.graph.nodes if node.op not in ("placeholder", "output")]
        if not operations:
            return "contains no operation"
        # What stands around a call is not in its graph: the builder would compute, and accept, another dtype.
        if torch.is_autocast_enabled("cpu"):
            return "is called under autocast, which its graph does not hold"
        if (default := torch.get_default_dtype()) != torch.float32:
            name = str(default).removeprefix("torch.")
            return f"is called where the default dtype is {name}, which its graph does not hold"
        for tensor in tensors:
            if tensor.device.type != "cpu":
                return f"runs on {tensor.device.type}, where no candidate of this machine does"
            if type(tensor) not in PLAIN:
                return f"takes a {type(tensor).__name__}"
            if tensor.layout != torch.strided:
                return f"takes a tensor of layout {tensor.layout}"
        return None

    def problem(self) -> Problem:
        """The graph with the weights and live inputs of the last call that was seen."""
        assert self.spec is not None
        with self._lock:
            arguments = self._last
        if arguments is None:
            raise CaptureError("the inputs of the call are no longer held")
        weights = tuple(arguments[position].detach() for position in self._weight_positions)
        live = tuple(arguments[position].detach() for position in self._live_positions)
        specs = tuple(
            TensorSpec.of(arguments[position], dict(zip(spec.dynamic, spec.symbols, strict=True)))
            for position, spec in zip(self._positions, self.spec.inputs, strict=True)
        )
        return Problem(dataclasses.replace(self.spec, inputs=specs), self.graph, weights, live)

    def weights_now(self) -> tuple[Tensor, ...]:
        """The weight objects themselves, as the last seen call passed them."""
        arguments = self._last
        if arguments is not None:
            self._weights = tuple(arguments[position] for position in self._weight_positions)
        return self._weights

    def tensors_of(self, arguments: Sequence[Any]) -> list[Tensor]:
        """The tensors among Dynamo's arguments, as the normalised graph takes them."""
        return [arguments[position] for position in self._positions]

    def live_of(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """The live inputs among Dynamo's arguments."""
        return tuple(arguments[position] for position in self._live_positions)

    def buffers_of(self, arguments: Sequence[Any]) -> list[Tensor]:
        """The weights among Dynamo's arguments that take no gradient and that a call may change."""
        weights = [arguments[position] for position in self._weight_positions]
        return [one for one in weights if not one.requires_grad]

    def trained_weights(self) -> list[Tensor]:
        """The weights that take a gradient."""
        return [one for one in self.weights_now() if one.requires_grad]

    @property
    def live_takes_gradient(self) -> tuple[bool, ...]:
        """For each live input whether it took a gradient when the call was captured."""
        placeholders = [node for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        values = [placeholders[position].meta.get("example_value") for position in self._live_positions]
        return tuple(isinstance(one, Tensor) and one.requires_grad for one in values)

    def problem_on(self, live: Sequence[Tensor]) -> Problem:
        """The graph with its weights and other live inputs than those of the last call."""
        assert self.spec is not None
        own, rest = iter(self.weights_now()), iter(live)
        tensors = [next(own) if weight else next(rest) for weight in self.spec.is_weight]
        specs = tuple(
            TensorSpec.of(tensor, dict(zip(spec.dynamic, spec.symbols, strict=True)))
            for tensor, spec in zip(tensors, self.spec.inputs, strict=True)
        )
        spec = dataclasses.replace(self.spec, inputs=specs)
        return Problem(spec, self.graph, tuple(one.detach() for one in self.weights_now()), tuple(live))

    def live_sources(self) -> tuple[Any, ...]:
        """Dynamo's word for where each live input was found, such as ``L['kwargs']['input_ids']``."""
        placeholders = [node for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        return tuple(
            getattr(placeholders[position], "_dynamo_source", None) for position in self._live_positions
        )

    def random_problem(self, seed: int) -> Problem | None:
        """The graph with its weights and random live inputs in the ranges that were seen at capture."""
        if self.spec is None or self.refusal is not None:
            return None
        generator = torch.Generator().manual_seed(seed)
        live = tuple(
            random_like(spec, low, high, generator)
            for spec, (low, high) in zip(self.spec.live, self._ranges, strict=True)
        )
        return Problem(self.spec, self.graph, tuple(w.detach() for w in self.weights_now()), live)

    def _small_inputs(self, arguments: Sequence[Any]) -> tuple[Tensor, ...] | None:
        """Copies of the live inputs; None where those are large or of an unusual kind."""
        live = [arguments[position] for position in self._live_positions]
        plain = all(type(one) in (Tensor, torch.nn.Parameter) and one.layout == torch.strided for one in live)
        if not plain or sum(one.numel() * one.element_size() for one in live) > KEPT_BYTES:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return tuple(one.detach().clone() for one in live)

    def repeat(self, seed: int) -> Repeat:
        """What to run the captured graph on once more: the weights as they are now, and inputs.

        Those are the inputs of the captured call where they are held, else random ones in the ranges seen then.

        Raises:
            CaptureError: the graph takes something other than tensors and sizes, or random inputs cannot be made.
        """
        if self.spec is None:
            raise CaptureError(f"the graph cannot be run once more: {self.refusal}", hint="%deepseek why")
        live, inputs = self._inputs_again(seed)
        tensors = dict(zip(self._live_positions, live, strict=True))
        tensors |= zip(self._weight_positions, self.weights_now(), strict=True)
        sizes = {
            symbol: tensors[position].shape[dim]
            for position, spec in zip(self._positions, self.spec.inputs, strict=True)
            for dim, symbol in zip(spec.dynamic, spec.symbols, strict=True)
        }
        placeholders = [node for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        examples = [node.meta.get("example_value") for node in placeholders]
        weights = frozenset(self._weight_positions)
        wants = [tensors[at] if at in weights else example for at, example in enumerate(examples)]
        return Repeat(
            tuple(
                tensors[at] if at in tensors else _size(example, sizes) for at, example in enumerate(examples)
            ),
            tuple(at in weights for at in range(len(examples))),
            tuple(isinstance(one, Tensor) and one.requires_grad for one in wants),
            inputs,
        )

    def _inputs_again(self, seed: int) -> tuple[Sequence[Tensor], str]:
        """Live inputs for one more run, and in words where they come from."""
        if self._kept is not None:
            return self._kept, "the inputs of the call that was captured"
        arguments = self._last
        if arguments is not None:
            live = tuple(arguments[position] for position in self._live_positions)
            return live, "the inputs of the last call that was seen"
        problem = self.random_problem(seed)
        if problem is None:
            raise CaptureError(
                f"the inputs of the call are no longer held, and the graph {self.refusal}",
                hint="%deepseek graph --profile at the end of the cell that makes the call",
            )
        return (
            problem.live,
            "random inputs in the ranges that were seen; the call's own are too large to be kept",
        )

    def is_awaited(self) -> bool:
        """Whether a call of the user's waits for the store's program."""
        return self.awaited

    def install(self, candidate: Candidate, program: Program, guard: WeightGuard | None, order: Any) -> None:
        """Use ``program`` from the next call on."""
        self.artifact, self.remembered = None, None
        self.installed = Installed(candidate.name, program, guard if candidate.bakes_weights else None, order)

    def uninstall(self) -> None:
        """Go back to eager."""
        self.installed = None

    def release(self) -> None:
        """Let go of the example inputs."""
        self._last = None

    def let_go(self) -> None:
        """Hold neither a program nor a weight; Dynamo may keep the graph itself for as long as the process runs."""
        self.uninstall()
        self.release()
        self._weights, self._watch, self._kept = (), None, None

    def __call__(self, *arguments: Any) -> Any:
        """Run the graph with whatever is fastest and right for these arguments."""
        self.num_calls += 1
        if self.training is not None and torch.is_grad_enabled():
            return self.training(arguments)
        installed = self.installed
        if installed is None:
            if self._watch is not None:
                self._watch_weights(arguments)
            return self.eager(*arguments)
        weights = [arguments[position] for position in self._weight_positions]
        if installed.guard is not None and (reason := installed.guard.changed(weights)) is not None:
            self.uninstall()
            self._last = arguments
            self._watch, self._stable_calls = WeightGuard(weights), 0
            self._on_fallback(self, reason)
            return self.eager(*arguments)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            if self.trains:
                return self.eager(*arguments)
            outputs = _WithRecomputedBackward.apply(self, installed, *arguments)  # type: ignore[no-untyped-call]
        else:
            outputs = self._run(installed, arguments, weights)
        if self.results is None:
            return outputs
        try:
            return self.results_of(outputs, arguments)
        except RuntimeError as error:
            self._failed(installed, error)
            return self.eager(*arguments)

    def results_of(self, outputs: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """What the call returns where a program's outputs and the graph's own arguments are these."""
        if self.results is None:
            return tuple(outputs)
        return tuple(result.of(outputs, arguments) for result in self.results)

    def _run(self, installed: Installed, arguments: Sequence[Any], weights: Sequence[Tensor]) -> Any:
        live = [arguments[position] for position in self._live_positions]
        try:
            outputs = installed.program(live, weights)
        except Exception as error:  # whatever a backend raises, the user's call is answered by eager
            self._failed(installed, error)
            return self.plain(*arguments)
        return tuple(in_order(out, order) for out, order in zip(outputs, installed.output_order, strict=True))

    def _failed(self, installed: Installed, error: Exception) -> None:
        self.uninstall()
        text = str(error).strip().splitlines()
        self._on_fallback(
            self, f"{installed.name} raised {type(error).__name__}: {text[0][:200] if text else ''}"
        )

    def _watch_weights(self, arguments: tuple[Any, ...]) -> None:
        weights = [arguments[position] for position in self._weight_positions]
        assert self._watch is not None
        if self._watch.changed(weights) is not None:
            self._watch, self._stable_calls = WeightGuard(weights), 0
            return
        self._stable_calls += 1
        if self._stable_calls >= STABLE_CALLS:
            self._watch = None
            if self.num_rebuilds < MAX_REBUILDS:
                self.num_rebuilds += 1
                self._last = arguments
                self._on_stale(self)


class _WithRecomputedBackward(torch.autograd.Function):
    """Fast forward; a backward that runs the eager graph again and differentiates that.

    People call models in notebooks without ``no_grad`` and never ask for a gradient. When one is asked
    for, it is eager's own, and from then on the graph counts as trained and stays eager.
    """

    @staticmethod
    def forward(ctx: Any, runner: GraphRunner, installed: Installed, *arguments: Any) -> Any:
        """Run the installed program; keep the inputs, not the activations."""
        ctx.runner = runner
        ctx.tensor_at = [i for i, value in enumerate(arguments) if isinstance(value, Tensor)]
        ctx.others = [None if isinstance(value, Tensor) else value for value in arguments]
        ctx.save_for_backward(*[arguments[i] for i in ctx.tensor_at])
        weights = [arguments[position] for position in runner._weight_positions]
        outputs = runner._run(installed, arguments, weights)
        ctx.mark_non_differentiable(
            *[out for out, grad in zip(outputs, runner.has_gradient, strict=True) if not grad]
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Eager forward and backward on the saved inputs."""
        runner: GraphRunner = ctx.runner
        create_graph = torch.is_grad_enabled()
        runner.trains = True
        runner.on_training(runner)
        arguments = list(ctx.others)
        saved = ctx.saved_tensors
        for index, tensor in zip(ctx.tensor_at, saved, strict=True):
            arguments[index] = tensor
        wanted = [i for i in ctx.tensor_at if ctx.needs_input_grad[i + 2]]
        with torch.enable_grad():
            for index in wanted:
                # A second derivative needs the way back; a view of its own for each, or an input that was computed
                # from another would have its gradient counted twice.
                own = arguments[index]
                arguments[index] = own.view_as(own) if create_graph else own.detach().requires_grad_()
            outputs = runner.plain(*arguments)
        outputs = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
        pairs = [
            (out, grad)
            for out, grad in zip(outputs, gradients, strict=True)
            if grad is not None and out.requires_grad
        ]
        found: Sequence[Any] = [None] * len(wanted)
        if pairs and wanted:
            found = torch.autograd.grad(
                [out for out, _ in pairs],
                [arguments[i] for i in wanted],
                [grad for _, grad in pairs],
                allow_unused=True,
                create_graph=create_graph,
            )
        by_index = dict(zip(wanted, found, strict=True))
        return (None, None, *[by_index.get(i) for i in range(len(arguments))])
