"""``nn.MultiheadAttention`` of which each rank has some of the heads."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from deepseek_lab.distributed.worker.mesh.slices import Cut, wholes
from deepseek_lab.distributed.worker.mesh.styles import local_of, summed


def allows(module: nn.Module, num: int) -> str:
    """Why an attention cannot be split; empty where it can."""
    assert isinstance(module, nn.MultiheadAttention)
    if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
        return "its keys or values are of another size, or have rows of their own"
    if module.num_heads % num:
        return f"{module.num_heads} heads cannot be shared by {num} ranks"
    return ""


class Attention:
    """The forward of a module whose parameters are split by heads.

    Args:
        module: With parameters as :class:`deepseek_lab.distributed.worker.mesh.styles.Heads` distributes them.
        cut: How.
    """

    def __init__(self, module: nn.Module, cut: Cut) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        self._module, self._cut = module, cut

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What the module's own forward gives."""
        module, cut = self._module, self._cut
        query, key, value = wholes((query, key, value))
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        alone = query.dim() == 2
        mask = _mask(attn_mask, key_padding_mask, query, module.num_heads, cut)
        q, k, v = (self._heads(one, number, alone) for number, one in enumerate((query, key, value)))
        drops = module.dropout if module.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(module.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            if drops:
                with cut.random():
                    weights = F.dropout(weights, drops)
            made = weights @ v
        elif drops:
            with cut.random():
                made = F.scaled_dot_product_attention(q, k, v, mask, drops)
        else:
            made = F.scaled_dot_product_attention(q, k, v, mask)
        made = F.linear(made.transpose(1, 2).flatten(2), local_of(module.out_proj.weight))
        made = summed(made, cut)
        if module.out_proj.bias is not None:
            made = made + local_of(module.out_proj.bias)
        if alone:
            made = made.squeeze(0)
        elif not module.batch_first:
            made = made.transpose(0, 1)
        if weights is not None:
            weights = (
                summed(weights.sum(1), cut) / module.num_heads
                if average_attn_weights
                else cut.whole(weights, 1, 1)
            )
            weights = weights.squeeze(0) if alone else weights
        return made, weights

    def _heads(self, one: Tensor, number: int, alone: bool) -> Tensor:
        """Queries, keys or values of this rank's heads [batch, heads, length, size]."""
        module = self._module
        one = one.unsqueeze(0) if alone else one if module.batch_first else one.transpose(0, 1)
        weight = local_of(module.in_proj_weight).chunk(3)[number]
        bias = None if module.in_proj_bias is None else local_of(module.in_proj_bias).chunk(3)[number]
        made = F.linear(self._cut.spread(one), weight, bias)
        heads: Tensor = made.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        return heads


def _mask(
    attention: Tensor | None, padding: Tensor | None, query: Tensor, num_heads: int, cut: Cut
) -> Tensor | None:
    """What is added to this rank's scores [batch, heads, length, length], where anything is."""
    made = None
    for mask, name in ((attention, "attn_mask"), (padding, "key_padding_mask")):
        added = F._canonical_mask(
            mask=mask,
            mask_name=name,
            other_type=None,
            other_name="",
            target_type=query.dtype,
            check_other=False,
        )
        if added is None:
            continue
        if name == "key_padding_mask":
            added = added[..., None, None, :] if added.ndim > 1 else added
        elif added.ndim == 3:
            added = cut.part(added.unflatten(0, (-1, num_heads)), 1, 1)
        made = added if made is None else made + added
    return made
