"""The CPU implementations of every contract, on every instruction set that runs here, and without a library."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch

from deepseek_lab import _kernels
from tests.kernels.case import KernelCase

NO_LIBRARY = None


@pytest.fixture(params=[*_kernels.isas(), NO_LIBRARY], ids=str, autouse=True)
def isa(request: pytest.FixtureRequest) -> str | None:
    name: str | None = request.param
    return name


class OnEveryIsa(KernelCase):
    """Each test of the suite once per instruction set; None is the contract's meaning."""

    @pytest.fixture(autouse=True)
    def _choose(self, isa: str | None) -> None:
        self.isa = isa

    def running(self) -> AbstractContextManager[None]:
        return _kernels.force_isa(self.isa)

    def test_many_rows_with_wide_strides(self) -> None:
        """Offsets beyond 2^31 bytes, over storage that is reserved but never filled."""
        contract = _kernels.CONTRACTS[self.contract]
        args = contract.sample(3, 64, 32, torch.float32, torch.Generator().manual_seed(4))
        stride = 2**29 // 2 + 17  # elements; the third row starts beyond 2 GiB
        base = torch.empty(2 * stride + 64)
        far = base.as_strided((3, 64), (stride, 1))
        far.copy_(args[0])
        with self.running():
            got = self.implementation()(far, *args[1:])
        assert contract.error(got, contract.reference(*args)) <= contract.tolerance(torch.float32)

    def test_number_of_threads_changes_nothing(self) -> None:
        contract = _kernels.CONTRACTS[self.contract]
        args = contract.sample(5, 300, 1001, torch.float32, torch.Generator().manual_seed(5))
        before = torch.get_num_threads()
        results = []
        try:
            for num_threads in (1, 2, 3):
                torch.set_num_threads(num_threads)
                with self.running():
                    results.append(self.implementation()(*args))
        finally:
            torch.set_num_threads(before)
        tolerance = 0.0 if self.isa else contract.tolerance(torch.float32)
        assert all(contract.error(result, results[0]) <= tolerance for result in results)


class TestLayerNorm(OnEveryIsa):
    contract = "layer_norm"


class TestLinear(OnEveryIsa):
    contract = "linear"


class TestLayerNormLinear(OnEveryIsa):
    contract = "layer_norm_linear"


class TestGeluLinear(OnEveryIsa):
    contract = "gelu_linear"


class TestCompactLinear(OnEveryIsa):
    contract = "compact_linear"


class TestInt8Linear(OnEveryIsa):
    contract = "int8_linear"
