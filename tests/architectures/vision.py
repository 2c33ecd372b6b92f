"""Image models, and the one that reads images and text."""

from __future__ import annotations

import torch
import transformers as tf
from torch import Tensor

from tests.architectures.architecture import Architecture, floats, model


def _image_and_captions(generator: torch.Generator) -> dict[str, Tensor]:
    captions = torch.randint(10, 4095, (2, 32), generator=generator)
    captions[:, -1] = 4095  # the end token, whose state CLIP pools
    return {"input_ids": captions, "pixel_values": torch.randn(1, 3, 128, 128, generator=generator)}


VISION = (
    Architecture(
        "vit",
        "vision",
        model(
            tf.ViTForImageClassification,
            tf.ViTConfig,
            hidden_size=384,
            num_hidden_layers=8,
            num_attention_heads=6,
            intermediate_size=1536,
            num_labels=100,
        ),
        floats("pixel_values", 1, 3, 224, 224),
    ),
    Architecture(
        "convnext",
        "vision",
        model(
            tf.ConvNextForImageClassification,
            tf.ConvNextConfig,
            hidden_sizes=[48, 96, 192, 384],
            depths=[2, 2, 4, 2],
            num_labels=100,
        ),
        floats("pixel_values", 1, 3, 160, 160),
    ),
    Architecture(
        "swin",
        "vision",
        model(
            tf.SwinForImageClassification,
            tf.SwinConfig,
            image_size=224,
            embed_dim=48,
            depths=[2, 2, 4, 2],
            num_heads=[2, 4, 8, 16],
            num_labels=100,
        ),
        floats("pixel_values", 1, 3, 224, 224),
    ),
    Architecture(
        "resnet",
        "vision",
        model(
            tf.ResNetForImageClassification,
            tf.ResNetConfig,
            layer_type="basic",
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            num_labels=100,
        ),
        floats("pixel_values", 2, 3, 128, 128),
    ),
    Architecture(
        "clip",
        "vision",
        model(
            tf.CLIPModel,
            tf.CLIPConfig,
            projection_dim=256,
            text_config={
                "vocab_size": 4096,
                "hidden_size": 256,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
                "bos_token_id": 1,
                "eos_token_id": 4095,
            },
            vision_config={
                "image_size": 128,
                "patch_size": 16,
                "hidden_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
            },
        ),
        _image_and_captions,
    ),
)
