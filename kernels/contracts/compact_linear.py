"""compact_linear: a linear layer in float32 whose weight is kept, without loss, in the bits it was made from.

Checkpoints hold weights in bfloat16, float16 or in blocks of 4 or 8 bits (GGUF's Q4_0, Q4_1 and Q8_0), and
are widened to float32 when they are loaded. A product of a few rows costs what reading the weight costs, so this kernel
reads the fewer bits and widens in registers, to exactly the same float32 numbers: nothing is rounded but the
sum, whose order differs as it does between any two libraries. Bytes a weight: float32 4, bfloat16 2, Q8_0
1.125, Q4_1 0.75.
Source: the block formats are those of ggml, https://github.com/ggml-org/ggml (ggml-common.h); the decoding
bound is that of Gholami et al., "AI and Memory Wall", arXiv:2403.14123.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab._kernels.contracts._contract import Contract, check_vectors, normal

BLOCK = 32
_CHUNK = 1 << 22
_PAGE, _LARGE_PAGE, _MADV_HUGEPAGE = 4096, 1 << 21, 14


@dataclasses.dataclass(frozen=True)
class CompactWeight:
    """A float32 weight [n, k] in fewer bits.

    codes: bfloat16 or float16 [n, k]; or int8 [n, 32 b], or uint8 [n, 16 b] with element i of a block in the low
    and i + 16 in the high half of byte i, b = ceil(k / 32) blocks a row.
    scale, minimum: float32 [n, b] for blocks (minimum for uint8 alone), else None.
    """

    codes: Tensor
    scale: Tensor | None = None
    minimum: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return sum(t.nbytes for t in (self.codes, self.scale, self.minimum) if t is not None)


def compact_weight(weight: Tensor) -> CompactWeight | None:
    """The weight in the fewest bits that hold it exactly; None where none of the formats does.

    weight float32 [n, k]. Every element of the result, widened, is equal to the weight's, bit for bit apart
    from the sign of zero.

    >>> compact_weight(torch.tensor([[1.0, -2.5]])).codes.dtype
    torch.uint8
    >>> compact_weight(torch.rand(8, 64)) is None
    True
    """
    plain = weight.detach()
    if plain.dim() != 2 or plain.dtype != torch.float32 or not plain.numel():
        return None
    plain = plain.contiguous()
    return (
        _in_blocks(plain, _nibbles)
        or _in_blocks(plain, _bytes)
        or _in(plain, torch.bfloat16)
        or _in(plain, torch.float16)
    )


def side_by_side(weights: Sequence[CompactWeight]) -> CompactWeight:
    """Weights of one form and one k as a single one, row after row, in memory that is read with few page faults."""
    joined: list[Tensor | None] = []
    for parts in zip(*((w.codes, w.scale, w.minimum) for w in weights), strict=True):
        if parts[0] is None:
            joined.append(None)
            continue
        tensors = [part for part in parts if part is not None]
        made = on_large_pages((sum(len(t) for t in tensors), *tensors[0].shape[1:]), tensors[0].dtype)
        joined.append(torch.cat(tensors, out=made))
    codes, scale, minimum = joined
    assert codes is not None
    return CompactWeight(codes, scale, minimum)


def on_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor that the system is asked to put on large pages, where it has such: a product that streams
    through small ones waits for address translation.
    """
    made = torch.empty(shape, dtype=dtype)
    if sys.platform == "linux" and made.nbytes >= _LARGE_PAGE:
        start = -(-made.data_ptr() // _PAGE) * _PAGE
        length = (made.data_ptr() + made.nbytes - start) // _PAGE * _PAGE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return made


def _in(weight: Tensor, dtype: torch.dtype) -> CompactWeight | None:
    head = weight[:8]
    if not torch.equal(head.to(dtype).float(), head):
        return None
    codes = weight.to(dtype)
    return CompactWeight(codes) if torch.equal(codes.float(), weight) else None


def _in_blocks(weight: Tensor, encode: Any) -> CompactWeight | None:
    """Row by row of blocks, a few at first: most weights are told from the first rows not to fit."""
    n, k = weight.shape
    if not bool(torch.isfinite(weight).all()):
        return None
    rows = max(1, _CHUNK // k)
    found = []
    for first, last in [(0, min(2, n)), *((i, min(i + rows, n)) for i in range(0, n, rows))]:
        part = F.pad(weight[first:last], (0, -k % BLOCK), mode="replicate").unflatten(1, (-1, BLOCK))
        encoded = encode(part)
        if encoded is None:
            return None
        found.append(encoded)
    columns = list(zip(*found[1:], strict=True))
    return CompactWeight(*(torch.cat(column).contiguous() for column in columns))


def _as_half(values: Tensor) -> Tensor:
    """Rounded to what a float16 can hold; formats keep their scales so."""
    return values.half().float()


def _nibbles(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """[rows, b, 32] as 4-bit codes, scale and minimum: code 0 is the smallest, or with a negative scale the
    largest.
    """
    low, high = blocks.amin(-1), blocks.amax(-1)
    scale, minimum = _as_half((high - low) / 15), low
    code = _codes(blocks, scale, minimum)
    fits = (_exact(code, scale, minimum) == blocks).all(-1)
    if not bool(fits.all()):  # Q4_0: codes 0..15 mean -8..7 times a scale of either sign
        extreme = torch.where(low.abs() >= high.abs(), low, high)
        scale = torch.where(fits, scale, _as_half(-extreme / 8))
        minimum = torch.where(fits, minimum, extreme)
        code = _codes(blocks, scale, minimum)
        if not torch.equal(_exact(code, scale, minimum), blocks):
            return None
    packed = code[..., :16].to(torch.uint8) | (code[..., 16:].to(torch.uint8) << 4)
    return packed.flatten(1), scale, minimum


def _codes(blocks: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return ((blocks - minimum[..., None]) / safe[..., None]).round().clamp(0, 15)


def _exact(code: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """Code * scale + minimum with one rounding, as the kernel's fused multiply-add has it."""
    return (code.double() * scale.double()[..., None] + minimum.double()[..., None]).float()


def _bytes(blocks: Tensor) -> tuple[Tensor, Tensor] | None:
    """[rows, b, 32] as signed 8-bit codes and a scale: the largest magnitude is code 127."""
    scale = _as_half(blocks.abs().amax(-1) / 127)
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    code = (blocks / safe[..., None]).round().clamp(-127, 127)
    if not torch.equal(code * scale[..., None], blocks):
        return None
    return code.to(torch.int8).flatten(1), scale


def widen(codes: Tensor, scale: Tensor | None, minimum: Tensor | None, k: int) -> Tensor:
    """The weight [n, k] that the codes stand for, in float32 (float64 where scale is float64)."""
    if scale is None:
        return codes.float() if codes.dtype != torch.float64 else codes
    if codes.dtype == torch.uint8:
        halves = codes.unflatten(1, (-1, BLOCK // 2))
        code = torch.cat((halves & 15, halves >> 4), dim=-1)
        assert minimum is not None
        wide = code.double() * scale.double()[..., None] + minimum.double()[..., None]
    else:
        wide = codes.unflatten(1, (-1, BLOCK)).double() * scale.double()[..., None]
    return wide.flatten(1)[:, :k].to(scale.dtype)


def compact_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor | None = None,
    minimum: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """X @ weight.T + bias for the weight that codes, scale and minimum stand for; see `CompactWeight`.

    x [..., k] float32; bias [n] float32 or None. Returns [..., n] float32; sums run in float32. Gradients reach
    x and bias.

    Raises ValueError when the shapes do not fit or codes have another dtype.

    >>> made = compact_weight(torch.tensor([[1.0, -2.5]]))
    >>> compact_linear(torch.tensor([2.0, 1.0]), made.codes, made.scale, made.minimum)
    tensor([-0.5000])
    """
    return F.linear(x, widen(codes, scale, minimum, x.shape[-1]).to(x.dtype), bias)


_BYTES_A_BLOCK = {torch.uint8: BLOCK // 2, torch.int8: BLOCK}


def check(
    x: Tensor,
    codes: Tensor,
    scale: Tensor | None = None,
    minimum: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Raise ValueError unless the arguments fit together."""
    if codes.dim() != 2 or x.dim() < 1:
        raise ValueError(f"compact_linear: codes have shape {tuple(codes.shape)}; expected a matrix.")
    k, n = x.shape[-1], codes.shape[0]
    size = _BYTES_A_BLOCK.get(codes.dtype)
    if size is None:
        if scale is not None or not codes.is_floating_point() or codes.shape[1] != k:
            raise ValueError(
                f"compact_linear: codes are {codes.dtype} {tuple(codes.shape)}; expected what compact_weight makes "
                f"of a weight [{n}, {k}]."
            )
    else:
        blocks = -(-k // BLOCK)
        wanted = [scale] if codes.dtype == torch.int8 else [scale, minimum]
        if codes.shape[1] != size * blocks or any(t is None or t.shape != (n, blocks) for t in wanted):
            raise ValueError(
                f"compact_linear: codes {tuple(codes.shape)} and their scales; expected what compact_weight makes "
                f"of a weight [{n}, {k}]."
            )
    check_vectors("compact_linear", bias=(bias, n))


def sample(rows: int, k: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    """Seeded arguments in each of the four formats in turn, with and without the bias."""
    bias = None if n % 3 == 0 else normal(generator, dtype, n)
    x = normal(generator, dtype, rows, k)
    kind, blocks = (n + k) % 4, -(-k // BLOCK)
    if kind % 2:
        wide = normal(generator, torch.float32, n, k, scale=max(k, 1) ** -0.5)
        return x, wide.to(torch.bfloat16 if kind == 1 else torch.float16), None, None, bias
    scale = _as_half(torch.rand((n, blocks), generator=generator) * 0.1)
    if kind == 2:
        codes = torch.randint(-127, 128, (n, BLOCK * blocks), generator=generator).to(torch.int8)
        return x, codes, scale, None, bias
    minimum = _as_half(-torch.rand((n, blocks), generator=generator))
    packed = torch.randint(0, 256, (n, BLOCK // 2 * blocks), generator=generator).to(torch.uint8)
    return x, packed, scale, minimum, bias


CONTRACT = Contract(
    name="compact_linear",
    schema="(Tensor x, Tensor codes, Tensor? scale=None, Tensor? minimum=None, Tensor? bias=None) -> Tensor",
    meaning=compact_linear,
    check=check,
    sample=sample,
    tolerances={torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    weight=1,
)
