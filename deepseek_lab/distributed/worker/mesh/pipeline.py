"""A model in stages, through which the parts of a batch go one after the other.

All ranks run the model's own forward. Its blocks compute on the stage that has their parameters, and on other stages
they give tensors without values (:mod:`deepseek_lab.distributed.worker.mesh.owned`); what goes from a stage to the
next is sent and received where a block of another stage is called. So a stage is done with a part of the batch before
the next stage is, and computes the next part meanwhile. The backward pass of a loss goes through the same blocks in
the opposite order, the last part first (GPipe; Huang et al., arXiv:1811.06965). PyTorch's own schedules
(``torch.distributed.pipelining``) compute the loss themselves, in a loop that is theirs; here loop and loss stay the
user's.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker.mesh import trial
from deepseek_lab.distributed.worker.mesh.batches import Batch
from deepseek_lab.distributed.worker.mesh.grid import Grid
from deepseek_lab.distributed.worker.mesh.owned import Owned, Pipe, Shared
from deepseek_lab.distributed.worker.mesh.shown import shown
from deepseek_lab.distributed.worker.mesh.stages import Course, balanced, course

_MOST_KNOWN = 4096
_IN_PLACE = "leaf Variable that requires grad is being used in an in-place operation"
"""What PyTorch says to a block that begins by writing into what it is given."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where the blocks of a model are."""

    names: tuple[tuple[str, ...], ...]
    """Of blocks, by stage."""
    costs: tuple[float, ...]
    """The part of a pass that each stage computes."""
    num_bytes: int
    """Sent from stage to stage in an update, forward and backward."""
    modules: tuple[tuple[nn.Module, int], ...]
    """Blocks with their stages."""
    num_parts: int
    """That a batch goes through in."""
    means: bool
    """Whether the model gives numbers, such as a loss, which are then means over these."""


@dataclasses.dataclass(frozen=True)
class _Out:
    """A tensor that a block gives."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    trains: bool
    """Whether it has a gradient."""


@dataclasses.dataclass(frozen=True)
class _Outs:
    """All that a block gives: tensors, and values that are the same each time."""

    spec: Any
    leaves: tuple[Any, ...]


class Pipeline:
    """The stages of models.

    Args:
        grid: Of the ranks.
        waits: Held open where another stage is waited for.
        passed: Called when a backward pass has come to a block.
    """

    def __init__(
        self,
        grid: Grid,
        waits: contextlib.AbstractContextManager[Any],
        passed: Callable[[], None],
    ) -> None:
        self.grid, self.pipe, self.passed = grid, Pipe(grid, waits), passed
        self.placed: dict[nn.Module, Placed] = {}
        """By model."""
        self.pass_s = 0.0
        """What forward and backward pass of the last one take as a whole: three times as long as the first."""
        self._callers: set[nn.Module] = set()
        self._members: set[nn.Module] = set()
        """All modules of these models."""
        self._known: dict[Any, _Outs] = {}
        self._moved: dict[tuple[int, int], tuple[Tensor, Owned]] = {}
        self._kept: dict[tuple[int, int], tuple[Tensor, Owned]] = {}
        """The same of parameters, which all parts of a batch use."""
        self._inside = self._means = False

    # Before the first pass.

    def plan(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Course:
        """The blocks of a model, which is seen not to depend on what else is in a batch; called by all ranks.

        Raises:
            TargetError: there are too few, or they depend on that.
        """
        mesh = self.grid.mesh
        batch = Batch(args, kwargs, mesh.micro_batches)
        _require_single(root, len(batch.parts))
        first = batch.parts[0]
        num_parts = len(batch.parts)
        with trial.unchanged(root), torch.no_grad():
            found = course(
                root,
                lambda: trial.seeded(lambda: root(*first[0], **first[1])),
                mesh.pipeline,
                num_parts,
                self.grid.device,
            )
            began_s = time.perf_counter()
            whole = trial.outputs(trial.seeded(lambda: root(*args, **kwargs)))
            self._means = len(batch.parts) > 1 and any(not one.ndim for one in whole)
            self.pass_s = 3 * (time.perf_counter() - began_s)
            fine = True
            if num_parts > 1:
                parts = [trial.seeded(lambda one=one: root(*one[0], **one[1])) for one in batch.parts]  # type: ignore[misc]
                made = trial.outputs(batch.together(parts))
                fine = len(made) == len(whole) and max(trial.furthest(made, whole), default=0.0) <= 1
        if not self.grid.agreed(fine):
            raise TargetError(
                f"{type(root).__name__} gives something else when its batch goes through in {num_parts} parts: what it "
                "computes for a sample depends on the others",
                hint="--micro-batches 1, or --strategy tensor",
            )
        return found

    def stages(self, root: nn.Module, found: Course) -> dict[int, int]:
        """The stage of each parameter, by its identity; the same on all ranks."""
        mesh = self.grid.mesh
        costs = self.grid.told([one.cost_s for one in found.blocks])
        stages = balanced(costs, mesh.pipeline)
        of: dict[int, int] = {}
        for block, stage in zip(found.blocks, stages, strict=True):
            for one in block.module.parameters():
                of.setdefault(id(one), stage)
        again = {
            id(one): one.numel() * one.element_size()
            for block, stage in zip(found.blocks, stages, strict=True)
            for one in block.module.parameters()
            if of[id(one)] != stage  # the same weight on another stage
        }
        sent = sum(
            block.num_bytes * found.num_parts
            for block, stage, following in zip(found.blocks, stages, stages[1:], strict=False)
            if following != stage
        )
        self._callers |= found.callers
        self._members |= set(root.modules())
        total = sum(costs) or 1.0
        names: list[list[str]] = [[] for _ in range(mesh.pipeline)]
        shares = [0.0] * mesh.pipeline
        for block, cost, stage in zip(found.blocks, costs, stages, strict=True):
            names[stage].append(block.name)
            shares[stage] += cost / total
        modules = tuple((block.module, stage) for block, stage in zip(found.blocks, stages, strict=True))
        self.placed[root] = Placed(
            tuple(map(tuple, names)),
            tuple(shares),
            2 * (sent + sum(again.values())),
            modules,
            found.num_parts,
            self._means,
        )
        return {id(one): of.get(id(one), 0) for one in root.parameters()}

    # Passes.

    def call(self, module: nn.Module, args: Any, kwargs: Any, plain: Callable[..., Any]) -> Any:
        """Call a module that is called by no other; ``plain`` calls it as PyTorch would."""
        self.pipe.sent()
        if module in self._members - self._callers and _owner(module) is not None:
            try:
                return self.block(module, args, kwargs, plain)
            finally:
                self._moved.clear()
                self._kept.clear()
        batch = Batch(args, kwargs, self.grid.mesh.micro_batches if module in self.placed else 1)
        made = []
        self._inside = True
        try:
            for part_args, part_kwargs in batch.parts:
                made.append(plain(module, *part_args, **part_kwargs))
                self._moved.clear()
        finally:
            self._inside = False
            self._moved.clear()
            self._kept.clear()
        return batch.together(made)

    def within(self, module: nn.Module) -> bool:
        """Whether a module that is called by another is a block now."""
        inside = self._inside and not self.pipe.quiet
        return inside and module in self._members and module not in self._callers

    def block(self, module: nn.Module, args: Any, kwargs: Any, plain: Callable[..., Any]) -> Any:
        """Call a block where its parameters are; one that has none does what it does where its tensors are."""
        stage = _owner(module)
        if stage is None:
            return plain(module, *args, **kwargs)
        flat, spec = tree_flatten((args, kwargs))
        grad = torch.is_grad_enabled()
        given: list[Any] = [
            self._brought(one, stage, grad) if isinstance(one, Tensor) else one for one in flat
        ]
        owners = [
            (part, name, one)
            for part in module.modules()
            for name, one in part._parameters.items()
            if one is not None
        ]
        parameters = {id(one): self._brought(one, stage, grad, kept=True) for _, _, one in owners}
        run = _Block(self, module, plain, stage, spec, given, owners, list(parameters))
        tensors = [one for one in given if isinstance(one, Tensor)]
        outs = _Run.apply(run, *tensors, *parameters.values())  # type: ignore[no-untyped-call]
        assert run.outs is not None
        made = iter(outs)
        leaves = [next(made) if isinstance(one, _Out) else one for one in run.outs.leaves]
        return tree_unflatten(leaves, run.outs.spec)

    def _brought(self, one: Tensor, stage: int, grad: bool, *, kept: bool = False) -> Tensor:
        """A tensor on a stage, once for all that use it there."""
        if not isinstance(one, Owned):
            return Shared.apply(one) if grad and one.requires_grad else one  # type: ignore[no-untyped-call]
        if one.stage == stage:
            return one
        held = self._kept if kept else self._moved
        key = id(one), stage
        if key not in held:
            held[key] = one, self.pipe.moved(one, stage)
        return held[key][1]

    def known(self, key: Any, stage: int, find: Callable[[], tuple[Any, _Outs]]) -> tuple[Any, _Outs]:
        """What a block gives: found on its stage, and told to the others where it is not known what that is like.

        An error is raised on all stages where it was not known.
        """
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        outs = self._known.get(key)
        if outs is not None:
            return find() if self.pipe.here == stage else (None, outs)
        if self.pipe.here != stage:
            came, told = self.pipe.told(None, stage)
            if not came:
                raise _error(*told)
            leaves, spec = tree_flatten(told)
            outs = self._known[key] = _Outs(spec, tuple(leaves))
            return None, outs
        try:
            made, outs = find()
        except Exception as error:
            self.pipe.told((False, (type(error).__name__, str(error))), stage)
            raise
        self.pipe.told((True, tree_unflatten(outs.leaves, outs.spec)), stage)
        self._known[key] = outs
        return made, outs


def _error(name: str, text: str) -> Exception:
    """What was raised on another stage, as far as Python itself knows of it."""
    kind = getattr(builtins, name, None)
    if (
        name in {"RuntimeError", "ValueError", "TypeError", "IndexError", "AssertionError"}
        and kind is not None
    ):
        made: Exception = kind(text)
        return made
    return RuntimeError(f"{name}: {text}")


def _owner(module: nn.Module) -> int | None:
    """The stage that has a module's parameters; that of the first."""
    return next((one.stage for one in module.parameters() if isinstance(one, Owned)), None)


def _require_single(root: nn.Module, num_parts: int) -> None:
    if num_parts == 1:
        return
    for name, one in root.named_modules():
        batch = isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training
        if batch and type(one).__name__ != "LazyBatchNorm":
            raise TargetError(
                f"{name or 'the model'} ({type(one).__name__}) computes over a whole batch, which goes through in "
                f"{num_parts} parts",
                hint="--micro-batches 1, GroupNorm or LayerNorm in its place, or --strategy tensor",
            )


class _Block:
    """One call of a block."""

    def __init__(
        self,
        pipeline: Pipeline,
        module: nn.Module,
        plain: Callable[..., Any],
        stage: int,
        spec: Any,
        given: Sequence[Any],
        owners: Sequence[tuple[nn.Module, str, Tensor]],
        keys: Sequence[int],
    ) -> None:
        self.pipeline, self.stage = pipeline, stage
        self._module, self._plain, self._spec = module, plain, spec
        self._given = [None if isinstance(one, Tensor) else one for one in given]
        self._places = [index for index, one in enumerate(given) if isinstance(one, Tensor)]
        self._owners, self._keys = owners, keys
        self._grad = torch.is_grad_enabled()
        self.inputs: list[Tensor] = []
        """Of the graph of this block, here."""
        self.made: list[Tensor] = []
        self.outs: _Outs | None = None
        self._key = (
            id(module),
            stage,
            str(spec),
            tuple(
                (tuple(one.shape), one.dtype, one.requires_grad) if isinstance(one, Tensor) else repr(one)
                for one in given
            ),
            tuple(part.training for part in module.modules()),
            self._grad,
            tuple(one.requires_grad for _, _, one in owners),
            _autocast(),
        )

    def forward(self, tensors: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
        """Compute, where that is."""
        pipe = self.pipeline.pipe

        def find() -> tuple[list[Tensor], _Outs]:
            self.inputs = [_leaf(one, need and self._grad) for one, need in zip(tensors, needs, strict=True)]
            try:
                made = self._call(copies=False)
            except RuntimeError as error:
                if _IN_PLACE not in str(error):
                    raise
                made = self._call(copies=True)
            flat, spec = tree_flatten(made)
            leaves = tuple(_described(one, type(self._module)) for one in flat)
            return [one for one in flat if isinstance(one, Tensor)], _Outs(spec, leaves)

        made, self.outs = self.pipeline.known(self._key, self.stage, find)
        tensors_ = [one for one in self.outs.leaves if isinstance(one, _Out)]
        if made is None:
            locals_ = [
                torch.empty_strided(one.shape, one.stride, dtype=one.dtype, device="meta") for one in tensors_
            ]
        else:
            self.made = made
            locals_ = [one.detach() for one in made]
        return [Owned.of(one, self.stage, pipe) for one in locals_]

    def _call(self, *, copies: bool) -> Any:
        """Call the module, with what may be written into if it is to have copies."""
        given = list(self._given)
        # Who recomputes activations (torch.utils.checkpoint) has hooks for them: these are of this block alone.
        recomputes = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        apart = torch.autograd.graph.saved_tensors_hooks(lambda one: one, lambda one: one)
        with torch.set_grad_enabled(self._grad), self._shown(), self._alone(), apart:
            for place, one in zip(self._places, self.inputs, strict=False):
                given[place] = one.clone() if copies else one
            args, kwargs = tree_unflatten(given, self._spec)
            if recomputes and self._grad:
                return checkpoint(self._plain, self._module, *args, use_reentrant=False, **kwargs)
            return self._plain(self._module, *args, **kwargs)

    def backward(self, gradients: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of what was given, where they can be found."""
        pipe, stage = self.pipeline.pipe, self.stage
        brought = [None if one is None else pipe.brought(one, stage) for one in gradients]
        count = len(self._places)
        if pipe.here == stage:
            if not self.inputs and any(needs):
                raise RuntimeError("Trying to backward through a block a second time")
            pairs = [
                (out, one)
                for out, one in zip(self.made, brought, strict=True)
                if one is not None and out.requires_grad
            ]
            if pairs:
                with self._shown(), self._alone():
                    inspect.unwrap(torch.autograd.backward)(
                        [out for out, _ in pairs], [one for _, one in pairs], retain_graph=keep_graph()
                    )
            found: list[Tensor | None] = []
            for index, (one, need) in enumerate(zip(self.inputs, needs, strict=True)):
                gradient, one.grad = one.grad, None
                if gradient is None and need and index < count:
                    gradient = torch.zeros_like(one)  # for a stage that waits for it
                found.append(gradient if need else None)
            if not keep_graph():
                self.inputs, self.made = [], []
        else:
            found = [  # of parameters nothing: whether they have a gradient is told when the pass is over
                torch.empty(shape, dtype=dtype, device="meta") if need and index < count else None
                for index, ((shape, dtype), need) in enumerate(zip(self.shapes, needs, strict=True))
            ]
        return [None if one is None else Owned.of(one, stage, pipe) for one in found]

    shapes: Sequence[tuple[Any, torch.dtype]] = ()
    """Of all that was given and of parameters."""

    def _shown(self) -> contextlib.AbstractContextManager[None]:
        """Have modules see what is to be computed with in the place of parameters."""
        values = dict(zip(self._keys, self.inputs[len(self._places) :], strict=True))
        places = [(part, name) for part, name, _ in self._owners]
        return shown(self._module.modules(), places, [values[id(one)] for _, _, one in self._owners])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Compute what other stages do not: they draw no random numbers."""
        pipe = self.pipeline.pipe
        random = pipe.random() if self._module.training else contextlib.nullcontext()
        pipe.quiet += 1
        try:
            with random:
                yield
        finally:
            pipe.quiet -= 1


def keep_graph() -> bool:
    """Whether the backward pass that is under way leaves its graph for another one."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _leaf(one: Tensor, needs: bool) -> Tensor:
    local = one.local if isinstance(one, Owned) else one
    return local.detach().requires_grad_(needs and local.is_floating_point())


def _described(one: Any, kind: type) -> Any:
    if isinstance(one, DTensor | Owned):
        raise TargetError(
            f"{kind.__name__} gives a tensor of which only this rank has a part", hint="--strategy fsdp"
        )
    if isinstance(one, Tensor):
        return _Out(tuple(one.shape), one.stride(), one.dtype, one.requires_grad)
    return one


def _autocast() -> tuple[Any, ...]:
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)


class _Run(torch.autograd.Function):
    """A call of a block, as the graph of a pass knows it on all stages."""

    @staticmethod
    def forward(ctx: Any, run: _Block, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        run.shapes = [(one.shape, one.dtype) for one in tensors]
        made = run.forward(tensors, ctx.needs_input_grad[1:])
        assert run.outs is not None
        tells = [one for one in run.outs.leaves if isinstance(one, _Out)]
        ctx.mark_non_differentiable(*(one for one, out in zip(made, tells, strict=True) if not out.trains))
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        run: _Block = ctx.run
        run.pipeline.passed()
        return None, *run.backward(gradients, ctx.needs_input_grad[1:])
