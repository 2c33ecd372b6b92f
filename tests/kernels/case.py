"""KernelCase: what every implementation of a contract must satisfy. Inherit it and name the contract."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from deepseek_lab import _kernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_kernels.load()


class KernelCase:
    """Laws of one implementation: `contract` says which, `implementation` and `running` say how it is called."""

    contract: ClassVar[str]

    def implementation(self) -> Callable[..., Tensor]:
        """The function under test; the registered operator unless a subclass says otherwise."""
        operator: Callable[..., Tensor] = _kernels.CONTRACTS[self.contract].op
        return operator

    def running(self) -> AbstractContextManager[None]:
        """The circumstances of every call, such as a forced instruction set."""
        return nullcontext()

    def agrees(self, *args: Any) -> None:
        """The implementation is within tolerance of the float64 meaning, in shape, dtype and layout too."""
        contract = _kernels.CONTRACTS[self.contract]
        before = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        with self.running():
            got = self.implementation()(*args)
        assert got.dtype == args[0].dtype
        assert got.is_contiguous()
        assert tuple(got.shape) == contract.result_shape(*args)
        error = contract.error(got, contract.reference(*args))
        shapes = [tuple(arg.shape) for arg in args if isinstance(arg, Tensor)]
        assert error <= contract.tolerance(args[0].dtype), shapes
        for old, new in zip(before, args, strict=True):
            assert not isinstance(old, Tensor) or torch.equal(old, new), "an input was written to"

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_shape_sweep(self, dtype: torch.dtype) -> None:
        for sample in _kernels.CONTRACTS[self.contract].samples(dtype):
            self.agrees(*sample.args)

    def test_nan_and_infinity_reach_the_result(self) -> None:
        contract = _kernels.CONTRACTS[self.contract]
        for value in (float("nan"), float("inf")):
            args = contract.sample(2, 40, 24, torch.float32, torch.Generator().manual_seed(1))
            args[0][0, 3] = value
            with self.running():
                got = self.implementation()(*args)
            assert not got[0].isfinite().all()
            assert got[1].isfinite().all()

    def test_extreme_values_stay_finite(self) -> None:
        contract = _kernels.CONTRACTS[self.contract]
        args = contract.sample(3, 40, 24, torch.float32, torch.Generator().manual_seed(2))
        args[0].copy_(torch.linspace(-1e4, 1e4, 120).view(3, 40))
        self.agrees(*args)

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        contract = _kernels.CONTRACTS[self.contract]
        args = list(contract.sample(2, 40, 25, torch.float32, torch.Generator().manual_seed(3)))
        args[0] = args[0][:, :-1]
        with self.running(), pytest.raises(ValueError, match="expected"):
            self.implementation()(*args)
