"""Compile the CPU kernels into one shared library: `python -m deepseek_lab._kernels.build [--output DIR]`.

Each instruction set is its own translation unit with its own flags; the library picks one when it runs. The
compiler is
$CXX if set, else g++, c++ or clang++. The file appears under its name only when it is complete.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "cpu"
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "_build"
LIBRARY_NAME = "libdeepseek_kernels.so"

COMMON_FLAGS = (
    "-O3", "-fopenmp", "-fPIC", "-std=c++17", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
X86_FLAGS: dict[str, tuple[str, ...]] = {
    "isa_avx2": ("-mavx2", "-mfma", "-mf16c"),
    "isa_avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
}


class BuildError(Exception):
    """The library could not be made; the message says why and what to do."""


def find_compiler() -> list[str]:
    """The C++ compiler's command. Raises BuildError when there is none."""
    chosen = os.environ.get("CXX")
    if chosen:
        command = shlex.split(chosen)
        if shutil.which(command[0]) is None:
            raise BuildError(f"CXX={chosen}: no such program. Unset CXX or name an installed C++ compiler.")
        return command
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise BuildError(
        "no C++ compiler found (g++, c++, clang++). Install one, or set CXX. Without it PyTorch runs instead."
    )


def units() -> dict[str, tuple[str, ...]]:
    """Translation units for this machine's architecture, with their extra flags."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return {"dispatch": (), "isa_generic": (), **(X86_FLAGS if x86 else {})}


def _run(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], what: str) -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise BuildError(f"{what} failed:\n{errors.strip()}")


def build(output: Path = DEFAULT_OUTPUT) -> Path:
    """Compile and link; returns the library's path. Raises BuildError with the compiler's own words."""
    compiler = find_compiler()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix="build-") as folder:
        objects = {name: Path(folder) / f"{name}.o" for name in units()}
        compiling = {
            name: _run(
                [
                    *compiler,
                    *COMMON_FLAGS,
                    *flags,
                    "-c",
                    str(SOURCES / f"{name}.cpp"),
                    "-o",
                    str(objects[name]),
                ]
            )
            for name, flags in units().items()
        }
        for name, process in compiling.items():
            _finish(process, f"compiling {name}.cpp")
        linked = Path(folder) / LIBRARY_NAME
        command = [
            *compiler,
            "-shared",
            "-fopenmp",
            "-Wl,--as-needed",
            "-s",
            "-o",
            str(linked),
            *map(str, objects.values()),
        ]
        _finish(_run(command), "linking")
        target = output / LIBRARY_NAME
        linked.replace(target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deepseek_lab._kernels.build", description="Compile the CPU kernels."
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="folder of the library"
    )
    options = parser.parse_args(arguments)
    try:
        target = build(options.output)
    except BuildError as error:
        print(f"kernels not built: {error}", file=sys.stderr)
        return 1
    sources = ", ".join(f"{name}.cpp" for name in units())
    print(f"built {target} ({target.stat().st_size // 1024} KiB) from {sources}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
