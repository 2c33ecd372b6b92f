"""Building, finding and describing the compiled library; each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_lab import _kernels

ROOT = Path(__file__).resolve().parents[2]
STATUS = """
import torch
from deepseek_lab import _kernels
status = _kernels.load()
assert _kernels.load() == status
x, w = torch.ones(2, 3), torch.ones(4, 3)
assert torch.equal(torch.ops.deepseek.linear(x, w), torch.full((2, 4), 3.0))
print(status.available, status.isa, status.reason, sep="|")
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def status_with(**environment: str) -> list[str]:
    done = python("-c", STATUS, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_without_a_library_the_meaning_runs(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.so"
    available, isa, reason = status_with(DEEPSEEK_LAB_KERNELS_LIBRARY=str(missing))
    assert (available, isa) == ("False", "None")
    assert reason == f"no compiled library at {missing}; `python -m deepseek_lab._kernels.build` makes it"


def test_a_damaged_library_is_a_status(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    available, _, reason = status_with(DEEPSEEK_LAB_KERNELS_LIBRARY=str(damaged))
    assert available == "False"
    assert "cannot be used" in reason


def test_importing_neither_imports_torch_nor_compiles() -> None:
    code = "import sys; from deepseek_lab import _kernels; print('torch' in sys.modules, 'triton' in sys.modules)"
    assert python("-c", code).stdout.split() == ["False", "False"]


def test_loading_does_not_import_triton() -> None:
    code = "import sys; from deepseek_lab import _kernels; _kernels.load(); print(*sys.modules)"
    loaded = python("-c", code).stdout.split()
    assert "deepseek_lab._kernels.cpu.ops" in loaded
    assert "deepseek_lab._kernels.triton" not in loaded


def test_an_unknown_instruction_set_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"no instruction set can be forced|'avx9' does not run here"),
        _kernels.force_isa("avx9"),
    ):
        pass


def test_switched_off_is_a_status() -> None:
    with _kernels.force_isa(None):
        assert not _kernels.load().available


def test_without_a_compiler_the_build_says_so(tmp_path: Path) -> None:
    done = python("-m", "deepseek_lab._kernels.build", "--output", str(tmp_path), CXX="", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no C++ compiler found (g++, c++, clang++)" in done.stderr
    done = python("-m", "deepseek_lab._kernels.build", "--output", str(tmp_path), CXX="no-such-compiler")
    assert done.returncode == 1
    assert "CXX=no-such-compiler: no such program" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    compiler = tmp_path / "broken-cxx"
    compiler.write_text("#!/bin/sh\necho 'out of cheese' >&2\nexit 3\n")
    compiler.chmod(0o755)
    output = tmp_path / "out"
    done = python("-m", "deepseek_lab._kernels.build", "--output", str(output), CXX=str(compiler))
    assert done.returncode == 1
    assert "out of cheese" in done.stderr
    assert list(output.iterdir()) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kernels")
    done = python("-m", "deepseek_lab._kernels.build", "--output", str(output), CXXFLAGS="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"built {output / 'libdeepseek_kernels.so'} (")
    return output / "libdeepseek_kernels.so"


def test_what_the_build_makes_runs(built: Path) -> None:
    available, isa, reason = status_with(DEEPSEEK_LAB_KERNELS_LIBRARY=str(built))
    assert available == "True"
    assert isa in {"avx512", "avx2", "generic"}
    assert reason == "compiled kernels run"
    assert [path.name for path in built.parent.iterdir()] == [built.name]


def test_the_environment_chooses_the_instruction_set(built: Path) -> None:
    chosen = {"DEEPSEEK_LAB_KERNELS_LIBRARY": str(built)}
    assert status_with(DEEPSEEK_LAB_KERNELS_ISA="generic", **chosen)[1:] == [
        "generic",
        "compiled kernels run on generic, as asked",
    ]
    _, isa, reason = status_with(DEEPSEEK_LAB_KERNELS_ISA="avx9", **chosen)
    assert reason == f"DEEPSEEK_LAB_KERNELS_ISA=avx9 is not available here; using {isa}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_torch_and_the_kernels_share_one_openmp(built: Path) -> None:
    code = """
import torch
from deepseek_lab import _kernels
assert _kernels.load().available
torch.set_num_threads(2)
x, w = torch.randn(4, 512), torch.randn(1024, 512)
for _ in range(20):
    torch.ops.deepseek.linear(x, w)
    torch.nn.functional.linear(x, w)
files = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line}
threads = len(__import__("os").listdir("/proc/self/task"))
print(len(files), threads)
"""
    only_torch = code.replace("torch.ops.deepseek.linear(x, w)", "pass")
    environment = {"DEEPSEEK_LAB_KERNELS_LIBRARY": str(built)}
    ours, torchs = (python("-c", text, **environment).stdout.split() for text in (code, only_torch))
    assert ours[0] == "1"
    assert ours == torchs, "the kernels started threads of their own"
