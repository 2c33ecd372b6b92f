"""The codes of `contracts/exchange.py` by compiled kernels, where there is a library and the tensors are on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_lab._kernels.contracts import exchange as meaning
from deepseek_lab._kernels.contracts.exchange import GROUP as GROUP
from deepseek_lab._kernels.cpu import library


def _usable(*tensors: Tensor | None) -> bool:
    library.status()
    return library.active() is not None and all(
        one is None or (one.device.type == "cpu" and one.is_contiguous()) for one in tensors
    )


def encode(values: Tensor, error: Tensor | None, codes: Tensor, scale: Tensor) -> None:
    """See :func:`deepseek_lab._kernels.contracts.exchange.encode`. Other threads run meanwhile."""
    if not _usable(values, error, codes, scale) or (lib := library.active()) is None:
        meaning.encode(values, error, codes, scale)
        return
    status = lib.deepseek_encode_groups(
        values.data_ptr(), None if error is None else error.data_ptr(), codes.data_ptr(), scale.data_ptr(),
        values.numel(), torch.get_num_threads(),
    )  # fmt: skip
    if status:
        raise RuntimeError(f"deepseek kernels: the compiled library refused its arguments (status {status}).")


def decode(codes: Tensor, scale: Tensor, out: Tensor, *, add: bool = False) -> None:
    """See :func:`deepseek_lab._kernels.contracts.exchange.decode`. Other threads run meanwhile."""
    if not _usable(codes, scale, out) or (lib := library.active()) is None:
        meaning.decode(codes, scale, out, add=add)
        return
    status = lib.deepseek_decode_groups(
        codes.data_ptr(), scale.data_ptr(), out.data_ptr(), codes.numel(), add, torch.get_num_threads()
    )
    if status:
        raise RuntimeError(f"deepseek kernels: the compiled library refused its arguments (status {status}).")
