from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kernel import Kernel


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
