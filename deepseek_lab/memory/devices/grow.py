"""The same kind of model in other sizes, with parameters that exist nowhere."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import nn

from deepseek_lab.memory.devices.anatomy import Anatomy, anatomy

ASPECT = 128
"""Features a layer in large decoders: GPT-3 13B has 40 layers of 5,140 features and 175B 96 of 12,288
(arXiv:2005.14165), LLaMA-7B 32 of 4,096 (arXiv:2302.13971)."""
DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
INNER = ("intermediate_size", "n_inner", "d_ff", "ffn_dim")
GROUPS = ("num_key_value_heads",)
PLACES = ("n_positions", "max_position_embeddings", "n_ctx")


@dataclasses.dataclass(frozen=True)
class Size:
    """One member of a family."""

    depth: int
    width: int


class Family:
    """Models of one configuration class in any size; without a configuration that is understood, in any depth."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._seen = model, anatomy(model)
        self._config = getattr(model, "config", None)
        self._depth, self._width, self._heads = (
            _field(self._config, names) for names in (DEPTH, WIDTH, HEADS)
        )
        self.by_depth_alone = not (
            all((self._depth, self._width, self._heads))
            and hasattr(self._config, "to_dict")
            and len(self._seen.blocks) == self._get(self._depth)
        )
        self.head = 0 if self.by_depth_alone else self._get(self._width) // self._get(self._heads)

    def _get(self, name: str) -> int:
        return int(getattr(self._config, name))

    def proportionate(self, depth: int) -> Size:
        """Width in the usual proportion to depth, in whole attention heads."""
        if self.by_depth_alone:
            return Size(depth, 0)
        return Size(depth, max(1, round(depth * ASPECT / self.head)) * self.head)

    def member(self, size: Size) -> tuple[nn.Module, Anatomy]:
        """A model of that width on the meta device, with as few blocks as show how it runs, and the whole's numbers."""
        if self.by_depth_alone:
            return self._model, _deep(self._seen, size.depth)
        made = self.build(dataclasses.replace(size, depth=2))
        return made, _deep(anatomy(made), size.depth)

    def build(self, size: Size) -> nn.Module:
        """The model itself, on the meta device."""
        with torch.device("meta"):
            return type(self._model)(self.config(size))

    def config(self, size: Size) -> Any:
        """The configuration of that size."""
        scale = size.width / self._get(self._width)
        heads = size.width // self.head
        assert self._config is not None
        values = copy.deepcopy(self._config.to_dict())
        old_depth = self._get(self._depth)
        for name, value in list(values.items()):
            if isinstance(value, list) and len(value) == old_depth:
                values[name] = [value[at % old_depth] for at in range(size.depth)]
        values |= {self._depth: size.depth, self._width: size.width, self._heads: heads}
        for name in INNER:
            if values.get(name):
                values[name] = max(self.head, round(values[name] * scale / self.head) * self.head)
        for name in GROUPS:
            if values.get(name):
                share = self._get(self._heads) // values[name]
                values[name] = next(g for g in range(max(1, heads // share), 0, -1) if heads % g == 0)
        return type(self._config).from_dict(values)

    @property
    def own(self) -> Size:
        """The size of the model that was given."""
        return Size(len(self._seen.blocks), 0 if self.by_depth_alone else self._get(self._width))


def _field(config: Any, names: tuple[str, ...]) -> str:
    return next((name for name in names if isinstance(getattr(config, name, None), int)), "")


def _deep(seen: Anatomy, depth: int) -> Anatomy:
    """As many blocks, of which the last kind is repeated."""
    blocks = seen.blocks[:depth]
    blocks += (blocks[-1],) * (depth - len(blocks))
    return dataclasses.replace(seen, blocks=blocks)
