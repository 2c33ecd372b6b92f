"""Whether a loss is a mean or a sum over its batch, and over how many values: read off the autograd graph.

A mean over labelled tokens weighs each token of a micro-batch otherwise than the whole batch's mean does, unless the
micro-batches are weighed by how many tokens they label (huggingface/transformers#34191).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from torch import Tensor

MAX_NODES = 64
"""Nodes of the graph that are looked at; the reduction stands at its end."""
MEAN, SUM = 1, 2
"""How PyTorch's losses save their reduction (ATen/core/Reduction.h)."""
_THROUGH = frozenset(
    "Neg ToCopy Clone View UnsafeView ReshapeAlias Alias Unsqueeze Squeeze Expand Contiguous".split()  # noqa: SIM905
)
_JOINING = frozenset(("Add", "Sub", "Stack", "Cat"))
_ELEMENTWISE = frozenset(["Pow", "Abs", "Mul", "Norm", "LinalgVectorNorm", "Square", "Sqrt"])


@dataclasses.dataclass(frozen=True)
class Reduction:
    """How a loss adds up its batch.

    Attributes:
        kind: ``mean`` or ``sum``.
        counts: Values that each mean of it is over.
        doubt: Why that is not certain; empty where it is.
    """

    kind: Literal["mean", "sum"] = "mean"
    counts: tuple[float, ...] = ()
    doubt: str = ""

    def weight(self, num_samples: float) -> float:
        """What a micro-batch's gradient counts for beside others of the same batch."""
        if self.kind == "sum":
            return 1.0
        if len(set(self.counts)) == 1 and self.counts[0] > 0:
            return self.counts[0]
        return num_samples

    def agrees(self, num_samples: float) -> bool:
        """Whether one weight is right for all its means."""
        return len(set(self.counts)) < 2 or all(count % num_samples == 0 for count in self.counts)


def reduction_of(loss: Tensor) -> Reduction:
    """How a loss adds up its batch; a mean over samples where that cannot be seen."""
    terms: list[Reduction] = []
    unknown = _collect(loss.grad_fn, terms)
    if unknown:
        return Reduction(doubt=f"the loss ends in {unknown}, which was taken for a mean over samples")
    kinds = {term.kind for term in terms}
    if len(kinds) > 1:
        return Reduction(doubt="the loss adds means and sums; it was taken for a mean over samples")
    if not terms:
        return Reduction(doubt="the loss shows no reduction; it was taken for a mean over samples")
    counts = tuple(count for term in terms for count in term.counts)
    return Reduction(terms[0].kind, counts, next((term.doubt for term in terms if term.doubt), ""))


def _collect(root: Any, terms: list[Reduction]) -> str:
    """Append the reductions that a graph ends in; the name of a node that is none, if there is one."""
    left = [root]
    for _ in range(MAX_NODES):
        if not left:
            return ""
        node = left.pop()
        name = _name(node)
        following = [one for one, _ in node.next_functions if one is not None] if node is not None else []
        joined = name == "Sum" and _name(following[0]) in _JOINING
        if joined or name in _JOINING or name in _THROUGH or (name == "Mul" and len(following) == 1):
            left += following
        elif name == "Div" and len(following) == 1:
            term = _divided(node, following[0])
            if term is None:
                left += following
            else:
                terms.append(term)
        elif (term := _reduced(node, name)) is not None:
            terms.append(term)
        elif not _is_of_weights(node):
            return name or "nothing that is differentiated"
        if name == "Sum" and terms and _is_of_weights(node):
            terms.pop()
    return "a large graph" if left else ""


def _name(node: Any) -> str:
    return str(node.name()).partition("Backward")[0] if node is not None else ""


def _reduced(node: Any, name: str) -> Reduction | None:
    if name in ("NllLoss", "NllLoss2D", "NllLossNd"):
        if node._saved_reduction == MEAN:
            return Reduction("mean", (float(node._saved_total_weight),))
        return Reduction("sum") if node._saved_reduction == SUM else None
    if hasattr(node, "_saved_reduction") and hasattr(node, "_saved_self"):
        if node._saved_reduction == MEAN:
            return Reduction("mean", (float(node._saved_self.numel()),))
        return Reduction("sum") if node._saved_reduction == SUM else None
    if name == "Mean":
        sizes = node._saved_self_sym_sizes
        dims = getattr(node, "_saved_dim", None) or range(len(sizes))
        return Reduction("mean", (float(math.prod(sizes[dim] for dim in _dims(dims, len(sizes)))),))
    return Reduction("sum") if name in ("Sum", "Nansum") else None


def _dims(dims: Any, rank: int) -> list[int]:
    # Autograd saves a negative dimension as an unsigned number.
    return [int(dim) - (1 << 64) + rank if dim >= 1 << 63 else int(dim) for dim in dims]


def _divided(node: Any, inner: Any) -> Reduction | None:
    """A sum that is divided is a mean over as many values as it is divided by. None for anything else."""
    while _name(inner) in _THROUGH and inner.next_functions[0][0] is not None:
        inner = inner.next_functions[0][0]
    by = node._saved_other
    if (
        _name(inner) not in ("Sum", "Nansum")
        or (isinstance(by, Tensor) and by.numel() != 1)
        or float(by) <= 0
    ):
        return None
    return Reduction("mean", (float(by),))


def _is_of_weights(node: Any) -> bool:
    """Whether a term is of one weight alone, as a penalty on its size is: that is the same for any batch."""
    for _ in range(8):
        if node is None:
            return False
        name = _name(node)
        if name in ("", "torch::autograd::AccumulateGrad"):
            return name != ""
        following = [one for one, _ in node.next_functions if one is not None]
        if name not in _ELEMENTWISE | _THROUGH | {"Sum", "Mean", "Add"} or len(following) != 1:
            return False
        node = following[0]
    return False
