"""Modules of a cell on a mesh of ranks while it runs: layers shared, blocks in stages, copies averaged.

The modules, the loop and the optimizer stay the user's own, as with
:mod:`deepseek_lab.distributed.worker.sharded`: whatever refers to a parameter refers to what stands in for it, and
whole tensors come back when training is saved and when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.utils import _sync_module_states, _verify_param_shape_across_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.worker import shards
from deepseek_lab.distributed.worker.dress import Dress, attributes, undressed
from deepseek_lab.distributed.worker.mesh import told
from deepseek_lab.distributed.worker.mesh.attention import Attention
from deepseek_lab.distributed.worker.mesh.averages import Averages
from deepseek_lab.distributed.worker.mesh.grid import Grid
from deepseek_lab.distributed.worker.mesh.owned import Owned
from deepseek_lab.distributed.worker.mesh.pipeline import Pipeline
from deepseek_lab.distributed.worker.mesh.shown import Place, shown
from deepseek_lab.distributed.worker.mesh.slices import wholes
from deepseek_lab.distributed.worker.mesh.tensor import Layers, Split
from deepseek_lab.distributed.worker.sharded import Sharded
from deepseek_lab.distributed.worker.stand_ins import StandIn, alive
from deepseek_lab.distributed.worker.units import require
from deepseek_lab.processes.travel import Returning

_BUCKET_BYTES = 250 * 1024 * 1024
_SCALAR = torch.ops.aten._local_scalar_dense.default
_PARTS = (
    "While the cell runs, parameters are parts of which each rank has one, and gradients for them are found by "
    "loss.backward().\n  try: %%deepseek distributed --strategy ddp"
)
_WORDS = ("DTensor", "Sharding propagation failed", "Owned'", "differentiated Tensor")
"""Of errors that come from that."""
_broadcast: Callable[..., None] = dist._broadcast_coalesced  # type: ignore[attr-defined]


class Meshed(Sharded):
    """On a mesh as long as it is open.

    Args:
        mesh: How many ranks in each dimension.
        device: Of this rank.
        waits: Held open where other ranks are waited for.
    """

    def __init__(
        self, mesh: Mesh, device: str, waits: contextlib.AbstractContextManager[Any] | None = None
    ) -> None:
        super().__init__(waits)
        self.grid = Grid(mesh, device)
        self._averages = Averages(self.grid, self._waits)
        self._layers = Layers(self.grid) if mesh.tensor > 1 else None
        self._pipeline = (
            Pipeline(self.grid, self._waits, self._averages.passed) if mesh.pipeline > 1 else None
        )
        self._places: weakref.WeakKeyDictionary[nn.Module, list[Place]] = weakref.WeakKeyDictionary()
        self._trying = False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Meshed:
        self._handles = [
            register_optimizer_step_pre_hook(self._steps),
            register_optimizer_step_post_hook(self._stepped),
        ]
        dispatcher = DTensor._op_dispatcher
        # item(), bool() and float() of a sum or norm give the part of one rank, and ranks would part ways.
        dispatcher._custom_op_handlers[_SCALAR] = shards.whole_scalar
        # A tensor that the cell has made is the same on all ranks that share layers.
        self._undo.callback(
            setattr, dispatcher, "_allow_implicit_replication", dispatcher._allow_implicit_replication
        )
        dispatcher._allow_implicit_replication = True
        # It computes with parameters as they are.
        self._undo.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        torch.backends.mha.set_fastpath_enabled(False)
        self._patch()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._undo.close()
        self._averages.close()
        self._places.clear()
        super().__exit__(kind, *rest)
        self.grid.close()

    def _patch(self) -> None:
        """Hear of calls with all that they are given, and of backward passes when they are over."""
        plain, backward = nn.Module.__call__, torch.autograd.backward
        meshed = self

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            return meshed._call(module, args, kwargs, plain)

        @functools.wraps(backward)
        def passed(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            depth = getattr(meshed._depth, "backward", 0)
            meshed._depth.backward = depth + 1
            try:
                made = backward(*args, **kwargs)
            finally:
                meshed._depth.backward = depth
            if not depth and not meshed._trying:
                meshed._averages.after()
                if meshed._pipeline is not None:
                    meshed._pipeline.pipe.sent()
            return made

        def undo() -> None:
            nn.Module.__call__ = plain  # type: ignore[method-assign]
            torch.autograd.backward = backward

        nn.Module.__call__ = __call__  # type: ignore[method-assign]
        torch.autograd.backward = passed
        self._undo.callback(undo)

    def hint(self, error: str) -> str:
        """What can be done about an error that comes from parameters being parts."""
        last = error.splitlines()[-3:]  # what was raised, and not where
        told = any(word in line for word in _WORDS for line in last)
        return f"\n{_PARTS}" if told and not any(line.startswith("  try: ") for line in last) else ""

    # Calls.

    def _call(self, module: nn.Module, args: Any, kwargs: Any, plain: Callable[..., Any]) -> Any:
        pipeline = self._pipeline
        if self._trying:
            return plain(module, *args, **kwargs)
        depth = getattr(self._depth, "value", 0)
        if depth or (pipeline is not None and pipeline.pipe.quiet):
            if pipeline is not None and pipeline.within(module):
                return pipeline.block(module, args, kwargs, plain)
            return plain(module, *args, **kwargs)
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() < 0:
            self._prepare(module, args, kwargs)
            if new := self._averages.look():
                self._weigh(new)  # type: ignore[arg-type]
        self._depth.value = 1
        try:
            if pipeline is not None and any(isinstance(one, Owned) for one in module.parameters()):
                return pipeline.call(module, args, kwargs, plain)
            if self._layers is None or not (places := self._replicated(module)):
                return plain(module, *args, **kwargs)
            values: dict[int, Tensor] = {}
            for part, name in places:
                one: Any = part._parameters[name]
                values.setdefault(id(one), one.to_local())
            local = [values[id(part._parameters[name])] for part, name in places]
            with shown(module.modules(), places, local):
                return wholes(plain(module, *args, **kwargs))
        finally:
            self._depth.value = 0
            if self._layers is not None:
                self._layers.cut.forget()

    def _replicated(self, module: nn.Module) -> list[Place]:
        """Parameters that each rank has whole: modules compute with them as if they were not distributed."""
        if module not in self._places:
            self._places[module] = [
                (part, name)
                for part in module.modules()
                if not getattr(part, "_distribute_module_applied", False)
                for name, one in part._parameters.items()
                if isinstance(one, DTensor) and all(each.is_replicate() for each in one.placements)
            ]
        return self._places[module]

    # Before a module trains.

    def _prepare(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Put a module on the mesh that trains; where it is there, share its buffers."""
        if isinstance(module, DistributedDataParallel | FSDPModule):
            return  # the user's own
        plain = [one for one in module.parameters() if not isinstance(one, shards.PARTS)]
        if not any(one.requires_grad for one in plain):
            self._share_buffers(module)
            return
        if len(plain) < len(list(module.parameters())):
            raise TargetError(
                f"{type(module).__name__} is called as a whole after a part of it was called by itself, so that the "
                "part is on the mesh already",
                hint="call the part inside of the module's forward, or under torch.no_grad() before",
            )
        require(module, cut=False)
        self._require_alike(args, kwargs)
        with self._waits:
            _verify_param_shape_across_processes(_world(), list[Tensor](plain))
            _sync_module_states(module, _world(), _BUCKET_BYTES, 0, set())
        before = [(part, type(part), attributes(part)) for part in module.modules()]
        originals = [
            (part, name, one)
            for part in module.modules()
            for name, one in part._parameters.items()
            if one is not None
        ]
        self._trying = True
        try:
            split = self._place(module, args, kwargs)
        finally:
            self._trying = False
        made = {id(one): StandIn(one, part._parameters[name]) for part, name, one in originals}  # type: ignore[arg-type]
        optimizers = _optimizers(made)
        self._roots.append(module)
        del originals, plain
        self._adopt(module, made)
        self._dresses += [Dress(*was) for was in before]
        parameters = list(module.parameters())
        self._places.clear()
        self._averages.attend(parameters)
        self._tell(module, split, optimizers)

    def _require_alike(self, args: Any, kwargs: Any) -> None:
        """See that ranks which share one copy of a model were given the same batch.

        Raises:
            TargetError: they were not.
        """
        from deepseek_lab.distributed.worker.training import checksum

        flat = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        mine = [(tuple(one.shape), checksum([one])) for one in flat if not isinstance(one, shards.PARTS)]
        everyone = self.grid.all_told(mine)
        num_sharing = self.grid.mesh.pipeline * self.grid.mesh.tensor
        for rank, theirs in enumerate(everyone):
            first = rank - rank % num_sharing
            if theirs != everyone[first]:
                raise TargetError(
                    f"rank {rank} was given another batch than rank {first}, with which it shares a copy of the model",
                    hint="a DataLoader, or batches that do not depend on the rank, the time or the order of a set",
                )

    def _place(self, module: nn.Module, args: Any, kwargs: Any) -> Split | None:
        """Split layers, and give blocks to stages: parameters of the module are parts then."""
        pipeline, layers = self._pipeline, self._layers
        course = pipeline.plan(module, args, kwargs) if pipeline is not None else None
        split = None
        if layers is not None:
            within = [block.module for block in course.blocks] if course is not None else []
            split = layers.split(module, lambda: module(*args, **kwargs), within)
        if pipeline is None or course is None:
            assert layers is not None
            layers.replicate(module)
            return split
        stages = pipeline.stages(module, course)
        made: dict[int, nn.Parameter] = {}
        for part in module.modules():
            for name, one in part._parameters.items():
                if one is None:
                    continue
                if id(one) not in made:
                    stage = stages[id(one)]
                    here = stage == pipeline.pipe.here
                    bare = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")
                    local = one.detach() if here else bare
                    owned = Owned.of(local, stage, pipeline.pipe)
                    made[id(one)] = nn.Parameter(owned, requires_grad=one.requires_grad)
                part._parameters[name] = made[id(one)]
        return split

    def _tell(self, module: nn.Module, split: Split | None, optimizers: list[Optimizer]) -> None:
        mesh, pipeline = self.grid.mesh, self._pipeline
        placed = pipeline.placed[module] if pipeline is not None else None
        if placed is not None:
            mesh = dataclasses.replace(mesh, micro_batches=placed.num_parts)
        mine = told.held(self.grid.rank, mesh, module, placed, optimizers)
        ranks = tuple(self.grid.all_told(mine))
        pass_s = split.pass_s if split is not None else 0.0
        if pipeline is not None:
            pass_s = pipeline.pass_s
        plan = told.plan(
            mesh,
            module,
            split=split,
            placed=placed,
            ranks=ranks,
            pass_s=pass_s,
            tried_s=split.tried_s if split is not None and placed is None else None,
        )
        if not self.grid.rank:
            self.plans.append(plan.data())
            print(plan, flush=True)  # noqa: T201 - before the first update, in the cell's own output

    def _share_buffers(self, module: nn.Module) -> None:
        """Have all copies of a model have the same buffers, as DDP does."""
        if self.grid.mesh.data == 1 or not any(one is module for one in self._roots):
            return
        if buffers := list(module.buffers()):
            with self._waits:
                _broadcast(self.grid.group("data"), buffers, _BUCKET_BYTES, 0)

    # Whole again.

    @torch.no_grad()
    def gather(
        self, returning: Returning, wanted: Sequence[str], *, ends: bool
    ) -> tuple[dict[str, str], Callable[[], None]]:
        """As :meth:`Sharded.gather`, with what blocks have noted in buffers on their stages."""
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.pipe.sent()
            for placed in pipeline.placed.values():
                for module, stage in placed.modules:
                    for buffer in module.buffers():
                        source = self.grid.peer("pipeline", stage)
                        dist.broadcast(buffer, source, group=self.grid.group("pipeline"))
        left, undo = super().gather(returning, wanted, ends=ends)
        copies = self._copies()

        def undo_all() -> None:
            for put_on in copies:
                put_on()
            undo()

        return left, undo_all

    def _copies(self) -> list[Callable[[], None]]:
        """Leave copies that the cell has made of modules as they would be of plain ones; gives what undoes it."""
        hooks = {key for one in self._dresses for key in one.hooks}
        known = {id(part) for root in self._roots for part in root.modules()}
        found = []
        for module in alive(nn.Module):
            if id(module) not in known:
                names = ["_distribute_module_applied"]
                if isinstance(vars(module).get("forward"), Attention):
                    names.append("forward")
                if (put_on := undressed(module, hooks, names)) is not None:
                    found.append(put_on)
        return found


def _optimizers(made: dict[int, StandIn]) -> list[Optimizer]:
    """Those that have one of these parameters."""
    return [
        one
        for one in alive(Optimizer)
        if any(id(each) in made for group in one.param_groups for each in group["params"])
    ]


def _world() -> Any:
    return dist.group.WORLD
