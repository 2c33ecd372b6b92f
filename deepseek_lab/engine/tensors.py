"""Tensors on disk as plain bytes, for the builder process: written at the disk's speed and mapped, not read.

``torch.save`` computes checksums of half a gigabyte in one thread, for a file that lives for a minute.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 4096


def save_tensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write CPU tensors. Only the part of a storage that they span is written, and once where they share it.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    plain = [tensor.detach().resolve_conj().resolve_neg() for tensor in tensors]
    spans: dict[int, tuple[int, int]] = {}
    for tensor in plain:
        if tensor.numel():
            base, (first, last) = tensor.untyped_storage().data_ptr(), _span(tensor)
            known = spans.get(base, (first, last))
            spans[base] = (min(first, known[0]), max(last, known[1]))
    starts: dict[int, int] = {}
    with path.open("wb") as stream:
        for tensor in plain:
            base = tensor.untyped_storage().data_ptr()
            if not tensor.numel() or base in starts:
                continue
            first, last = spans[base]
            starts[base] = stream.seek(-(-stream.tell() // _ALIGNMENT) * _ALIGNMENT)
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            stream.write(whole[first:last].numpy().data)
    index: list[dict[str, Any]] = []
    for tensor in plain:
        base = tensor.untyped_storage().data_ptr()
        first, last = spans.get(base, (0, 0)) if tensor.numel() else (0, 0)
        index.append(
            {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
                "start": starts.get(base, 0),
                "bytes": last - first,
                "offset": tensor.storage_offset() - first // tensor.element_size() if tensor.numel() else 0,
            }
        )
    path.with_suffix(".json").write_text(json.dumps(index), encoding="utf-8")


def load_tensors(path: Path) -> list[Tensor]:
    """Map what :func:`save_tensors` wrote. Writing to a tensor changes memory alone, never the file."""
    index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    mapped: Any = None
    if any(one["bytes"] for one in index):
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    owners: dict[int, Tensor] = {}
    tensors = []
    for one in index:
        dtype = getattr(torch, one["dtype"])
        if not one["bytes"]:
            tensors.append(torch.empty_strided(one["shape"], one["stride"], dtype=dtype))
            continue
        if one["start"] not in owners:
            owners[one["start"]] = torch.frombuffer(
                mapped, dtype=torch.uint8, count=one["bytes"], offset=one["start"]
            )
        storage = owners[one["start"]].untyped_storage()
        empty = torch.empty(0, dtype=dtype)
        tensors.append(empty.set_(storage, one["offset"], one["shape"], one["stride"]))
    return tensors


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte of a tensor in its storage, down to a multiple of 16, and the byte after its last."""
    size = tensor.element_size()
    first = tensor.storage_offset() * size
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(first // 16 * 16), int(first + (reach + 1) * size)
