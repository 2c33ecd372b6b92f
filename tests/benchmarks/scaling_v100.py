"""Efficiency on 16 V100s as predicted, plain DDP beside other ways. ``python -m tests.benchmarks.scaling_v100``.

Two nodes of 8, NVLink inside, 10 to 100 Gbit/s between. A step of one device takes what was published for it; the
course of its passes is worked out from the operators. Nothing is measured here. The exit status is the number of pairs
of a model and a link at which no way reaches 92 %.

Sources of the steps, both in 16 bits with float32 gradients (AMP) on one V100: ResNet-50, 256 images, 1200 images/s on
16 GB (NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md); BERT-base, 96 sequences of
128 tokens, 641.5 sequences/s on 32 GB (NGC PyTorch, as measured by PaddlePaddle/Perf, Bert/README.md).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from deepseek_lab import views
from deepseek_lab.base.scaling import ScalingPlan
from deepseek_lab.distributed.scaling import record
from deepseek_lab.distributed.scaling.plan import Cluster, plan
from deepseek_lab.distributed.scaling.predict import scaled
from deepseek_lab.distributed.scaling.work import Rates, work_out
from deepseek_lab.memory.devices import DEVICES
from deepseek_lab.memory.devices.anatomy import skeleton
from deepseek_lab.memory.devices.footprint import fused_attention
from deepseek_lab.notebook.verbs.distributed_plan import USED_BANDWIDTH, USED_FLOPS

NUM_RANKS, BAR = 16, 0.92
GBITS = (10, 25, 50, 100)


@dataclasses.dataclass(frozen=True)
class Published:
    """A model and what one V100 does with it."""

    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[Any], torch.Tensor]
    batch: int
    per_s: float
    """Samples in a second."""
    source: str


def _resnet(model: Any) -> torch.Tensor:
    return functional.cross_entropy(
        model(torch.empty(256, 3, 224, 224)).logits, torch.empty(256, dtype=torch.long)
    )


def _bert(model: Any) -> torch.Tensor:
    scores = model(input_ids=torch.empty(96, 128, dtype=torch.long)).logits
    return functional.cross_entropy(scores.flatten(0, 1), torch.empty(96 * 128, dtype=torch.long))


MODELS = (
    Published(
        "ResNet-50",
        lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000)),
        _resnet,
        256,
        1200.0,
        "NVIDIA/DeepLearningExamples, one V100 16 GB, AMP",
    ),
    Published(
        "BERT-base",
        lambda: transformers.BertForMaskedLM(transformers.BertConfig()),
        _bert,
        96,
        641.511,
        "PaddlePaddle/Perf, NGC PyTorch on one V100 32 GB, AMP, 128 tokens",
    ),
)


def plans(one: Published) -> list[tuple[int, ScalingPlan]]:
    """One for each link between the nodes."""
    v100 = DEVICES["v100-16gb"]
    with torch.device("meta"):
        model = one.make()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made, _ = skeleton(model, mode, whole=True)
    rates = Rates(USED_FLOPS * v100.flops, USED_BANDWIDTH * v100.memory_bandwidth, 2)

    def loss() -> torch.Tensor:
        with fused_attention():
            return one.loss(made)

    worked_out = work_out(made, loss, rates, mode)
    step_s = one.batch / one.per_s
    told = (
        f"one device: {one.per_s:g} samples/s at {one.batch} ({one.source}), {1e3 * step_s:.0f} ms a step; worked out "
        f"from operators at {USED_FLOPS:.0%} of 125 TFLOP/s and {USED_BANDWIDTH:.0%} of 900 GB/s it would be "
        f"{1e3 * worked_out.total_s:.0f} ms"
    )
    shapes = [tuple(each.shape) for each in model.parameters()]
    found = []
    for gbit in GBITS:
        cluster = Cluster(
            NUM_RANKS,
            v100.name,
            v100.memory_bytes,
            v100.memory_bandwidth,
            v100.flops,
            v100.link_bandwidth,
            gbit * 1e9 / 8,
        )
        compute = scaled(worked_out, step_s)
        found.append(
            (
                gbit,
                plan(
                    shapes,
                    compute,
                    cluster,
                    model=one.name,
                    inputs=f"{one.batch} samples",
                    assumptions=[told],
                    checked=record.kept(),
                ),
            )
        )
    return found


def main() -> int:
    """Print; the number of model and link pairs at which no way reaches the bar."""
    missed = 0
    for one in MODELS:
        made = plans(one)
        names = [way.name for way in made[0][1].ways]
        print(f"{one.name} on {NUM_RANKS} x V100, efficiency as predicted, exact ways first")
        print("  Gbit/s  " + "  ".join(names) + "  reach 92 %")
        for gbit, found in made:
            cells = [f"{way.efficiency:.1%}".rjust(len(way.name)) for way in found.ways]
            reach = [way for way in found.ways if way.efficiency >= BAR]
            missed += not reach
            words = ", ".join(f"{way.name}{'' if way.is_exact else ' (--allow-lossy)'}" for way in reach)
            print(f"  {gbit:6d}  " + "  ".join(cells) + f"  {words or 'none'}")
        print("\n" + views.scaling_text(made[0][1]) + "\n")
    return missed


if __name__ == "__main__":
    sys.exit(main())
