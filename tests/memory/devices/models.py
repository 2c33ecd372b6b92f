"""Models that tests plan for: no weights, only shapes."""

from __future__ import annotations

import torch
import transformers
from torch import nn


def gpt(
    depth: int = 4, width: int = 256, *, places: int = 128, vocabulary: int = 1000, device: str = "meta"
) -> nn.Module:
    """GPT-2 in any size, without dropout."""
    config = transformers.GPT2Config(
        n_layer=depth, n_embd=width, n_head=width // 64, n_positions=places, vocab_size=vocabulary,
        resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.device(device):
        return transformers.GPT2LMHeadModel(config)


def llama(
    depth: int = 4, width: int = 256, *, places: int = 128, vocabulary: int = 1000, device: str = "meta"
) -> nn.Module:
    """Llama in any size: a head of its own, grouped keys, gated linear units, rotary positions."""
    config = transformers.LlamaConfig(
        num_hidden_layers=depth, hidden_size=width, num_attention_heads=width // 64, num_key_value_heads=width // 128,
        intermediate_size=width * 3, max_position_embeddings=places, vocab_size=vocabulary,
    )  # fmt: skip
    with torch.device(device):
        return transformers.LlamaForCausalLM(config)


class Mixer(nn.Module):
    """A model of nobody's library: convolutions in a ``Sequential`` of equal blocks."""

    def __init__(self, depth: int = 6, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU()) for _ in range(depth))
        )
        self.head = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, H, W]; scores [N, 10]."""
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))
