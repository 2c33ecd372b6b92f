"""Text encoder-decoders."""

from __future__ import annotations

import transformers as tf

from tests.architectures.architecture import Architecture, model, tokens

ENCODER_DECODERS = (
    Architecture(
        "t5",
        "encoder-decoder",
        model(
            tf.T5ForConditionalGeneration,
            tf.T5Config,
            vocab_size=8192,
            d_model=256,
            d_kv=64,
            d_ff=1024,
            num_layers=4,
            num_heads=4,
            use_cache=False,
        ),
        tokens(8192, 64, decoder_input_ids=(1, 32)),
    ),
    Architecture(
        "bart",
        "encoder-decoder",
        model(
            tf.BartForConditionalGeneration,
            tf.BartConfig,
            vocab_size=8192,
            d_model=256,
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=1024,
            decoder_ffn_dim=1024,
            use_cache=False,
        ),
        tokens(8192, 96, decoder_input_ids=(1, 32)),
    ),
)
