"""Triton kernels for CUDA and ROCm, imported when an operator first meets a GPU tensor; needs `triton`."""

from deepseek_lab._kernels.triton.ops import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS"]
