"""What a frame of a running program is: the user's own, a module's call, or a place that tells the phase."""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from pathlib import Path
from types import CodeType
from typing import Literal

Kind = Literal[
    "own",
    "module",
    "data loading",
    "backward",
    "optimizer",
    "compiling",
    "profiler",
    "ours",
    "shell",
    "other",
]

_PACKAGE = str(Path(__file__).resolve().parents[2]) + os.sep
_STANDARD = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_INSTALLED = re.compile(r"[/\\](site-packages|dist-packages)[/\\]")
_PLACES: tuple[tuple[str, Kind], ...] = (
    ("/torch/utils/data/", "data loading"),
    ("/torch/autograd/__init__.py", "backward"),
    ("/torch/autograd/graph.py", "backward"),
    ("/torch/optim/", "optimizer"),
    ("/torch/_dynamo/convert_frame.py", "compiling"),
    ("/torch/_dynamo/symbolic_convert.py", "compiling"),
    ("/torch/_dynamo/output_graph.py", "compiling"),
    ("/torch/_inductor/compile_fx.py", "compiling"),
    ("/torch/_functorch/aot_autograd.py", "compiling"),
    ("/IPython/core/interactiveshell.py", "shell"),
)


_PROFILERS = (
    "/torch/autograd/profiler.py",
    "/torch/profiler/profiler.py",
    "/torch/autograd/profiler_legacy.py",
)
_PREPARING = frozenset({"_prepare_trace", "prepare_trace", "start_trace", "_start_trace"})
"""What a profiler of PyTorch's calls before it is open."""

_known: dict[int, tuple[CodeType, Kind]] = {}
"""By identity, which lasts as long as the code is kept here: hashing a code object takes longer than all the rest."""
_MAX_KNOWN = 50_000


def kind_of(code: CodeType) -> Kind:
    """What code of this kind in a stack says."""
    found = _known.get(id(code))
    if found is not None:
        return found[1]
    if len(_known) >= _MAX_KNOWN:  # a notebook that defines functions all day long
        _known.clear()
    kind = _kind(code)
    _known[id(code)] = code, kind
    return kind


def _kind(code: CodeType) -> Kind:
    file = code.co_filename
    if file.startswith(_PACKAGE):
        return "ours"
    if is_own(file):
        return "own"
    path = file.replace("\\", "/")
    if path.endswith("/torch/nn/modules/module.py"):
        return "module" if code.co_name == "_call_impl" else "other"
    if code.co_name in _PREPARING and path.endswith(_PROFILERS):
        return "profiler"
    return next((kind for part, kind in _PLACES if part in path), "other")


@functools.cache
def is_own(file: str) -> bool:
    """Whether a file is the user's: a cell, or a file that is neither installed nor part of Python."""
    if file.startswith("<"):
        return file.startswith("<ipython-input")
    if file.startswith(_PACKAGE) or _INSTALLED.search(file) or "torchinductor" in file:
        return False
    if (generated := os.environ.get("TORCHINDUCTOR_CACHE_DIR")) and file.startswith(generated):
        return False
    return not file.startswith(_STANDARD)
