"""What operators do to a part of a tensor, where they act on each column or head by itself.

A rule is given what the operator is given, and gives what it gives, with parts in the place of wholes. It raises
:class:`~deepseek_lab.distributed.worker.mesh.slices.Stop` where an operator needs more than a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from deepseek_lab.distributed.worker.mesh.slices import Origins, Slice, Stop, name_of, slices, union

Rule = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_get = "__get__"
TOLD = {
    getattr(getattr(Tensor, name), _get)
    for name in (
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "requires_grad",
        "is_cuda",
        "is_leaf",
        "is_meta",
    )
} | {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.nelement,
    Tensor.__len__,
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    torch.is_complex,
    Tensor.element_size,
    Tensor.get_device,
    torch.numel,
}
"""What asks about a tensor and not about its values."""

_POINTWISE = """
add sub mul div truediv true_divide floor_divide floordiv remainder fmod pow neg negative abs exp exp2 expm1 log log1p
log2 sqrt rsqrt square reciprocal sign sigmoid tanh sin cos relu relu6 gelu silu elu selu celu leaky_relu hardtanh
softplus mish hardswish hardsigmoid logsigmoid softsign tanhshrink hardshrink softshrink threshold erf clamp clip
clamp_min clamp_max masked_fill where maximum minimum fmax fmin lt le gt ge eq ne logical_and logical_or logical_not
isnan isinf isfinite nan_to_num addcmul addcdiv lerp rsub rdiv rtruediv rpow
"""
_UNARY = """
to type type_as float half bfloat16 double int long bool contiguous clone detach cpu cuda zeros_like ones_like
empty_like full_like rand_like randn_like bernoulli dropout alpha_dropout zero_ fill_
"""
_RANDOM = {"dropout", "alpha_dropout", "rand_like", "randn_like", "bernoulli", "rrelu"}
_ALONG = "softmax log_softmax softmin cumsum cumprod logsumexp sum mean amax amin prod max min argmax argmin all any"


def rule_of(name: str) -> Rule | None:
    """The rule for an operator of this name, in place or not."""
    return _RULES.get(name) or (_RULES.get(name[:-1]) if name.endswith("_") else None)


# What stays what it is.


def _pointwise(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    mine = slices(flat)
    at, size, blocks = _alike(mine)
    cut = mine[0].cut
    _free(function, args, kwargs)
    locals_ = [_beside(one, at, size, blocks, mine[0]) for one in flat]
    inner_args, inner_kwargs = tree_unflatten(locals_, spec)
    made = function(*inner_args, **inner_kwargs)
    if args and isinstance(args[0], Slice) and made is args[0].local:  # in place
        return args[0]
    return Slice.of(made, made.ndim + at, cut, blocks=blocks, origins=union(mine))


def _free(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Have what is written into be no view of what DTensor gave, for of that autograd knows not."""
    writes = name_of(function).endswith("_") or kwargs.get("inplace") or any(one is True for one in args[1:])
    if writes and args and isinstance(args[0], Slice) and args[0].local._is_view():
        args[0].local = args[0].local.clone()


def _alike(mine: Sequence[Slice]) -> tuple[int, int, int | None]:
    """Where all of them are cut, counted from the last dimension, how large that is, and in how many blocks."""
    places = {(one.at - len(one.sizes), one.sizes[one.at]) for one in mine}
    blocks = {one.blocks for one in mine if one.blocks is not None}
    if len(places) > 1 or len(blocks) > 1:
        raise Stop("tensors that are cut in different ways meet")
    found = blocks.pop() if blocks else None
    if found is not None:
        mine[0].cut.resolve(union(one for one in mine if one.blocks is None), found)
    (place,) = places
    return *place, found


def _beside(value: Any, at: int, size: int, blocks: int | None, like: Slice) -> Any:
    """What goes with the part of a tensor that is like this one."""
    if isinstance(value, Slice):
        return value.local
    return _fit(value, at, size, blocks, like) if isinstance(value, Tensor) else value


def _fit(plain: Tensor, at: int, size: int, blocks: int | None, like: Slice) -> Tensor:
    """A whole tensor for use beside parts that are cut there."""
    cut = like.cut
    if plain.ndim < -at or plain.shape[at] == 1:
        return cut.spread(plain)
    if plain.shape[at] != size:
        raise Stop("tensors of different sizes meet")
    return cut.part(plain, plain.ndim + at, blocks or 1)


def _unary(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    one = _first(args)
    _free(function, args, kwargs)
    flat, spec = tree_flatten((args, kwargs))
    inner_args, inner_kwargs = tree_unflatten(
        [each.local if isinstance(each, Slice) else each for each in flat], spec
    )
    if name_of(function).rstrip("_") in _RANDOM and _draws(args, kwargs):
        with one.cut.random():
            made = function(*inner_args, **inner_kwargs)
    else:
        made = function(*inner_args, **inner_kwargs)
    return args[0] if made is one.local else one.like(made, one.at, one.blocks)


def _draws(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a dropout drops something; other operators always draw."""
    share = kwargs.get("p", args[1] if len(args) > 1 else 1)
    training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return bool(training) and share != 0


def _first(args: tuple[Any, ...]) -> Slice:
    if not args or not isinstance(args[0], Slice):
        raise Stop("a tensor that is cut is not what the operator is about")
    return args[0]


def _told(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is so of the part."""
    return function(_first(args).local, *args[1:], **kwargs)


# What gives other dimensions.


def _ints(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[int]:
    """Sizes or dimensions, however they were written."""
    given: Any = args[1:] or next((kwargs[name] for name in names if name in kwargs), ())
    if len(given) == 1 and isinstance(given[0], tuple | list):
        given = given[0]
    if not all(isinstance(one, int) for one in given):
        raise Stop("sizes that are no numbers")
    return [int(one) for one in given]


def _view(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    return _regrouped(function, one, _ints(args, kwargs, "shape", "size"))


def _regrouped(function: Any, one: Slice, sizes: list[int]) -> Slice:
    """Have the same values in other dimensions: those before the cut are to stay before it."""
    total, num = math.prod(one.sizes), one.cut.num
    known = math.prod(size for size in sizes if size != -1)
    sizes = [total // max(1, known) if size == -1 else size for size in sizes]
    before, place, blocks = math.prod(one.sizes[: one.at]), 0, one.blocks
    while place < len(sizes) and math.prod(sizes[:place]) != before:
        place += 1
    while place < len(sizes) and sizes[place] == 1:
        place += 1
    if place == len(sizes) or math.prod(sizes) != total:
        raise Stop("what is cut is put together with what stands before it")
    first, second = sizes[place], sizes[place + 1] if place + 1 < len(sizes) else 0
    stays = first == one.sizes[one.at]
    if stays and math.prod(sizes[place + 1 :]) == math.prod(one.sizes[one.at + 1 :]):
        at = place
    else:
        ways = [1] if blocks in {None, 1} and first % num == 0 else []
        inside = second and one.sizes[one.at] % (first * second) == 0
        if inside and second % num == 0 and (blocks is None or blocks == first):
            ways.append(first)
        why = f"{first} heads cannot be shared by {num} ranks"
        if not ways:
            raise Stop(why)
        if ways[0] > 1:
            one.cut.doubted(one.origins, why)
        chosen = one.cut.choose(one.origins, ways) if blocks is None else ways[0]
        one.cut.resolve(one.origins if blocks is None else Origins(), chosen)
        at, blocks = place + (chosen > 1), 1
    inner = list(sizes)
    inner[at] //= one.cut.parts
    return one.like(function(one.local, inner), at, blocks)


def _flatten(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    start = kwargs.get("start_dim", args[1] if len(args) > 1 else 0) % len(one.sizes)
    end = kwargs.get("end_dim", args[2] if len(args) > 2 else -1) % len(one.sizes)
    sizes = one.sizes
    return _regrouped(
        torch.reshape, one, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]]
    )


def _unflatten(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(one.sizes)
    parts = list(kwargs.get("sizes", args[2] if len(args) > 2 else ()))
    known = math.prod(size for size in parts if size != -1)
    parts = [one.sizes[dim] // known if size == -1 else size for size in parts]
    return _regrouped(torch.reshape, one, [*one.sizes[:dim], *parts, *one.sizes[dim + 1 :]])


def _permute(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dims = [dim % len(one.sizes) for dim in _ints(args, kwargs, "dims")]
    return one.like(one.local.permute(dims), dims.index(one.at), one.blocks)


def _moved(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    """Transpose and the like: found by trying it on numbers."""
    one = _first(args)
    sizes = torch.empty([index + 2 for index in range(len(one.sizes))], device="meta")
    where = list(function(sizes, *args[1:], **kwargs).shape)
    return one.like(function(one.local, *args[1:], **kwargs), where.index(one.at + 2), one.blocks)


def _unsqueeze(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % (len(one.sizes) + 1)
    return one.like(one.local.unsqueeze(dim), one.at + (dim <= one.at), one.blocks)


def _squeeze(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dims = _ints(args, kwargs, "dim") if len(args) > 1 or "dim" in kwargs else list(range(len(one.sizes)))
    gone = {dim % len(one.sizes) for dim in dims if one.sizes[dim] == 1}
    kept = [dim for dim in range(len(one.sizes)) if dim not in gone]
    local = one.local.reshape([one.local.shape[dim] for dim in kept])
    return one.like(local, kept.index(one.at), one.blocks)


def _expand(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    if name_of(function) == "expand_as":
        other = args[1]
        sizes = list(other.sizes if isinstance(other, Slice) else other.shape)
    else:
        sizes = _ints(args, kwargs, "size")
    at = one.at + len(sizes) - len(one.sizes)
    if sizes[at] not in {-1, one.sizes[one.at]}:
        raise Stop("expand() of what is cut")
    sizes[at] = -1
    return one.like(one.local.expand(sizes), at, one.blocks)


def _repeat(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    times = _ints(args, kwargs, "repeats")
    at = one.at + len(times) - len(one.sizes)
    if at < 0 or times[at] != 1:
        raise Stop("repeat() of what is cut")
    return one.like(one.local.repeat(times), at, one.blocks)


def _interleave(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    times = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if not isinstance(times, int) or dim is None or (one.blocks or 1) > 1:
        raise Stop("repeat_interleave() over all")
    return one.like(one.local.repeat_interleave(times, dim), one.at, one.blocks)


def _split(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    one = _first(args)
    name = name_of(function)
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % len(one.sizes)
    if dim != one.at:
        made = function(one.local, *args[1:], **kwargs)
        return type(made)(one.like(part, one.at, one.blocks) for part in made)
    size = one.sizes[dim]
    how = next(
        (kwargs[key] for key in ("split_size", "split_size_or_sections", "chunks") if key in kwargs), None
    )
    how = args[1] if how is None else how
    if name != "split":
        sizes = [len(part) for part in torch.empty(size, device="meta").chunk(how)]
    elif isinstance(how, int):
        sizes = [len(part) for part in torch.empty(size, device="meta").split(how)]
    else:
        sizes = [int(each) for each in how]
    num = len(sizes)
    if num == 1:
        return (one,)
    if len(set(sizes)) > 1 or one.blocks not in {None, num} or sizes[0] % one.cut.num:
        raise Stop(f"{name}() of what is cut into {sizes}")
    if one.blocks is None:
        one.cut.resolve(one.origins, num)
    return tuple(one.like(part, dim) for part in one.local.chunk(num, dim))


def _unbind(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    one = _first(args)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(one.sizes)
    if dim == one.at:
        raise Stop("unbind() of what is cut")
    at = one.at - (dim < one.at)
    return tuple(one.like(part, at, one.blocks) for part in one.local.unbind(dim))


def _getitem(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one, index = _first(args), args[1]
    index = index if isinstance(index, tuple) else (index,)
    if not all(each is None or each is Ellipsis or isinstance(each, int | slice) for each in index) or any(
        isinstance(each, bool) for each in index
    ):
        raise Stop("an index that is a tensor or list")
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    where = index.index(Ellipsis)
    used = sum(each is not None and each is not Ellipsis for each in index)
    full = (slice(None),) * (len(one.sizes) - used)
    index = (*index[:where], *full, *index[where + 1 :])
    dim = at = place = 0
    while index[place] is None or dim < one.at:
        each = index[place]
        dim, at, place = dim + (each is not None), at + (not isinstance(each, int)), place + 1
    mine = index[place]
    if mine == slice(None):
        return one.like(one.local[index], at, one.blocks)
    if not isinstance(mine, slice):
        raise Stop("one of what is cut is taken")
    block = _block(one, mine)
    rest = (*index[:place], slice(None), *index[place + 1 :])
    return one.like(block[rest], at)


def _block(one: Slice, part: slice) -> Tensor:
    """One of the blocks, which an index takes."""
    size = one.sizes[one.at]
    start, stop, step = part.indices(size)
    length = stop - start
    if step != 1 or length <= 0 or size % length or start % length or length % one.cut.num:
        raise Stop("a part of what is cut is taken")
    num = size // length
    if one.blocks not in {None, num}:
        raise Stop("a part of what is cut is taken")
    if one.blocks is None:
        one.cut.resolve(one.origins, num)
    return one.local.chunk(num, one.at)[start // length]


def _select(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(one.sizes)
    if dim == one.at:
        raise Stop(f"{name_of(function)}() of what is cut")
    made = function(one.local, *args[1:], **kwargs)
    return one.like(made, one.at - (dim < one.at and made.ndim < one.local.ndim), one.blocks)


def _joined(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    tensors = list(kwargs.get("tensors", args[0] if args else ()))
    name = name_of(function)
    mine = slices(tensors)
    like = mine[0]
    new = name == "stack"
    ndim = len(like.sizes)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % (ndim + new)
    if len({one.at for one in mine}) > 1 or (not new and dim == like.at):
        raise Stop(f"{name}() of what is cut")
    at, size, blocks = _alike(mine)
    locals_ = [_beside(one, at, size, blocks, like) for one in tensors]
    where = like.at + (new and dim <= like.at)
    return Slice.of(function(locals_, dim), where, like.cut, blocks=blocks, origins=union(mine))


def _complex(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    if one.at == len(one.sizes) - 1:
        raise Stop(f"{name_of(function)}() of what is cut")
    return one.like(function(one.local), one.at, one.blocks)


# What puts values together.


def _dims(given: Any, ndim: int) -> set[int]:
    dims = given if isinstance(given, tuple | list) else (given,)
    if any(not isinstance(dim, int) or isinstance(dim, bool) for dim in dims):
        raise Stop("all values are put together")
    return {dim % ndim for dim in dims}


def _reduced(where: int) -> Rule:
    """Of operators whose dimensions are the argument of that number."""

    def rule(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        one = _first(args)
        ndim = len(one.sizes)
        dims = _dims(kwargs.get("dim", args[where] if len(args) > where else None), ndim)
        if one.at in dims:
            raise Stop(f"{name_of(function)}() over what is cut")
        made = function(one.local, *args[1:], **kwargs)
        at = one.at

        def wrapped(value: Tensor) -> Slice:
            fewer = value.ndim < ndim
            return one.like(value, at - (sum(dim < at for dim in dims) if fewer else 0), one.blocks)

        return wrapped(made) if isinstance(made, Tensor) else type(made)(wrapped(each) for each in made)

    return rule


def _normed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    """layer_norm and rms_norm: over the last dimensions, with weights that are used for all heads."""
    one = _first(args)
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    if one.at >= len(one.sizes) - len(shape):
        raise Stop(f"{name_of(function)}() over what is cut")
    rest = [one.cut.spread(each) if isinstance(each, Tensor) else each for each in args[1:]]
    more = {key: one.cut.spread(each) if isinstance(each, Tensor) else each for key, each in kwargs.items()}
    return one.like(function(one.local, *rest, **more), one.at, one.blocks)


def _matmul(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    left, right = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()))
    mine = slices((left, right))
    like = mine[0]
    at, size, blocks = _alike(mine)
    if min(left.ndim, right.ndim) < 2:
        raise Stop("a product with a vector")
    if at <= -3:
        both = [_beside(one, at, size, blocks, like) for one in (left, right)]
    elif at == -2 and len(mine) == 1 and isinstance(left, Slice):
        both = [left.local, like.cut.spread(right)]
    elif at == -1 and len(mine) == 1 and isinstance(right, Slice):
        both = [like.cut.spread(left), right.local]
    else:
        raise Stop("a product sums over what is cut")
    made = function(*both)
    return Slice.of(made, made.ndim + at, like.cut, blocks=blocks, origins=union(mine))


def _einsum(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = list(operands[0])
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        raise Stop("einsum() in that form")
    inputs, output = equation.replace(" ", "").split("->")
    letters = inputs.split(",")
    mine = slices(operands)
    cut = {names[one.at] for names, one in zip(letters, operands, strict=True) if isinstance(one, Slice)}
    if len(cut) > 1 or any((one.blocks or 1) > 1 for one in mine):
        raise Stop("tensors that are cut in different ways meet")
    (letter,) = cut
    if letter not in output:
        raise Stop("einsum() sums over what is cut")
    like = mine[0]
    locals_ = [
        one.local
        if isinstance(one, Slice)
        else like.cut.part(one, names.index(letter), 1)
        if letter in names
        else like.cut.spread(one)
        for names, one in zip(letters, operands, strict=True)
    ]
    return Slice.of(torch.einsum(equation, *locals_), output.index(letter), like.cut, origins=union(mine))


def _linear(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    """A layer that acts on each head by itself."""
    one = _first(args)
    if one.at == len(one.sizes) - 1 or slices((args[1:], kwargs)):
        raise Stop("linear() sums over what is cut")
    rest = [one.cut.spread(each) if isinstance(each, Tensor) else each for each in args[1:]]
    more = {key: one.cut.spread(each) if isinstance(each, Tensor) else each for key, each in kwargs.items()}
    return one.like(function(one.local, *rest, **more), one.at, one.blocks)


def _attention(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    mine = [given[name] for name in names[:3]]
    if not all(isinstance(one, Slice) for one in mine) or len({one.at - len(one.sizes) for one in mine}) > 1:
        raise Stop("attention of what is cut in different ways")
    query = mine[0]
    at = query.at - len(query.sizes)
    if at > -3 or any((one.blocks or 1) > 1 for one in mine):
        raise Stop("attention over what is cut")
    inner = {key: one.local if isinstance(one, Slice) else one for key, one in given.items()}
    mask = given.get("attn_mask")
    if isinstance(mask, Tensor) and not isinstance(mask, Slice):
        inner["attn_mask"] = _fit(mask, at, query.sizes[query.at], 1, query)
    if given.get("dropout_p"):
        with query.cut.random():
            made = function(**inner)
    else:
        made = function(**inner)
    return Slice.of(made, made.ndim + at, query.cut, origins=union(mine))


def _glu(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slice:
    one = _first(args)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1) % len(one.sizes)
    if dim != one.at:
        return one.like(function(one.local, dim), one.at, one.blocks)
    if one.blocks not in {None, 2} or one.sizes[dim] // 2 % one.cut.num:
        raise Stop("glu() of what is cut")
    if one.blocks is None:
        one.cut.resolve(one.origins, 2)
    return one.like(function(one.local, dim), dim)


_RULES: dict[str, Rule] = (
    dict.fromkeys(_POINTWISE.split(), _pointwise)
    | dict.fromkeys(_UNARY.split(), _unary)
    | dict.fromkeys(_ALONG.split(), _reduced(1))
    | dict.fromkeys(("norm", "normalize"), _reduced(2))
    | dict.fromkeys(("view", "reshape"), _view)
    | dict.fromkeys(("flatten",), _flatten)
    | dict.fromkeys(("transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint"), _moved)
    | dict.fromkeys(("split", "chunk"), _split)
    | dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined)
    | dict.fromkeys(("select", "narrow", "index_select"), _select)
    | dict.fromkeys(("view_as_complex", "view_as_real"), _complex)
    | dict.fromkeys(("layer_norm", "rms_norm"), _normed)
    | dict.fromkeys(("expand", "expand_as"), _expand)
    | dict.fromkeys(("matmul", "bmm"), _matmul)
    | {
        "unflatten": _unflatten,
        "permute": _permute,
        "unsqueeze": _unsqueeze,
        "squeeze": _squeeze,
        "repeat": _repeat,
        "repeat_interleave": _interleave,
        "unbind": _unbind,
        "getitem": _getitem,
        "einsum": _einsum,
        "linear": _linear,
        "scaled_dot_product_attention": _attention,
        "glu": _glu,
        "is_contiguous": _told,
        "stride": _told,
    }
)
