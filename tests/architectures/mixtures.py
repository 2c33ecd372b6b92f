"""Mixtures of experts."""

from __future__ import annotations

import transformers as tf

from tests.architectures.architecture import Architecture, model, tokens

_SIZES = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts_per_tok": 2,
    "use_cache": False,
}

MIXTURES = (
    Architecture(
        "mixtral",
        "mixture-of-experts",
        model(tf.MixtralForCausalLM, tf.MixtralConfig, intermediate_size=512, num_local_experts=8, **_SIZES),
        tokens(4096, 64),
    ),
    Architecture(
        "qwen3-moe",
        "mixture-of-experts",
        model(
            tf.Qwen3MoeForCausalLM,
            tf.Qwen3MoeConfig,
            intermediate_size=512,
            moe_intermediate_size=256,
            num_experts=16,
            **_SIZES,
        ),
        tokens(4096, 64),
    ),
)
