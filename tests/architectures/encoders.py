"""Text encoders."""

from __future__ import annotations

import transformers as tf

from tests.architectures.architecture import Architecture, model, tokens

_SIZES = {"vocab_size": 8192, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}

ENCODERS = (
    Architecture(
        "bert",
        "encoder",
        model(tf.BertModel, tf.BertConfig, num_hidden_layers=12, **_SIZES),
        tokens(8192, 128),
    ),
    Architecture(
        "distilbert",
        "encoder",
        model(
            tf.DistilBertModel,
            tf.DistilBertConfig,
            vocab_size=8192,
            dim=384,
            n_heads=6,
            hidden_dim=1536,
            n_layers=3,
        ),
        tokens(8192, 64, batch=4),
    ),
    Architecture(
        "roberta",
        "encoder",
        model(tf.RobertaForMaskedLM, tf.RobertaConfig, num_hidden_layers=4, **_SIZES),
        tokens(8192, 64),
    ),
    Architecture(
        "albert",
        "encoder",
        model(tf.AlbertModel, tf.AlbertConfig, num_hidden_layers=6, embedding_size=128, **_SIZES),
        tokens(8192, 96),
    ),
    Architecture(
        "deberta-v2",
        "encoder",
        model(
            tf.DebertaV2Model,
            tf.DebertaV2Config,
            num_hidden_layers=4,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=64,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            **_SIZES,
        ),
        tokens(8192, 64),
    ),
)
