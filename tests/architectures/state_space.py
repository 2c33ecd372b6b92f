"""State-space models."""

from __future__ import annotations

import transformers as tf

from tests.architectures.architecture import Architecture, model, tokens

STATE_SPACE = (
    Architecture(
        "mamba",
        "state-space",
        model(
            tf.MambaForCausalLM,
            tf.MambaConfig,
            vocab_size=4096,
            hidden_size=256,
            state_size=16,
            num_hidden_layers=4,
            use_cache=False,
        ),
        tokens(4096, 64),
    ),
)
