"""Tables as they travel to the page: columns of bytes, deflated, in base64. ``js/src/core/packed.ts`` reads them.

Before deflating: the length of the header in four bytes (little-endian), the header as JSON, then the columns one after
the other. 17,500 operations are 974 kB as JSON and a tenth of that here.
"""

from __future__ import annotations

import array
import base64
import itertools
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCHEMA = 1
_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]{0,8})?", re.DOTALL)


class Packer:
    """Collects the columns of one table.

    >>> packer = Packer(2)
    >>> packer.text("op", ["relu", "relu"])
    >>> packer.integers("line", [3, 4])
    >>> isinstance(packer.base64(), str)
    True
    """

    def __init__(self, rows: int, meta: Mapping[str, Any] | None = None) -> None:
        self.rows = rows
        self.meta = dict(meta or {})
        """JSON data that belongs to no column."""
        self._columns: list[dict[str, Any]] = []
        self._bodies: list[bytes] = []

    @property
    def columns(self) -> list[str]:
        """Names of the columns in their order."""
        return [str(column["name"]) for column in self._columns]

    def text(self, name: str, values: Sequence[str]) -> None:
        """Words, each kept once."""
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(value, len(numbers)) for value in values]
        self._add(name, "text", _varints(codes), len(values), words=list(numbers))

    def names(self, name: str, values: Sequence[str]) -> None:
        """Words that end in a number, as ``linear_12`` does: what stands before it, and the steps of the numbers."""
        stems: dict[str, int] = {}
        last: dict[int, int] = {}
        codes, steps = [], []
        for value in values:
            found = _NUMBERED.fullmatch(value)
            assert found is not None
            code = stems.setdefault(found[1], len(stems))
            number = int(found[2]) + 1 if found[2] else 0
            codes.append(code)
            steps.append(_zigzag(number - last.get(code, 0)))
            last[code] = number
        self._add(name, "numbered", _varints(codes) + _varints(steps), len(values), words=list(stems))

    def integers(self, name: str, values: Sequence[int]) -> None:
        """Whole numbers to 2^48 either way, each as the difference to the one before."""
        last, steps = 0, []
        for value in values:
            steps.append(_zigzag(value - last))
            last = value
        self._add(name, "int", _varints(steps), len(values))

    def floats(self, name: str, values: Sequence[float]) -> None:
        """Numbers in single precision; NaN where there is none."""
        made = array.array("f", values)
        if sys.byteorder == "big":
            made.byteswap()
        self._add(name, "float", made.tobytes(), len(values))

    def references(self, name: str, values: Sequence[Sequence[int]]) -> None:
        """For each row a list of other rows, as distances."""
        lengths = _varints(map(len, values))
        distances = _varints(_zigzag(row - other) for row, others in enumerate(values) for other in others)
        self._add(name, "ragged", lengths + distances, len(values))

    def lists(self, name: str, values: Sequence[Sequence[float]]) -> None:
        """For each row a list of numbers in single precision."""
        lengths = _varints(map(len, values))
        made = array.array("f", itertools.chain.from_iterable(values))
        if sys.byteorder == "big":
            made.byteswap()
        self._add(name, "lists", lengths + made.tobytes(), len(values))

    def base64(self) -> str:
        """The whole table."""
        head = {"schema": SCHEMA, "rows": self.rows, "columns": self._columns}
        if self.meta:
            head["meta"] = self.meta
        header = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
        whole = b"".join([struct.pack("<I", len(header)), header, *self._bodies])
        return base64.b64encode(zlib.compress(whole, 9)).decode("ascii")

    def _add(self, name: str, kind: str, body: bytes, rows: int, **more: Any) -> None:
        if rows != self.rows:
            raise ValueError(f"column {name} has {rows} rows, the table {self.rows}")
        self._columns.append({"name": name, "type": kind, "bytes": len(body), **more})
        self._bodies.append(body)


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _varints(values: Iterable[int]) -> bytes:
    made = bytearray()
    for value in values:
        while value >= 0x80:
            made.append(value & 0x7F | 0x80)
            value >>= 7
        made.append(value)
    return bytes(made)
