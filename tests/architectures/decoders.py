"""Text decoders, scoring a whole sequence at once (no cache)."""

from __future__ import annotations

import transformers as tf

from tests.architectures.architecture import Architecture, model, tokens

_SIZES = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 1024,
    "use_cache": False,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 64}

DECODERS = (
    Architecture(
        "gpt2",
        "decoder",
        model(
            tf.GPT2LMHeadModel,
            tf.GPT2Config,
            vocab_size=8192,
            n_embd=384,
            n_layer=6,
            n_head=6,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
        ),
        tokens(8192, 128),
    ),
    Architecture(
        "llama",
        "decoder",
        model(tf.LlamaForCausalLM, tf.LlamaConfig, **_SIZES, **_GROUPED),
        tokens(8192, 128),
    ),
    Architecture(
        "qwen3", "decoder", model(tf.Qwen3ForCausalLM, tf.Qwen3Config, **_SIZES, **_GROUPED), tokens(8192, 64)
    ),
    Architecture(
        "gemma2",
        "decoder",
        model(
            tf.Gemma2ForCausalLM,
            tf.Gemma2Config,
            sliding_window=32,
            query_pre_attn_scalar=64,
            **_SIZES,
            **_GROUPED,
        ),
        tokens(8192, 64),
    ),
    Architecture(
        "opt",
        "decoder",
        model(
            tf.OPTForCausalLM,
            tf.OPTConfig,
            vocab_size=8192,
            hidden_size=384,
            word_embed_proj_dim=384,
            num_hidden_layers=4,
            num_attention_heads=6,
            ffn_dim=1536,
            use_cache=False,
        ),
        tokens(8192, 32, batch=2),
    ),
    Architecture(
        "gpt-neox", "decoder", model(tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, **_SIZES), tokens(8192, 96)
    ),
)
