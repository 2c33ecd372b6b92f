"""Modules of a cell sharded while it runs: each rank holds its part of parameters, gradients and optimizer states.

The outermost call of a module with trainable parameters shards it by ``torch.distributed.fsdp.fully_shard`` (FSDP2;
Zhao et al., arXiv:2304.11277), unit by unit (:mod:`deepseek_lab.distributed.worker.units`). The module, the loop and
the optimizer stay the user's own: whatever refers to a parameter refers to its shard from then on
(:mod:`deepseek_lab.distributed.worker.stand_ins`), states that an optimizer has for it are sharded as it is, and
``state_dict()`` gives whole tensors. Whole tensors come back when training is saved and when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.distributed.utils import _sync_module_states, _verify_param_shape_across_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker import collectives, shards
from deepseek_lab.distributed.worker.dress import Dress, attributes
from deepseek_lab.distributed.worker.replicas import Replicas
from deepseek_lab.distributed.worker.stand_ins import StandIn, alive, replace
from deepseek_lab.distributed.worker.units import require, units
from deepseek_lab.processes.travel import Returning

_SHARDS = (
    "While the cell runs, parameters are shards (DTensor), which go together with other tensors only in the forward of "
    "their module.\n  try: PARAMETER.full_tensor() for its values, or %%deepseek distributed --strategy ddp"
)
_HINTS = {
    "DTensor": _SHARDS,
    "Sharding propagation failed": _SHARDS,
    "One of the differentiated Tensors": "While the cell runs, parameters are shards, and gradients for them are found "
    "by loss.backward().\n  try: loss.backward(), or %%deepseek distributed --strategy ddp",
    "FSDP does not support deepcopy": "  try: copy.deepcopy(model.state_dict()), or %%deepseek distributed --strategy "
    "ddp",
}
"""What to say to errors that have these words."""
_BUCKET_BYTES = 250 * 1024 * 1024
_SCALAR = torch.ops.aten._local_scalar_dense.default


_broadcast: Callable[..., None] = dist._broadcast_coalesced  # type: ignore[attr-defined]
_Before = list[tuple[type, dict[str, set[Any]]]]
"""Classes and attributes of a module's parts before it was sharded."""


@dataclasses.dataclass
class _Call:
    """A module that is being called."""

    unit: nn.Module | None = None
    """Whose parameters it has."""
    entered: bool = False
    """Whether the unit was gathered for this call, as its own call would have done."""


_SUMS = (dist.ReduceOp.SUM, dist.ReduceOp.AVG)


class _AllGather(DefaultAllGather):
    """Of parameters."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False
    ) -> Any:
        if async_op or not input_tensor.is_cpu:
            return super().__call__(output_tensor, input_tensor, group, async_op)
        rows = output_tensor.view(dist.get_world_size(group), -1)
        return collectives.all_gather(rows, input_tensor.view(-1), group)


class _ReduceScatter(DefaultReduceScatter):
    """Of gradients."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> Any:
        if async_op or not input_tensor.is_cpu or op not in _SUMS:
            return super().__call__(output_tensor, input_tensor, group, op, async_op)
        size = dist.get_world_size(group)
        collectives.reduce_scatter(output_tensor.view(-1), input_tensor.view(size, -1), group)
        if op == dist.ReduceOp.AVG:
            output_tensor /= size
        return None


class Sharded(Replicas):
    """Fully sharded as long as it is open.

    Args:
        waits: Held open where other ranks are waited for, beside forward and backward pass.
    """

    def __init__(self, waits: contextlib.AbstractContextManager[Any] | None = None) -> None:
        super().__init__()
        self._waits = waits or contextlib.nullcontext()
        self._roots: list[nn.Module] = []
        self._units: dict[nn.Module, nn.Module] = {}
        """Module to the unit that has its parameters."""
        self._root_of: dict[nn.Module, nn.Module] = {}
        """By unit."""
        self._dresses: list[Dress] = []
        self._parameters: list[StandIn] = []
        self._states: dict[int, StandIn] = {}
        """States that were there before, by shard."""
        self._known: dict[int, tuple[Optimizer, RemovableHandle]] = {}
        self._measured: set[int] = set()
        self._calls = threading.local()
        self._gather = FSDPParamGroup.pre_forward
        self._reduce = FSDPParamGroup.post_backward

    def __enter__(self) -> Sharded:
        super().__enter__()
        # item(), bool() and float() of a sum or norm give the part of one rank, and ranks would part ways.
        DTensor._op_dispatcher._custom_op_handlers[_SCALAR] = shards.whole_scalar
        waits, gather, reduce = self._waits, self._gather, self._reduce

        def pre_forward(group: FSDPParamGroup, *arguments: Any) -> Any:
            with waits:  # parameters are gathered
                return gather(group, *arguments)

        def post_backward(group: FSDPParamGroup, *arguments: Any) -> Any:
            self._weigh_whole(group)
            return reduce(group, *arguments)

        FSDPParamGroup.pre_forward = pre_forward  # type: ignore[assignment, method-assign]
        FSDPParamGroup.post_backward = post_backward  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        del DTensor._op_dispatcher._custom_op_handlers[_SCALAR]
        FSDPParamGroup.pre_forward = self._gather  # type: ignore[method-assign]
        FSDPParamGroup.post_backward = self._reduce  # type: ignore[method-assign]
        for _, handle in self._known.values():
            handle.remove()
        for kept in (self._roots, self._parameters, self._dresses):
            kept.clear()
        for each in (self._units, self._root_of, self._states, self._known):
            each.clear()
        super().__exit__(kind, *rest)

    def _weigh_whole(self, group: FSDPParamGroup) -> None:
        """Weigh whole gradients, of which each rank is to get its part of the mean."""
        by = 1.0 if self._weight is None else self._weight()
        for one in group.fsdp_params if by != 1 else ():
            whole = getattr(one, "_unsharded_param", None)
            if whole is not None and whole.grad is not None:
                whole.grad *= by

    @property
    def modules(self) -> list[nn.Module]:
        """What was sharded."""
        return list(self._roots)

    def hint(self, error: str) -> str:
        """What can be done about an error that comes from parameters being shards."""
        return next((f"\n{hint}" for words, hint in _HINTS.items() if words in error), "")

    # Calls.

    def _before(self, module: nn.Module, arguments: Any) -> Any:
        calls = self._calls.__dict__.setdefault("stack", [])
        calls.append(call := _Call())
        outermost = len(calls) == 1
        before: _Before | None = None
        call.unit = self._units.get(module)
        if outermost and torch.is_grad_enabled() and not _in_backward():
            if call.unit is None:
                before = self._shard(module)
                call.unit = self._units.get(module)
            elif buffers := list(self._root_of[call.unit].buffers()):
                with self._waits:
                    _broadcast(_world(), buffers, _BUCKET_BYTES, 0)
        unit = call.unit
        gathers = unit is module and before is None  # its hooks do, unless they came too late for this call
        if unit is None or gathers or any(one.unit is unit for one in calls[:-1]):
            return None
        call.entered = True
        arguments, _ = _state(unit)._pre_forward(unit, arguments, {})
        if before is not None:
            self._dresses += [Dress(one, *was) for one, was in zip(module.modules(), before, strict=True)]
        return arguments

    def _after(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        call: _Call = self._calls.stack.pop()
        if call.unit is None:
            return None
        raised = output is None and sys.exc_info()[0] is not None
        # The loop may go on with the next batch. Checkpointed activations end their forward in a backward so, too.
        if raised and not self._calls.stack and not _in_backward():
            self._root_of[call.unit].reset_iter_state()  # type: ignore[operator]
        if not call.entered or output is None:
            return None
        return _state(call.unit)._post_forward(call.unit, arguments, output)

    # Sharding.

    def _shard(self, module: nn.Module) -> _Before | None:
        """Shard a module that trains; gives what its parts were before, None where nothing was to be done."""
        if isinstance(module, DistributedDataParallel | FSDPModule):
            return None  # the user's own
        plain = [one for one in module.parameters() if not isinstance(one, DTensor)]
        if not any(one.requires_grad for one in plain):
            return None
        if any(part in self._units for part in module.modules()):
            raise TargetError(
                f"{type(module).__name__} is called as a whole after a part of it was called by itself, so that the "
                "part is sharded already",
                hint="call the part inside of the module's forward, or under torch.no_grad() before",
            )
        require(module)
        with self._waits:
            _verify_param_shape_across_processes(_world(), list[Tensor](plain))
            _sync_module_states(module, _world(), _BUCKET_BYTES, 0, set())
        before = [(type(part), attributes(part)) for part in module.modules()]
        owners = [
            (part, name, one)
            for part in module.modules()
            for name, one in part._parameters.items()
            if one is not None
        ]
        mesh = DeviceMesh.from_group(_world(), plain[0].device.type)
        parts = units(module)
        for unit in parts:
            made_unit = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
            made_unit.set_custom_all_gather(_AllGather())
            made_unit.set_custom_reduce_scatter(_ReduceScatter())
            self._root_of[unit] = module
        self._roots.append(module)
        for unit in reversed(parts):  # blocks after the module, which has them too
            self._units |= dict.fromkeys(unit.modules(), unit)
        made = {id(one): StandIn(one, getattr(part, name)) for part, name, one in owners}
        del owners, plain
        self._adopt(module, made)
        return before

    def _adopt(self, module: nn.Module, made: dict[int, StandIn]) -> None:
        """Have everything refer to shards in the place of a module's parameters, by whose identity they are given."""
        for part in module.modules():
            part.register_state_dict_post_hook(shards.make_whole)
            part.register_load_state_dict_pre_hook(shards.make_shards)
        self._parameters += made.values()
        states: list[StandIn] = []
        for optimizer in alive(Optimizer):
            if not any(id(one) in made for group in optimizer.param_groups for one in group["params"]):
                continue
            self._attend(optimizer)
            states += [
                StandIn(value, shards.part_of(value, made[id(one)].shard))
                for one, state in optimizer.state.items()
                if id(one) in made
                for value in shards.alike(state, one).values()
            ]
        self._states |= {id(one.shard): one for one in states}
        replace([(one.plain, one.shard) for one in [*made.values(), *states]])
        for one in [*made.values(), *states]:
            one.leave()

    # Optimizers.

    def _attend(self, optimizer: Optimizer) -> None:
        if id(optimizer) not in self._known:
            handle = optimizer.register_state_dict_post_hook(shards.make_states_whole)
            self._known[id(optimizer)] = optimizer, handle

    def _steps(self, optimizer: Optimizer, *_: object) -> None:
        self._attend(optimizer)
        for one, state in optimizer.state.items():
            if isinstance(one, shards.PARTS):  # load_state_dict() gives whole states
                state.update(
                    {name: shards.part_of(value, one) for name, value in shards.alike(state, one).items()}
                )

    def _stepped(self, optimizer: Optimizer, *_: object) -> None:
        super()._stepped(optimizer)
        if id(optimizer) not in self._measured:
            self._measured.add(id(optimizer))
            self._measure()

    def _measure(self) -> None:
        parameters = [one for root in self._roots for one in root.parameters()]
        states = [
            value
            for optimizer, _ in self._known.values()
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        gradients = [one.grad for one in parameters if one.grad is not None]
        held = {
            "parameters": shards.num_bytes(parameters),
            "gradients": shards.num_bytes(gradients),
            "states": shards.num_bytes(states),
        }
        self.held = {what: max(found, self.held.get(what, found)) for what, found in held.items()}

    # Whole again.

    @torch.no_grad()
    def gather(
        self, returning: Returning, wanted: Sequence[str], *, ends: bool
    ) -> tuple[dict[str, str], Callable[[], None]]:
        """Make everything plain and whole that is to be packed on rank 0; called by all ranks at the same place.

        Args:
            returning: What came from the notebook.
            wanted: Names of the cell.
            ends: Whether all ranks are to have whole parameters; else only rank 0 has.

        Returns:
            Why some names cannot be packed, and what makes everything sharded again.

        Raises:
            TargetError: an object of the notebook's holds shards on some ranks that others do not.
        """
        packs = dist.get_rank() == 0
        for unit in self._root_of:
            unit.reshard()  # type: ignore[operator]
        dressed = [one.take_off() for one in self._dresses]
        for one in self._parameters:
            values = shards.whole(one.shard)
            if packs or ends:
                one.come(values)
        replaced = [(one.shard, one.plain) for one in self._parameters if packs or ends]
        replace(replaced)
        left, others = self._gather_others(returning, wanted, packs)
        replace(others)
        if packs:
            for name, tensors in returning.tensors(wanted).items():
                if any(isinstance(one, shards.PARTS) for one in tensors):
                    left.setdefault(name, "it has a part of a sharded tensor in a tuple")

        def undo() -> None:
            replace([(plain, shard) for shard, plain in [*replaced, *others]])
            if packs:
                for one in [*self._parameters, *self._states.values()]:
                    one.leave()
            for put_on in dressed:
                put_on()

        return left, undo

    def _gather_others(
        self, returning: Returning, wanted: Sequence[str], packs: bool
    ) -> tuple[dict[str, str], list[tuple[Tensor, Tensor]]]:
        """Shards beside those of parameters that would be packed, each with what it is when it is whole, to be kept."""
        parameters = {id(one.shard) for one in self._parameters}
        found = {
            name: held
            for name, tensors in returning.tensors(wanted).items()
            if (
                held := [
                    one for one in tensors if isinstance(one, shards.PARTS) and id(one) not in parameters
                ]
            )
        }
        mine = {name: [shards.described(one) for one in held] for name, held in found.items()}
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        left: dict[str, str] = {}
        whole: dict[int, tuple[Tensor, Tensor]] = {}
        for name in sorted({name for one in everyone for name in one}):
            if any(one.get(name) != mine.get(name) for one in everyone):
                left[name] = "it has parts of sharded tensors, and not the same ones on all ranks"
                continue
            for shard in found[name]:
                if id(shard) not in whole:
                    values = shards.whole(shard)
                    whole[id(shard)] = shard, self._plain(shard, values) if packs else shard
        if "" in left:
            raise TargetError(
                "an object of the notebook has parts of sharded tensors that it has not on all ranks",
                hint="%%deepseek distributed --strategy ddp",
            )
        if packs:
            for key, one in self._states.items():
                if key not in whole:  # the optimizer has dropped it
                    one.come()
        return left, list(whole.values()) if packs else []

    def _plain(self, shard: Tensor, values: Tensor) -> Tensor:
        if id(shard) in self._states:
            self._states[id(shard)].come(values)
            return self._states[id(shard)].plain
        return nn.Parameter(values, shard.requires_grad) if isinstance(shard, nn.Parameter) else values


def _in_backward() -> bool:
    """Whether a backward pass is under way, which may call modules to compute activations again."""
    return torch._C._current_graph_task_id() >= 0


def _world() -> Any:
    return dist.group.WORLD


def _state(unit: nn.Module) -> Any:
    """What FSDP2 knows of a unit."""
    shard: Any = fully_shard
    return shard.state(unit)
