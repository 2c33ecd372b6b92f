from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kernel import Kernel

_TRAINING = """
%load_ext deepseek_lab
import torch, time
from torch import nn
model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.AdamW(model.parameters())
x, y = torch.randn(64, 256), torch.randint(10, (64,))
def train(steps):
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
"""


@pytest.fixture(scope="module")
def training() -> Iterator[Kernel]:
    """A kernel with the extension, a small model and its training loop."""
    kernel = Kernel(PYTHONFAULTHANDLER="1")
    kernel.ok(_TRAINING)
    yield kernel
    kernel.stop()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Kernel]:
    """A kernel with the extension and without torch."""
    kernel = Kernel()
    kernel.ok("%load_ext deepseek_lab")
    yield kernel
    kernel.stop()


@pytest.fixture(scope="module")
def recording() -> Iterator[Kernel]:
    """A kernel with the extension and the recording engine."""
    kernel = Kernel()
    kernel.ok("%load_ext deepseek_lab\nimport recording_engine\napi = recording_engine.install()")
    kernel.ok("class Net(recording_engine.Module): pass\nmodel = Net()")
    yield kernel
    kernel.stop()
