"""The Triton implementations under Triton's interpreter; test_triton.py runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from deepseek_lab._kernels.triton import IMPLEMENTATIONS
from tests.kernels.case import KernelCase

# The interpreter computes with numpy, which reports the NaN and infinity that one law feeds it.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


class Interpreted(KernelCase):
    def implementation(self) -> Callable[..., Tensor]:
        return IMPLEMENTATIONS[self.contract]


class TestLayerNormLinear(Interpreted):
    contract = "layer_norm_linear"


class TestGeluLinear(Interpreted):
    contract = "gelu_linear"


class TestInt8Linear(Interpreted):
    contract = "int8_linear"
