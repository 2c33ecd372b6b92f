"""Finding, opening and describing the compiled library.

The library is looked for at DEEPSEEK_LAB_KERNELS_LIBRARY if that is set, else in this package's `_build`
folder. DEEPSEEK_LAB_KERNELS_ISA names an instruction set to use instead of the best one. torch is imported
before the library is opened: both ask for `libgomp.so.1`, so the loader gives the library torch's own OpenMP
runtime and thread pool.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # noqa: F401  (first, so that there is one OpenMP runtime)

ABI_VERSION = 4
ISA_NAMES = ("avx512", "avx2", "generic")
LIBRARY_NAME = "deepseek_kernels.dll" if sys.platform == "win32" else "libdeepseek_kernels.so"
DEFAULT_PATH = Path(__file__).resolve().parent.parent / "_build" / LIBRARY_NAME
BUILD_COMMAND = "python -m deepseek_lab._kernels.build"

_P, _I64, _I32, _F64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double
_PRODUCT = (_P, _I64, _I64, _P, _P, _I64, _I64, _I64)  # weight and its strides, bias, out, m, n, k
SIGNATURES: dict[str, tuple[type, ...]] = {
    "deepseek_layer_norm": (_P, _I64, _P, _P, _P, _I64, _I64, _F64, _I32, _I32),
    "deepseek_bias_gelu": (_P, _I64, _P, _P, _I64, _I64, _I32, _I32, _I32),
    "deepseek_linear": (_P, _I64, *_PRODUCT, _I32, _I32),
    "deepseek_int8_linear": (_P, _I64, _P, _I64, _I64, _P, _P, _P, _I64, _I64, _I64, _I32, _I32),
    "deepseek_narrow_linear": (_P, _I64, _P, _I32, _P, _P, _I64, _I64, _I64, _I32),
    "deepseek_block_linear": (_P, _I64, _P, _P, _P, _I32, _P, _P, _I64, _I64, _I64, _I32),
    "deepseek_encode_groups": (_P, _P, _P, _P, _I64, _I32),
    "deepseek_decode_groups": (_P, _P, _P, _I64, _I32, _I32),
    "deepseek_layer_norm_linear": (_P, _I64, _P, _P, *_PRODUCT, _F64, _I32, _I32),
    "deepseek_gelu_linear": (_P, _I64, _P, *_PRODUCT, _I32, _I32, _I32),
}


@dataclass(frozen=True)
class LibraryStatus:
    """Whether compiled kernels run, from which file, on which instruction set, and why (not), in words."""

    available: bool
    path: Path | None
    isa: str | None
    reason: str


class _State:
    """The library that operators use now: None means the contract's meaning runs."""

    active: ctypes.CDLL | None = None


@cache
def _open() -> tuple[ctypes.CDLL | None, Path | None, str]:
    chosen = os.environ.get("DEEPSEEK_LAB_KERNELS_LIBRARY")
    path = Path(chosen) if chosen else DEFAULT_PATH
    if not path.is_file():
        return None, None, f"no compiled library at {path}; `{BUILD_COMMAND}` makes it"
    try:
        library = ctypes.CDLL(str(path))
        library.deepseek_abi_version.restype = _I32
        version = library.deepseek_abi_version()
        if version != ABI_VERSION:
            return (
                None,
                path,
                f"{path} has interface {version}, expected {ABI_VERSION}; `{BUILD_COMMAND}` renews it",
            )
        for name, argtypes in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = argtypes, _I32
        library.deepseek_isa.restype = ctypes.c_char_p
        library.deepseek_set_isa.argtypes, library.deepseek_set_isa.restype = (ctypes.c_char_p,), _I32
    except (OSError, AttributeError) as error:
        return None, path, f"{path} cannot be used: {error}"
    _State.active = library
    wanted = os.environ.get("DEEPSEEK_LAB_KERNELS_ISA")
    if wanted and library.deepseek_set_isa(wanted.encode()) != 0:
        best = library.deepseek_isa().decode()
        return library, path, f"DEEPSEEK_LAB_KERNELS_ISA={wanted} is not available here; using {best}"
    return library, path, "compiled kernels run" + (f" on {wanted}, as asked" if wanted else "")


def status() -> LibraryStatus:
    """Open the library (once per process) and describe what runs now."""
    library, path, reason = _open()
    if library is None:
        return LibraryStatus(False, path, None, reason)
    if _State.active is None:
        return LibraryStatus(False, path, None, "compiled kernels are switched off by force_isa(None)")
    return LibraryStatus(True, path, library.deepseek_isa().decode(), reason)


def active() -> ctypes.CDLL | None:
    """The library that operators call, or None."""
    return _State.active


def isas() -> tuple[str, ...]:
    """The instruction sets that run here, best first; empty without a library."""
    library, _, _ = _open()
    if library is None:
        return ()
    current = library.deepseek_isa()
    usable = tuple(name for name in ISA_NAMES if library.deepseek_set_isa(name.encode()) == 0)
    library.deepseek_set_isa(current)
    return usable


@contextmanager
def force_isa(name: str | None) -> Iterator[None]:
    """Inside the block the whole process runs instruction set `name`; None: the contracts' PyTorch meaning.

    Raises ValueError when the library or the processor lacks `name`.
    """
    library, _, reason = _open()
    previous_library = _State.active
    previous_isa = library.deepseek_isa() if library is not None else b""
    if name is None:
        _State.active = None
    elif library is None:
        raise ValueError(f"no instruction set can be forced: {reason}")
    elif library.deepseek_set_isa(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} does not run here; these do: {', '.join(isas())}")
    else:
        _State.active = library
    try:
        yield
    finally:
        _State.active = previous_library
        if library is not None:
            library.deepseek_set_isa(previous_isa)
