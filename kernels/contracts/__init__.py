"""The contracts, by operator name: one file per kernel."""

from deepseek_lab._kernels.contracts import (
    compact_linear,
    gelu_linear,
    int8_linear,
    layer_norm,
    layer_norm_linear,
    linear,
)
from deepseek_lab._kernels.contracts._contract import DTYPES, Contract, Sample
from deepseek_lab._kernels.contracts.compact_linear import CompactWeight, compact_weight, side_by_side
from deepseek_lab._kernels.contracts.int8_linear import quantize_weight

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        layer_norm.CONTRACT,
        linear.CONTRACT,
        layer_norm_linear.CONTRACT,
        gelu_linear.CONTRACT,
        int8_linear.CONTRACT,
        compact_linear.CONTRACT,
    )
}

__all__ = [
    "CONTRACTS",
    "DTYPES",
    "CompactWeight",
    "Contract",
    "Sample",
    "compact_weight",
    "quantize_weight",
    "side_by_side",
]
