"""Speech models on one to two seconds of sound at 16 kHz."""

from __future__ import annotations

import transformers as tf
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.architectures.architecture import Architecture, floats, model

_SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
}


def _whisper_encoder() -> nn.Module:
    return WhisperEncoder(
        tf.WhisperConfig(
            d_model=384,
            encoder_layers=4,
            encoder_attention_heads=6,
            encoder_ffn_dim=1536,
            max_source_positions=100,
            decoder_layers=1,
        )
    )


AUDIO = (
    Architecture(
        "wav2vec2",
        "audio",
        model(tf.Wav2Vec2ForCTC, tf.Wav2Vec2Config, conv_dim=(128,) * 7, vocab_size=32, **_SIZES),
        floats("input_values", 1, 16_000),
    ),
    Architecture(
        "hubert",
        "audio",
        model(
            tf.HubertModel,
            tf.HubertConfig,
            conv_dim=(128,) * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            **_SIZES,
        ),
        floats("input_values", 1, 16_000),
    ),
    Architecture("whisper-encoder", "audio", _whisper_encoder, floats("input_features", 1, 80, 200)),
)
