"""A model's last product and the cross entropy behind it, without the product's result.

A language model's logits take tokens x vocabulary values, several times over: the product, its softmax, its gradient.
Here they are made a few hundred rows at a time, only for tokens that have a label, and each time used up for the loss
and its gradients at once, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989) and Cut Your Losses (Wijmans et al.
2024, arXiv:2411.09009). Sums over rows are added up in another order; that is all that differs.

Whoever asks for the logits themselves gets them: they are computed then, from the weights as they were.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.memory.patches import Patch

CHUNK_BYTES = 64 << 20
"""About what one chunk of logits takes."""
MIN_ROWS = 128
MIN_CHUNKS = 8
MIN_WIDENING = 4
"""A product whose result is at least so many times as wide as its input may be deferred."""


class LogitsGone(DeepseekError):
    """Logits were asked for that can't be computed any more."""


class Head:
    """Defers the result of a linear layer for as long as only a cross entropy wants it.

    Args:
        path: Where the layer is in its model.
        layer: The layer.
    """

    def __init__(self, path: str, layer: nn.Linear) -> None:
        self.path, self.layer = path, layer
        self.on = True
        self.num_labelled: int | None = None
        """Rows with a label, for a rehearsal in which labels have no values."""
        self.most_labelled = 0
        self.num_rows = 0
        self.num_asked = 0
        """How often somebody wanted the logits themselves."""
        self._live: weakref.WeakSet[_Source] = weakref.WeakSet()
        self._patch = Patch(layer, self._forward)

    def install(self) -> Head:
        """Defer from the next call on."""
        self._patch.install()
        return self

    def remove(self) -> None:
        """The layer as it was."""
        self._patch.remove()

    def _forward(self, before: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        deferred = (
            self.on
            and len(args) == 1
            and not kwargs
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and type(args[0]) is not Deferred
            and args[0].dim() > 1
            and not self.layer._forward_hooks
        )
        if not deferred:
            return before(*args, **kwargs)
        source = _Source(self)
        self._live.add(source)
        return Deferred(source, args[0], ())

    def before_update(self) -> None:
        """The weights are about to change: logits that somebody may still ask for need them as they are."""
        waiting = [one for one in list(self._live) if one.kept is None]
        if not waiting:
            return
        with torch.no_grad():
            bias = self.layer.bias
            kept = self.layer.weight.detach().clone(), None if bias is None else bias.detach().clone()
        for one in waiting:
            one.kept = kept


class _Source:
    """Where deferred logits come from: the layer, and its weights as they were."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.kept: tuple[Tensor, Tensor | None] | None = None
        self._versions = self._now()

    def _now(self) -> list[int]:
        return [one._version for one in (self.head.layer.weight, self.head.layer.bias) if one is not None]

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """The weights that the logits are the product with."""
        if self.kept is not None:
            return self.kept
        if self._now() != self._versions:
            raise LogitsGone(
                f"these logits were left out to save memory, and the weights of {self.head.path!r} changed since",
                hint="read them before the weights change, or %deepseek optimize --memory-limit ... --keep logits",
            )
        return self.head.layer.weight, self.head.layer.bias


class Deferred(Tensor):
    """Logits that were not computed yet: they have a shape and a type, and are made when they are asked for."""

    _source: _Source
    _rows: Tensor
    _moved: tuple[int, ...]
    _made: Tensor | None

    @staticmethod
    def __new__(cls, source: _Source, rows: Tensor, moved: tuple[int, ...], dtype: Any = None) -> Deferred:
        """As the product of ``rows`` with the source's weights, the last dimension ``moved`` to another place."""
        size = [*rows.shape[:-1], source.head.layer.weight.shape[0]]
        if moved:
            size = [size[index] for index in moved]
        made = Tensor._make_wrapper_subclass(
            cls, size, dtype=dtype or _product_dtype(rows), device=rows.device, requires_grad=True
        )
        made._source, made._rows, made._moved, made._made = source, rows, moved, None
        return made

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def holds(self) -> list[Tensor | None]:
        """What it keeps alive."""
        return [self._rows, self._made, *(self._source.kept or ())]

    def logits(self) -> Tensor:
        """The logits themselves."""
        if self._made is None:
            self._source.head.num_asked += 1
            weight, bias = self._source.weights()
            made = F.linear(self._rows, weight, bias)
            if self._moved:
                made = made.permute(self._moved)
            self._made = made.to(self.dtype) if made.dtype != self.dtype else made
        return self._made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        __tracebackhide__ = True
        kwargs = kwargs or {}
        lazy = _LAZY.get(func)
        if lazy is not None and args and type(args[0]) is cls:
            made = lazy(*args, **kwargs)
            if made is not NotImplemented:
                return made
        if func in _ABOUT:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        args, kwargs = tree_map(_made, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map(_made, (args, kwargs or {}))
        return func(*args, **kwargs)


def _made(value: Any) -> Any:
    return value.logits() if type(value) is Deferred else value


def _product_dtype(rows: Tensor) -> torch.dtype:
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


_ABOUT = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "requires_grad", "ndim", "layout", "is_leaf", "is_sparse", "grad_fn")
} | {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.is_floating_point, Tensor.__len__,
    Tensor.is_contiguous, torch.is_floating_point, torch.numel, Tensor.element_size, Tensor.get_device,
}  # fmt: skip
"""What asks about logits, and not for them."""


# -- what leaves logits what they are ---------------------------------------------------------------------


def _over_rows(one: Deferred, rows: Tensor) -> Deferred:
    return Deferred(one._source, rows, (), one.dtype)


def _reshaped(one: Deferred, *size: Any, **kwargs: Any) -> Any:
    wanted = tuple(size[0]) if len(size) == 1 and isinstance(size[0], tuple | list | torch.Size) else size
    if kwargs or one._moved or not wanted or not all(isinstance(n, int) for n in wanted):
        return NotImplemented
    width = one.shape[-1]
    if wanted[-1] == -1:
        known = 1
        for n in wanted[:-1]:
            known *= n
        if -1 in wanted[:-1] or known <= 0 or one.numel() != known * width:
            return NotImplemented
    elif wanted[-1] != width:
        return NotImplemented
    return _over_rows(one, one._rows.reshape(*wanted[:-1], one._rows.shape[-1]))


def _flattened(one: Deferred, start_dim: int = 0, end_dim: int = -1) -> Any:
    end = end_dim % one.dim()
    if one._moved or end == one.dim() - 1:
        return NotImplemented
    return _over_rows(one, one._rows.flatten(start_dim, end))


def _indexed(one: Deferred, index: Any) -> Any:
    places = index if isinstance(index, tuple) else (index,)
    if one._moved or any(place is None for place in places):
        return NotImplemented
    taken = 0
    for place in places:
        if place is Ellipsis:
            taken = one.dim()
        elif isinstance(place, Tensor) and place.dtype in (torch.bool, torch.uint8):
            taken += place.dim()
        else:
            taken += 1
    if Ellipsis in [place for place in places if not isinstance(place, Tensor)]:
        if places[-1] is not Ellipsis and places[-1] != slice(None):
            return NotImplemented
    elif taken > one.dim() - 1 and not (taken == one.dim() and places[-1] == slice(None)):
        return NotImplemented
    return _over_rows(one, one._rows[index])


def _cast(one: Deferred, *args: Any, **kwargs: Any) -> Any:
    wanted = args[0] if len(args) == 1 and not kwargs else kwargs.get("dtype") if not args else None
    if isinstance(wanted, torch.dtype) and wanted.is_floating_point and wanted.itemsize >= one.dtype.itemsize:
        return Deferred(one._source, one._rows, one._moved, wanted)
    return NotImplemented


def _as_float(one: Deferred, **kwargs: Any) -> Any:
    return NotImplemented if kwargs else _cast(one, torch.float32)


def _same(one: Deferred, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented if args or kwargs else one


def _transposed(one: Deferred, first: int, second: int) -> Any:
    order = list(one._moved or range(one.dim()))
    first, second = first % one.dim(), second % one.dim()
    order[first], order[second] = order[second], order[first]
    return _permuted_to(one, tuple(order))


def _permuted(one: Deferred, *order: Any) -> Any:
    wanted = tuple(order[0]) if len(order) == 1 and isinstance(order[0], tuple | list) else order
    if one._moved:
        return NotImplemented
    return _permuted_to(one, tuple(n % one.dim() for n in wanted))


def _permuted_to(one: Deferred, order: tuple[int, ...]) -> Deferred:
    return Deferred(one._source, one._rows, () if order == tuple(range(one.dim())) else order, one.dtype)


def _cross_entropy(
    one: Any,
    target: Tensor,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    plain = (
        weight is None
        and size_average is None
        and reduce is None
        and reduction in ("mean", "sum")
        and not label_smoothing
        and isinstance(target, Tensor)
        and target.dtype == torch.int64
        and one.dim() == target.dim() + 1
    )
    if not plain:
        return NotImplemented
    rows = one._rows
    if one._moved:
        # Classes stand second: rows in the order of the target.
        dims = [dim for dim in one._moved if dim != one.dim() - 1]
        if one._moved[1] != one.dim() - 1:
            return NotImplemented
        rows = rows.permute(*dims, rows.dim() - 1)
    elif one.dim() != 2:
        return (
            NotImplemented  # a class dimension in the middle: of logits that were not moved it is another one
        )
    rows, target = rows.reshape(-1, rows.shape[-1]), target.reshape(-1)
    if rows.shape[0] != target.shape[0]:
        return NotImplemented
    source = one._source
    layer_weight, bias = source.weights()
    return linear_cross_entropy(
        rows, layer_weight, bias, target, ignore_index=ignore_index, reduction=reduction, head=source.head
    )


_LAZY: dict[Any, Callable[..., Any]] = {
    Tensor.view: _reshaped,
    Tensor.reshape: _reshaped,
    torch.reshape: _reshaped,
    Tensor.flatten: _flattened,
    torch.flatten: _flattened,
    Tensor.__getitem__: _indexed,
    Tensor.to: _cast,
    Tensor.type: _cast,
    Tensor.float: _as_float,
    Tensor.contiguous: _same,
    Tensor.transpose: _transposed,
    torch.transpose: _transposed,
    Tensor.permute: _permuted,
    F.cross_entropy: _cross_entropy,
}


# -- the loss ---------------------------------------------------------------------------------------------


def linear_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    head: Head | None = None,
) -> Tensor:
    """``F.cross_entropy(F.linear(rows, weight, bias), target)`` without the product's result in one piece.

    Args:
        rows: [tokens, width].
        weight: [classes, width].
        bias: [classes], or None.
        target: [tokens], int64; tokens whose target is ``ignore_index`` take no part and cost nothing.
        ignore_index: See ``F.cross_entropy``.
        reduction: ``mean`` or ``sum``.
        head: Told how many rows had a label.

    Returns:
        The loss: a scalar of the dtype of the product.
    """
    made = LinearCrossEntropy.apply(rows, weight, bias, target, ignore_index, reduction == "mean", head)  # type: ignore[no-untyped-call]
    assert isinstance(made, Tensor)
    return made


def _labelled(target: Tensor, ignore_index: int, head: Head | None) -> tuple[Tensor | None, int]:
    """The rows that have a label (None for all of them), and how many there are."""
    if head is not None and head.num_labelled is not None:  # labels without values
        count = min(head.num_labelled, target.shape[0])
        return (None if count == target.shape[0] else target.new_empty(count)), count
    chosen = (target != ignore_index).nonzero().squeeze(1)
    count = chosen.shape[0]
    if head is not None:
        head.most_labelled = max(head.most_labelled, count)
        head.num_rows = target.shape[0]
    return (None if count == target.shape[0] else chosen), count


class LinearCrossEntropy(torch.autograd.Function):
    """See :func:`linear_cross_entropy`. Gradients are made in the forward pass, chunk by chunk, and scaled backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        ignore_index: int,
        mean: bool,
        head: Head | None,
    ) -> Tensor:
        dtype = _product_dtype(rows)
        chosen, count = _labelled(target, ignore_index, head)
        if chosen is not None:
            used, labels = rows.index_select(0, chosen), target.index_select(0, chosen)
        else:
            used, labels = rows, target
        with _no_autocast(rows.device.type):
            used, matrix = used.to(dtype), weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            needs_rows, needs_weight, needs_bias = ctx.needs_input_grad[:3]
            d_used = torch.empty_like(used) if needs_rows else None
            d_weight = torch.zeros_like(weight) if needs_weight else None
            d_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
            total = rows.new_zeros((), dtype=torch.float32)
            size = max(MIN_ROWS, min(CHUNK_BYTES // (4 * weight.shape[0]), count // MIN_CHUNKS))
            for start in range(0, count, size):
                part, truth = used[start : start + size], labels[start : start + size, None]
                logits = F.linear(part, matrix, offset).float()
                top = torch.logsumexp(logits, 1, keepdim=True)
                total += (top - logits.gather(1, truth)).sum()
                if not (needs_rows or needs_weight or needs_bias):
                    continue
                chances = logits.sub_(top).exp_()
                chances.scatter_add_(1, truth, chances.new_full((), -1.0).expand_as(truth))
                chances = chances.to(dtype)
                if d_used is not None:
                    torch.mm(chances, matrix, out=d_used[start : start + size])
                if d_weight is not None:
                    if d_weight.dtype == dtype:
                        d_weight.addmm_(chances.t(), part)
                    else:
                        d_weight += chances.t() @ part
                if d_bias is not None:
                    d_bias += chances.sum(0)
                del logits, chances
            scale = 1.0
            if mean:
                scale = 1.0 / count if count else float("nan")
                total = total * scale
        ctx.scale, ctx.shape, ctx.dtype = scale, rows.shape, rows.dtype
        ctx.gradients = d_used, d_weight, d_bias, chosen
        ctx.again = ignore_index, mean, head
        ctx.save_for_backward(rows, weight, bias, target)
        return total.to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward pass through the same loss
            other = _Again(ctx.needs_input_grad)
            LinearCrossEntropy.forward(other, *ctx.saved_tensors, *ctx.again)
            gradients = other.gradients
        d_used, d_weight, d_bias, chosen = gradients
        del gradients
        factor = gradient * ctx.scale
        for one in (d_used, d_weight, d_bias):
            if one is not None:
                one.mul_(factor)
        d_rows = None if d_used is None else d_used.to(ctx.dtype)
        if d_rows is not None and chosen is not None:
            d_rows = d_rows.new_zeros(ctx.shape).index_copy_(0, chosen, d_rows)
        return d_rows, d_weight, d_bias, None, None, None, None


class _Again:
    """What a forward pass needs of a context, to make gradients once more."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.gradients: Any = None

    def save_for_backward(self, *tensors: Any) -> None:
        """Nothing is to be kept."""


@contextmanager
def _no_autocast(kind: str) -> Iterator[None]:
    with torch.autocast(kind, enabled=False):
        yield


def find_heads(model: nn.Module) -> list[Head]:
    """Layers whose results are logits by their width; whether they are shows in what is done with them."""
    return [
        Head(path, one)
        for path, one in model.named_modules()
        if type(one) is nn.Linear and one.out_features >= max(MIN_WIDENING * one.in_features, 4096)
    ]
