"""Tensors whose values are on the ranks of one stage, and that all stages can compute with.

All stages run the same program. What an operator does to such tensors it does where their values are; elsewhere only
shapes are worked out, on the meta device, without memory. So a parameter, its gradient, a state of an optimizer, an
output and a loss are what they are on every rank. Values go to other stages where they are needed: a number that is
read, tensors of several stages that meet. An activation goes on by :meth:`Pipe.moved`, so that its gradient goes back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker.mesh.grid import Grid
from deepseek_lab.distributed.worker.mesh.randomness import apart

_META = torch.device("meta")
_get = "__get__"


class Pipe:
    """The stages, and what goes between them; all of them send and receive in the same order.

    Args:
        grid: Of the ranks.
        waits: Held open where another stage is waited for.
    """

    def __init__(self, grid: Grid, waits: contextlib.AbstractContextManager[Any]) -> None:
        self.here = grid.place["pipeline"]
        """The stage of this rank."""
        self.num_bytes = 0
        """Sent from stage to stage by this rank, as activations or their gradients."""
        self.shares = grid.mesh.tensor > 1
        """Whether layers are shared by ranks too."""
        self._grid, self._waits = grid, waits
        self._group = grid.group("pipeline")
        self._sending: list[tuple[Any, Tensor]] = []
        self._seeds = torch.Generator().manual_seed((torch.initial_seed() + self.here + 1) % 2**63)
        self.quiet = 0
        """Held above 0 where the other stages do not run along, so that nothing can be sent to all."""

    # Between two stages.

    def carried(self, local: Tensor, start: int, end: int) -> Tensor:
        """Values of one stage on another one: called by all, with what they have; elsewhere it stays without values."""
        if self.here == start:
            sent = local.detach().contiguous()
            self.num_bytes += sent.numel() * sent.element_size()
            work = dist.isend(sent, self._grid.peer("pipeline", end), group=self._group)
            self._sending.append((work, sent))
        elif self.here == end:
            came = torch.empty(local.shape, dtype=local.dtype, device=self._grid.device)
            with self._waits:
                dist.recv(came, self._grid.peer("pipeline", start), group=self._group)
            return came
        return torch.empty_like(local, device=_META)

    def sent(self) -> None:
        """Wait until all that was sent has gone."""
        sending, self._sending = self._sending, []
        with self._waits:
            for work, _ in sending:
                work.wait()

    def moved(self, one: Owned, stage: int) -> Owned:
        """The same tensor on another stage; its gradient goes back."""
        made: Owned = one if one.stage == stage else _Move.apply(one, stage)  # type: ignore[no-untyped-call]
        return made

    def brought(self, one: Tensor, stage: int) -> Tensor:
        """Values on a stage, without a thought of gradients: the tensor itself there, elsewhere only its shape."""
        if not isinstance(one, Owned):
            return one if self.here == stage else torch.empty_like(one, device=_META)
        return one.local if one.stage == stage else self.carried(one.local, one.stage, stage)

    # To all stages.

    def pulled(self, many: Sequence[Owned]) -> list[Tensor]:
        """Values of all, on all stages; those of one stage and type go together."""
        if self.quiet:
            raise TargetError(
                "a block looks at values in the middle of a pass, which other stages would have to wait for",
                hint="%%deepseek distributed --strategy fsdp",
            )
        found: list[Tensor | None] = [None] * len(many)
        together: dict[tuple[int, torch.dtype], list[int]] = {}
        for index, one in enumerate(many):
            together.setdefault((one.stage, one.dtype), []).append(index)
        for (stage, _), indices in together.items():
            if stage == self.here:
                locals_ = [_full(many[index].local.detach()) for index in indices]
                flat = (
                    torch.cat([one.reshape(-1) for one in locals_])
                    if len(locals_) > 1
                    else locals_[0].reshape(-1)
                )
                flat = flat.contiguous()
            else:
                total = sum(many[index].numel() for index in indices)
                flat = torch.empty(total, dtype=many[indices[0]].dtype, device=self._grid.device)
            with self._waits:
                dist.broadcast(flat, self._grid.peer("pipeline", stage), group=self._group)
            for index, part in zip(
                indices, flat.split([many[index].numel() for index in indices]), strict=True
            ):
                found[index] = part.view(many[index].shape)
        return [one for one in found if one is not None]

    def told(self, value: Any, stage: int) -> Any:
        """What a stage has to say, to all."""
        held = [value]
        with self._waits:
            dist.broadcast_object_list(
                held, src=self._grid.peer("pipeline", stage), group=self._group, device=self._grid.device
            )
        return held[0]

    @property
    def device(self) -> torch.device:
        """Of what has values."""
        return self._grid.device

    def random(self) -> contextlib.AbstractContextManager[None]:
        """Draw random numbers on this stage alone: those that all stages draw stay alike."""
        return apart(int(torch.randint(2**62, (), generator=self._seeds)))


def _full(local: Tensor) -> Tensor:
    return local.full_tensor() if isinstance(local, DTensor) else local


class Owned(Tensor):
    """A tensor whose values are on one stage: ``local`` there, and a tensor without values elsewhere."""

    local: Tensor
    stage: int
    pipe: Pipe

    @staticmethod
    def of(local: Tensor, stage: int, pipe: Pipe, device: torch.device | None = None) -> Owned:
        """Make one."""
        made: Owned = Tensor._make_wrapper_subclass(
            Owned,
            local.shape,
            strides=local.stride(),
            dtype=local.dtype,
            device=device or pipe.device,
            requires_grad=False,
        )
        made.local, made.stage, made.pipe = local, stage, pipe
        return made

    def like(self, local: Tensor) -> Owned:
        """One on the same stage, of what this rank has of it."""
        return Owned.of(local, self.stage, self.pipe, self.device)

    @property
    def held_here(self) -> Tensor | None:
        """Its values, where they are on this rank."""
        return self.local if self.pipe.here == self.stage else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.pipe.shares:
            raise TargetError(
                "a copy of a model cannot compute whose layers are shared by ranks and whose blocks are on stages",
                hint="copy.deepcopy(model.state_dict())",
            )
        made = Owned.of(self.local.detach().clone(), self.stage, self.pipe, self.device)
        memo[id(self)] = copied = (
            nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        )
        return copied

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.backward:
            return torch.autograd.backward(
                args[0],
                kwargs.get("gradient"),
                kwargs.get("retain_graph"),
                kwargs.get("create_graph", False),
                inputs=kwargs.get("inputs"),
            )
        if inspect.unwrap(function) is _BACKWARD:
            return _backward(*args, **kwargs)
        if function in _READS:
            args, kwargs = everywhere((args, kwargs))
            return function(*args, **kwargs)
        mine = _scan(args, kwargs)
        if len(mine) > 1 and len({one.stage for one in mine}) > 1 and function not in _ASKS:
            args, kwargs = _together(function, args, kwargs, mine)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        told = _told.get(function) or _tell(function)
        if told.lists:
            return _each(function, args, kwargs)
        mine = _scan(args, kwargs)
        like = mine[0]
        if function is torch.ops.aten._local_scalar_dense.default:
            return like.pipe.pulled(mine)[0].item()
        written = told.written(args, kwargs)
        if (
            any(one.stage != like.stage for one in mine)
            or any(not isinstance(one, Owned) for one in written)
            or (told.sized_by_values and _sized_by_values(function, args))
        ):
            return _everywhere(function, args, kwargs, written)
        if like.pipe.here == like.stage:
            return _here(function, told, args, kwargs, like, written)
        if told.in_place:
            return written[0]  # its shape is as it was
        return _elsewhere(function, told, args, kwargs, like, written)


_BACKWARD = inspect.unwrap(torch.autograd.backward)


def _backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """What ``torch.autograd.backward`` does, and would do without functions of subclasses, which blocks may need."""
    tensors = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    given = (grad_tensors,) if isinstance(grad_tensors, Tensor) else grad_tensors or (None,) * len(tensors)
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    gradients = []
    for one, gradient in zip(tensors, given, strict=True):
        if gradient is None and one.requires_grad and one.numel() != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        gradients.append(torch.ones_like(one) if gradient is None and one.requires_grad else gradient)
    keep = create_graph if retain_graph is None else retain_graph
    torch.autograd.graph._engine_run_backward(
        tensors, tuple(gradients), keep, create_graph, inputs, allow_unreachable=True, accumulate_grad=True
    )


@dataclasses.dataclass(frozen=True)
class _Told:
    """What an operator says of itself."""

    lists: bool
    """Whether it does the same to each tensor of a list."""
    writes: tuple[tuple[int, str], ...]
    """Arguments that it writes into, by place and name."""
    in_place: bool
    """Whether it gives the one that it writes into, and nothing else."""
    random: bool
    sized_by_values: bool
    """Whether the shape of what it gives may depend on values."""
    views: bool

    def written(self, args: Any, kwargs: Any) -> list[Tensor]:
        """Tensors that it writes into."""
        found = [args[place] if place < len(args) else kwargs.get(name) for place, name in self.writes]
        return [one for one in found if isinstance(one, Tensor)]


_told: dict[Any, _Told] = {}


def _tell(function: Any) -> _Told:
    schema = function._schema
    writes = tuple(
        (place, one.name)
        for place, one in enumerate(schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    )
    tags = torch.Tag
    found = _told[function] = _Told(
        lists=schema.name.startswith(("aten::_foreach_", "aten::_fused_", "aten::_amp_foreach")),
        writes=writes,
        in_place=len(writes) == 1 and writes[0][0] == 0 and len(schema.returns) == 1,
        random=tags.nondeterministic_seeded in function.tags,
        sized_by_values=tags.dynamic_output_shape in function.tags
        or tags.data_dependent_output in function.tags,
        views=function.is_view,
    )
    return found


def _scan(args: Any, kwargs: Any) -> list[Owned]:
    """Tensors of stages among the arguments of an operator, and in lists of them."""
    found: list[Owned] = []
    for one in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(one, Owned):
            found.append(one)
        elif isinstance(one, list | tuple | dict):
            found += [each for each in tree_leaves(one) if isinstance(each, Owned)]
    return found


def _mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Values changed one by one, and those in lists."""
    return [tree_map(change, one) if isinstance(one, list | tuple | dict) else change(one) for one in values]


def owned(values: Any) -> list[Owned]:
    """Those among values."""
    return [one for one in tree_leaves(values) if isinstance(one, Owned)]


def everywhere(values: Any) -> Any:
    """The same values, each tensor of a stage with its values."""
    flat, spec = tree_flatten(values)
    mine = [one for one in flat if isinstance(one, Owned)]
    if not mine:
        return values
    came = iter(mine[0].pipe.pulled(mine))
    return tree_unflatten([next(came) if isinstance(one, Owned) else one for one in flat], spec)


def _sized_by_values(function: Any, args: Any) -> bool:
    """Whether the shape of what an operator gives does depend on values."""
    if function is torch.ops.aten.index.Tensor:
        return any(one is not None and one.dtype in {torch.bool, torch.uint8} for one in args[1])
    return True


def _here(function: Any, told: _Told, args: Any, kwargs: Any, like: Owned, written: Sequence[Tensor]) -> Any:
    """Do it where the values are."""
    inner_args = _mapped(_local, args)
    inner_kwargs = dict(zip(kwargs, _mapped(_local, kwargs.values()), strict=True)) if kwargs else {}
    with like.pipe.random() if told.random else _NOTHING:
        made = function(*inner_args, **inner_kwargs)
    return _wrapped(function, told, args, kwargs, like, written, made)


def _elsewhere(
    function: Any, told: _Told, args: Any, kwargs: Any, like: Owned, written: Sequence[Tensor]
) -> Any:
    """Find out what shape it gives."""
    key = None
    if not written:
        flat = [*args, *kwargs.values()]
        key = (function, *map(_key, flat))
        known = _shapes.get(key) if _HARD not in key else None
        if known is not None:
            made = [
                torch.empty_strided(shape, stride, dtype=dtype, device=_META)
                for shape, stride, dtype in known[1:]
            ]
            return _wrapped(function, told, args, kwargs, like, written, tuple(made) if known[0] else made[0])

    def bare(value: Any) -> Any:
        if isinstance(value, Owned):
            return value.local
        return torch.empty_like(value, device=_META) if isinstance(value, Tensor) else value

    inner_args = _mapped(bare, args)
    inner_kwargs = dict(zip(kwargs, _mapped(bare, kwargs.values()), strict=True))
    if inner_kwargs.get("device") is not None:
        inner_kwargs["device"] = _META
    made = function(*inner_args, **inner_kwargs)
    several = isinstance(made, tuple | list)
    tensors = made if several else [made]
    if key is not None and not told.views and all(isinstance(one, Tensor) for one in tensors):
        if len(_shapes) > _MOST_SHAPES:
            _shapes.clear()
        _shapes[key] = (several, *((one.shape, one.stride(), one.dtype) for one in tensors))
    return _wrapped(function, told, args, kwargs, like, written, made)


_HARD = "an argument that is not compared"
_MOST_SHAPES = 10_000
_shapes: dict[Any, Any] = {}
"""What operators give, by what they are given, on stages that have no values."""
_NOTHING = contextlib.nullcontext()


def _key(value: Any) -> Any:
    """What the shape of an operator's results depends on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, float):
        return float
    if isinstance(value, int | str | None | torch.dtype | torch.device | torch.layout | torch.memory_format):
        return type(value), value
    return _HARD


def _wrapped(
    function: Any, told: _Told, args: Any, kwargs: Any, like: Owned, written: Sequence[Tensor], made: Any
) -> Any:
    """What an operator gave on its stage, as all stages know it."""
    by_local = {id(one.local): one for one in written if isinstance(one, Owned)}
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else like.device

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        kept = by_local.get(id(value))
        return Owned.of(value, like.stage, like.pipe, device) if kept is None else kept

    if not told.views:
        return outer(made) if isinstance(made, Tensor) else tree_map(outer, made)
    with torch.inference_mode(like.is_inference()):  # as what it is a view of
        return return_and_correct_aliasing(function, args, kwargs, tree_map(outer, made))


def _everywhere(function: Any, args: Any, kwargs: Any, written: Sequence[Tensor]) -> Any:
    """Do it on all stages, with all values; what it writes into is written back where it belongs."""
    mine = owned((args, kwargs))
    came = dict(zip(map(id, mine), mine[0].pipe.pulled(mine), strict=True))
    inner_args, inner_kwargs = tree_map(
        lambda value: came[id(value)] if isinstance(value, Owned) else value, (args, kwargs)
    )
    made = function(*inner_args, **inner_kwargs)
    back: dict[int, Tensor] = {}
    for one in written:
        if isinstance(one, Owned):
            if one.pipe.here == one.stage:
                local = one.local
                values = came[id(one)]
                local.copy_(_as_local(values, local))
            back[id(came[id(one)])] = one
    return tree_map(lambda value: back.get(id(value), value) if isinstance(value, Tensor) else value, made)


def _as_local(values: Tensor, local: Tensor) -> Tensor:
    if not isinstance(local, DTensor):
        return values
    from deepseek_lab.distributed.worker import shards

    return shards.part_of(values, local)


def _each(function: Any, args: Any, kwargs: Any) -> Any:
    """An operator on lists: what is of one stage is done there."""
    lists = [value for value in tree_leaves((args, kwargs), is_leaf=_is_list) if _is_list(value)]
    count = len(lists[0])
    stages = [next((each[index].stage for each in lists if _at(each, index)), None) for index in range(count)]
    pipe = owned((args, kwargs))[0].pipe
    found: list[Any] = [None] * count
    nothing = True
    for stage in dict.fromkeys(stages):
        indices = [index for index in range(count) if stages[index] == stage]

        def some(value: Any, indices: list[int] = indices) -> Any:
            if isinstance(value, Tensor) and value.ndim == 1 and len(value) == count:
                return value[indices]  # a number for each
            fits = isinstance(value, list | tuple) and len(value) == count
            return [value[index] for index in indices] if fits else value

        inner_args = [some(value) for value in args]
        inner_kwargs = {key: some(value) for key, value in kwargs.items()}
        if stage is None:
            made = function(*inner_args, **inner_kwargs)
        elif not function._schema.returns:
            if pipe.here == stage:
                inner_args, inner_kwargs = tree_map(_local, (inner_args, inner_kwargs))
                function(*inner_args, **inner_kwargs)
            made = None
        else:
            like = owned((inner_args, inner_kwargs))[0]
            told = _told[function]
            way = _here if pipe.here == stage else _elsewhere
            made = way(function, told, inner_args, inner_kwargs, like, [])
        if made is not None:
            nothing = False
            for index, value in zip(indices, made, strict=True):
                found[index] = value
    return None if nothing else found


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Tensor) for one in value)


def _at(values: Any, index: int) -> bool:
    return index < len(values) and isinstance(values[index], Owned)


def _local(value: Any) -> Any:
    return value.local if isinstance(value, Owned) else value


class _Move(torch.autograd.Function):
    """A tensor from one stage to another, and its gradient back."""

    @staticmethod
    def forward(ctx: Any, one: Owned, stage: int) -> Owned:
        ctx.start, ctx.end, ctx.pipe = one.stage, stage, one.pipe
        ctx.shape, ctx.dtype = one.shape, one.dtype
        local = one.local.contiguous() if isinstance(one.local, DTensor) else one.local
        return Owned.of(one.pipe.carried(_full(local), one.stage, stage), stage, one.pipe)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        pipe: Pipe = ctx.pipe
        local = pipe.brought(gradient, ctx.end)
        return Owned.of(pipe.carried(local, ctx.end, ctx.start), ctx.start, pipe), None


class Shared(torch.autograd.Function):
    """A tensor that all stages have, for use on some of them: its gradient comes from these to all."""

    @staticmethod
    def forward(ctx: Any, plain: Tensor) -> Tensor:
        """The same values."""
        return plain.view_as(plain)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """What was found on a stage, on all of them."""
        return everywhere(gradient)


def _together(function: Callable[..., Any], args: Any, kwargs: Any, mine: Sequence[Owned]) -> Any:
    """What a function of the forward pass is given, all of it on the last of its stages."""
    name = str(getattr(function, "__name__", ""))
    in_turn = name.startswith(("_foreach_", "_fused_"))
    if in_turn or name.endswith("_") or all(one.numel() == 1 for one in mine):
        return args, kwargs
    last = max(one.stage for one in mine)
    return tree_map(
        lambda value: value.pipe.moved(value, last) if isinstance(value, Owned) else value, (args, kwargs)
    )


_READS = {
    Tensor.numpy,
    Tensor.tolist,
    Tensor.__array__,
    Tensor.__repr__,
    Tensor.__format__,
    Tensor.__contains__,
    Tensor.nonzero,
    torch.nonzero,
    torch.unique,
    Tensor.unique,
    Tensor.masked_select,
    torch.masked_select,
    Tensor.__dlpack__,
    torch.allclose,
    torch.equal,
    Tensor.allclose,
    Tensor.equal,
}
"""What needs values, or gives shapes that depend on them."""
_ASKS = {
    getattr(getattr(Tensor, name), _get)
    for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "grad", "grad_fn")
}
