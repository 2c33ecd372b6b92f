"""Every test starts from the same seeds and never touches the user's own artefact store or the network."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from pathlib import Path

import pytest

# Set before anything is imported, so that settings of this process and of every kernel and builder it starts agree.
_STORE = tempfile.TemporaryDirectory(prefix="deepseek_lab-tests-", ignore_cleanup_errors=True)
os.environ["DEEPSEEK_LAB_CACHE_DIR"] = _STORE.name
# Half a minute for each loop that trains; test_compiled.py is about that.
os.environ["DEEPSEEK_LAB_COMPILE_TRAINING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A shell's background job is born deaf to interrupts, and so would be every kernel that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def artefact_store() -> Path:
    """The folder of this session's artefact store."""
    return Path(_STORE.name)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whichever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_unconfigure() -> None:
    """Remove the store; builders that a test left behind no longer hold it back."""
    _STORE.cleanup()
