"""Which operator made the first NaN: the step is run again on a copy, operator by operator.

A healthy loop pays nothing for it: the copy is made when a loss or a gradient was seen that is not finite.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from deepseek_lab.inspector.copies import apart, copy_of, plain
from deepseek_lab.inspector.sites import NOWHERE, Site, line_that_calls, own_site

_FILLS = frozenset(
    {
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "full",
        "full_like",
        "new_full",
    }
    | {
        "fill",
        "fill_",
        "masked_fill",
        "masked_fill_",
        "where",
        "triu",
        "tril",
        "constant_pad_nd",
        "scalar_tensor",
    }
    | {"copy_", "clone", "detach", "view", "_to_copy", "expand", "slice", "select", "lift_fresh", "zero_"}
    | {"index_put", "index_put_"}
)
"""Operators that give what they are given: an infinity of theirs is a mask."""
_MAX_NODES = 3000


@dataclasses.dataclass(frozen=True)
class Culprit:
    """The first operator whose result is not finite although what it was given is."""

    operator: str
    module: str
    """Path below the model; empty outside of any module in it."""
    site: Site
    inputs: str
    result: str
    in_backward: bool = False
    in_model: bool = True
    """Whether it is the model's, and not of what the loop computes from its results."""


class _Checked(TorchDispatchMode):
    """Looks at every operator's result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.infinite: Culprit | None = None
        self.nan: Culprit | None = None
        self.nan_from_infinity = False
        self.modules: list[str] = []
        self.backward = False
        self._places: dict[int, tuple[str, Site]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._places_of(args, kwargs) if self.nan is None else None
        result = func(*args, **(kwargs or {}))
        if before is not None:
            self._check(func, before, result)
        return result

    def _places_of(self, args: Any, kwargs: Any) -> list[Any]:
        """Operands with what is said of them before an operator in place overwrites them."""
        return [_described(one) for one in tree_flatten((args, kwargs))[0] if _is_operand(one)]

    def _check(self, func: Any, before: list[Any], result: Any) -> None:
        name = str(func.overloadpacket.__name__)
        module, site = self._place()
        made = [one for one in tree_flatten(result)[0] if isinstance(one, Tensor) and one.is_floating_point()]
        if name in _FILLS or not made:
            return
        bad = [_described(one) for one in made]
        has_nan, has_infinity = any(one.nan for one in bad), any(one.infinite for one in bad)
        given_nan, given_infinity = any(one.nan for one in before), any(one.infinite for one in before)
        if not (has_nan or has_infinity) or given_nan:
            return
        culprit = Culprit(
            name,
            module,
            site,
            "; ".join(one.words for one in before) or "nothing",
            bad[0].words,
            self.backward,
        )
        if has_infinity and not given_infinity and self.infinite is None:
            self.infinite = culprit
        if has_nan:
            self.nan, self.nan_from_infinity = culprit, given_infinity

    def _place(self) -> tuple[str, Site]:
        number = torch._C._autograd._get_sequence_nr()
        if not self.backward:
            place = (self.modules[-1] if self.modules else "", own_site(4))
            self._places[number] = place
            return place
        node = torch._C._current_autograd_node()
        if node is None:
            return "", NOWHERE
        own = node._sequence_nr() + 1
        return self._places.get(own) or self._places.get(own - 1) or ("", NOWHERE)

    @property
    def found(self) -> Culprit | None:
        """The first: an infinity where the NaN was made of one."""
        if self.nan is not None and not (self.nan_from_infinity and self.infinite is not None):
            return self.nan
        return self.infinite


@dataclasses.dataclass(frozen=True)
class _Described:
    words: str
    nan: bool
    infinite: bool


def _is_operand(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int | float) and not isinstance(value, bool))


def _described(value: Any) -> _Described:
    """Shape, range and what is odd, in words."""
    if not isinstance(value, Tensor):
        return _Described(f"{value:g}", False, False)
    shape = "×".join(map(str, value.shape)) or "scalar"
    kind = str(value.dtype).removeprefix("torch.")
    if not value.is_floating_point() or value.numel() == 0 or value.layout != torch.strided:
        return _Described(f"{shape} {kind}", False, False)
    value = value.detach()
    nans, infinities = int(value.isnan().sum()), int(value.isinf().sum())
    words = [f"{shape} {kind}"]
    finite = value[value.isfinite()] if nans or infinities else value
    if finite.numel():
        words.append(f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}")
        zeros = int((finite == 0).sum())
        words += [f"{zeros:,} zeros"] if zeros else []
    words += [f"{nans:,} NaN"] if nans else []
    words += [f"{infinities:,} infinite"] if infinities else []
    return _Described(", ".join(words), bool(nans), bool(infinities))


def find(
    module: nn.Module,
    args: Any,
    kwargs: Any,
    random_state: Tensor | None,
    *,
    backward: bool,
    loss_of: Any = None,
) -> Culprit | None:
    """Run a call again on a copy that shares the parameters' memory, and watch every operator.

    Args:
        module: What was called.
        args: With what.
        kwargs: The same by name.
        random_state: State of PyTorch's generator before that.
        backward: Also differentiate: a loss of ``loss_of`` where it is given, else the outputs against random numbers.
        loss_of: From the call's result to a loss, or None where that is not known.

    Raises:
        Exception: whatever copying or running the module raises.
    """
    made = copy_of(module, share=True)
    with apart(random_state):
        args, kwargs = _cut(args), _cut(kwargs)
        mode = _Checked()
        handles = list(_tracked(made, mode.modules))
        try:
            with mode:
                result = made(*args, **kwargs)
                if backward and mode.found is None:
                    _differentiate(made, result, mode, loss_of)
        finally:
            for handle in handles:
                handle.remove()
    return mode.found


def _cut(value: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda one: one.detach().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one, value
    )


def _tracked(module: nn.Module, stack: list[str]) -> Iterator[Any]:
    """Keep the path of the module that runs on the stack; also of one that ``forward`` itself has just made."""
    paths: dict[int, str] = {}

    def enter(inner: nn.Module, _: Any) -> None:
        if id(inner) not in paths:
            paths.update((id(one), path) for path, one in module.named_modules())
        stack.append(paths.get(id(inner), stack[-1] if stack else ""))

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        if stack:
            stack.pop()

    yield register_module_forward_pre_hook(enter)
    yield register_module_forward_hook(leave, always_call=True)


def _differentiate(module: nn.Module, result: Any, mode: _Checked, loss_of: Any) -> None:
    outputs = [
        one for one in tree_flatten(_opened(result))[0] if isinstance(one, Tensor) and one.requires_grad
    ]
    parameters = [one for one in module.parameters() if one.requires_grad]
    if not outputs or not parameters:
        return
    loss = loss_of(result) if loss_of is not None else None
    if loss is None:
        scalars = [one for one in outputs if one.numel() == 1]
        generator = torch.Generator().manual_seed(0)
        loss = (
            torch.stack([one.reshape(()).float() for one in scalars]).sum()
            if scalars
            else torch.stack(
                [
                    (one.float() * torch.randn(one.shape, generator=generator).to(one.device)).sum()
                    for one in outputs
                ]
            ).sum()
        )
    mode.backward = True
    torch.autograd.grad(loss, parameters, allow_unused=True)


def _opened(result: Any) -> Any:
    return list(result.values()) if isinstance(result, dict) else result


# -- what the cell itself computes from results ---------------------------------------------------------

_Node = Any
_AGAIN: dict[str, tuple[str, Callable[[_Node], tuple[Tensor, list[Tensor]]]]] = {
    "LogBackward0": ("log", lambda n: (torch.log(n._saved_self), [n._saved_self])),
    "Log2Backward0": ("log2", lambda n: (torch.log2(n._saved_self), [n._saved_self])),
    "Log10Backward0": ("log10", lambda n: (torch.log10(n._saved_self), [n._saved_self])),
    "Log1PBackward0": ("log1p", lambda n: (torch.log1p(n._saved_self), [n._saved_self])),
    "AcosBackward0": ("acos", lambda n: (torch.acos(n._saved_self), [n._saved_self])),
    "AsinBackward0": ("asin", lambda n: (torch.asin(n._saved_self), [n._saved_self])),
    "AtanhBackward0": ("atanh", lambda n: (torch.atanh(n._saved_self), [n._saved_self])),
    "DivBackward0": ("div", lambda n: (n._saved_self / n._saved_other, [n._saved_self, n._saved_other])),
    "MulBackward0": ("mul", lambda n: (n._saved_self * n._saved_other, [n._saved_self, n._saved_other])),
    "PowBackward0": ("pow", lambda n: (torch.pow(n._saved_self, n._saved_exponent), [n._saved_self])),
    "SqrtBackward0": ("sqrt", lambda n: (n._saved_result, [n._saved_result.square()])),
    "ExpBackward0": ("exp", lambda n: (n._saved_result, [n._saved_result.log()])),
    "ReciprocalBackward0": ("reciprocal", lambda n: (n._saved_result, [n._saved_result.reciprocal()])),
    "RsqrtBackward0": ("rsqrt", lambda n: (n._saved_result, [n._saved_result.square().reciprocal()])),
}
"""Operators whose saved tensors tell what they were given and gave. Of the last ones what they were given is told by
what they gave, so that it is right where that is finite."""


def find_in_graph(loss: Tensor, site: Site) -> Culprit | None:
    """The first operator of a loss that is not finite, told by what autograd keeps for the backward pass."""
    nodes = _in_order(loss.grad_fn)
    with torch.no_grad():
        for node in nodes:
            known = _AGAIN.get(node.name())
            if known is None:
                continue
            name, again = known
            try:
                result, given = again(node)
            except (RuntimeError, TypeError, AttributeError):  # not kept
                continue
            told = [_described(one) for one in given]
            made = _described(result)
            if (made.nan or made.infinite) and not any(one.nan for one in told):
                line = line_that_calls(name, site)
                return Culprit(
                    name,
                    "",
                    (site[0], line),
                    "; ".join(one.words for one in told),
                    made.words,
                    in_model=False,
                )
    return None


def names_in_graph(loss: weakref.ref[Tensor] | None) -> list[str]:
    """Operators of a loss's graph whose derivative may be infinite."""
    value = loss() if loss is not None else None
    if value is None:
        return []
    risky = (
        "Sqrt",
        "Norm",
        "Pow",
        "Log",
        "Div",
        "Std",
        "Var",
        "Acos",
        "Asin",
        "Atan2",
        "Reciprocal",
        "Rsqrt",
    )
    names = [node.name() for node in _in_order(value.grad_fn)]
    return list(dict.fromkeys(name.removesuffix("Backward0") for name in names if name.startswith(risky)))


def _in_order(root: Any) -> list[Any]:
    """Nodes of a graph, each after those that its inputs come from."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack and len(seen) < _MAX_NODES:
        node, done = stack.pop()
        if node is None:
            continue
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        stack.extend((following, False) for following, _ in node.next_functions)
    return order


# -- what to try ------------------------------------------------------------------------------------------

_LOGARITHMS = ("log", "log2", "log10", "log1p")
_ROOTS = (
    "sqrt",
    "linalg_vector_norm",
    "norm",
    "pow",
    "rsqrt",
    "std",
    "var",
    "_euclidean_dist",
    "_cdist_forward",
)
_DIVISIONS = ("div", "reciprocal", "native_layer_norm", "native_batch_norm")
_SOFTMAX = ("_softmax", "_log_softmax", "_safe_softmax")
_ADVICE: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        _LOGARITHMS,
        "keep it from zero, or use log_softmax or logsigmoid of the logits",
        "x.clamp(min=1e-8).log()",
    ),
    (
        _ROOTS,
        "add a small number before the root: its derivative at zero is infinite",
        "(x + 1e-8).sqrt()",
    ),
    (_DIVISIONS, "keep the divisor from zero", "x / (y + 1e-8)"),
    (
        ("exp", "expm1", "sinh", "cosh"),
        "take the largest value off before, or use softmax or logsumexp",
        "(x - x.amax(-1, keepdim=True)).exp()",
    ),
    (
        _SOFTMAX,
        "let every row have a value that is not masked",
        "scores.masked_fill(mask, torch.finfo(scores.dtype).min)",
    ),
    (
        ("acos", "asin", "atanh"),
        "keep it inside the range in which it has a derivative",
        "x.clamp(-1 + 1e-6, 1 - 1e-6)",
    ),
    (
        ("sub", "mul"),
        "an infinity met another one, or a zero: look at where the infinity comes from",
        "torch.isinf(x).any()",
    ),
)


def advice(culprit: Culprit) -> tuple[str, str]:
    """What to try for an operator, in words and as code."""
    name = culprit.operator.rstrip("_").removesuffix("_backward")
    for names, words, code in _ADVICE:
        if name in names:
            return words, code
    return (
        "numbers became too large for the data type: clip gradients, use a smaller learning rate, or bf16 for fp16",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    )


def parameters_not_finite(module: nn.Module) -> list[str]:
    """Names of parameters that are not finite."""
    with torch.no_grad():
        return [
            name
            for name, one in plain(module).named_parameters()
            if one.is_floating_point() and one.layout == torch.strided and not bool(torch.isfinite(one).all())
        ]


def inputs_not_finite(args: Any, kwargs: Any) -> list[str]:
    """What is said of arguments that are not finite."""
    values = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    told = [_described(one) for one in values]
    return [one.words for one in told if one.nan or one.infinite]
