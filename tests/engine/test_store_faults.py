"""Whatever happens to the store on disk, results are right and what is damaged is built again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepseek_lab.base.settings import settings
from deepseek_lab.engine.api import Optimized
from tests.engine.cases import FAST, Tower, decided, equal, pristine, reasons, rows, uses_program

pytestmark = pytest.mark.usefixtures("strangers", "own_store")


def _entry(store: Path) -> Path:
    (manifest,) = store.glob("artifacts/*/manifest.json")
    return manifest.parent


def _again(module: Tower, backends: tuple[str, ...] = FAST) -> Optimized:
    """Optimise the same module once more, as a new kernel would."""
    x = rows()
    fast = decided(module, x, backends=backends)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))
    return fast


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store as the first kernel left it is kept, for every test here starts from it."""
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture
def module(own_store: Path, kept: Path) -> Tower:
    """A module that a kernel before this one has optimised: its artefact is in the store."""
    made = Tower()
    if not kept.exists():
        fast = _again(made)
        assert fast.report.chosen == "planted-fast"
        assert not fast.report.candidates[0].cached
        fast.restore()
        shutil.copytree(own_store, kept)
    elif not own_store.exists():
        shutil.copytree(kept, own_store)
    return made


def test_second_kernel_finds_what_the_first_one_built(module: Tower) -> None:
    fast = _again(module)
    assert [(row.status, row.cached) for row in fast.report.candidates] == [("won", True)]
    assert uses_program(fast)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("truncated", "weights.pt"),
        ("tampered", "graph.bin"),
        ("emptied", "weights.pt"),
        ("removed", "builder.txt"),
    ],
)
def test_damaged_file_is_built_again(own_store: Path, name: str, damage: str, module: Tower) -> None:
    path = _entry(own_store) / name
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "tampered":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    fast = _again(module)
    assert [(row.status, row.cached) for row in fast.report.candidates] == [("won", False)]
    fast.restore()
    assert _again(module).report.candidates[0].cached


def _rename_winner(data: dict) -> dict:  # type: ignore[type-arg]
    data["record"]["chosen"] = "no-such-candidate"
    return data


def _turn_verdict(data: dict) -> dict:  # type: ignore[type-arg]
    data["record"]["candidates"][0]["max_rel_error"] = 0.5
    return data


def _drop_checksums(data: dict) -> dict:  # type: ignore[type-arg]
    data["files"] = {}
    return data


def _not_ours(data: dict) -> list[int]:  # type: ignore[type-arg]
    return [1, 2, 3]


@pytest.mark.parametrize("edit", [_rename_winner, _turn_verdict, _drop_checksums, _not_ours])
def test_edited_manifest_is_built_again(own_store: Path, edit: object, module: Tower) -> None:
    path = _entry(own_store) / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))  # type: ignore[operator]
    assert not _again(module).report.candidates[0].cached


def test_manifest_cut_off_in_the_middle(own_store: Path, module: Tower) -> None:
    path = _entry(own_store) / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    assert not _again(module).report.candidates[0].cached


def test_artefact_that_no_longer_loads_is_built_again(module: Tower) -> None:
    """Whole and unharmed, but the candidate cannot load it here: the report says so."""
    from deepseek_lab.engine import candidates

    winner = candidates.registered()["planted-fast"]

    def fails_from_the_store(directory: Path, spec: object) -> object:
        if not any(part.startswith(".scratch") for part in directory.parts):
            raise RuntimeError("made for another library")
        return type(winner).load(winner, directory, spec)  # type: ignore[arg-type]

    winner.load = fails_from_the_store  # type: ignore[assignment, method-assign]
    try:
        fast = _again(module)
    finally:
        del winner.load  # type: ignore[method-assign]
    assert "the stored planted-fast did not load (made for another library); building again" in reasons(fast)
    assert fast.report.chosen == "planted-fast"


def test_weights_that_differ_are_another_entry(module: Tower) -> None:
    with torch.no_grad():
        module.first.bias.add_(1.0)
    fast = _again(module)
    assert not fast.report.candidates[0].cached
    assert uses_program(fast)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB; where mounting is not allowed, a folder in which files may not grow beyond that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    if not mounted:
        folder = Path("/dev/full")  # every write to it says that the disk is full
    settings.cache_dir = folder
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_full_while_a_candidate_writes(small_disk: Path) -> None:
    module = Tower()
    fast = _again(module, ("planted-filling",))
    assert fast.report.chosen == "eager"
    said = reasons(fast)
    assert "No space left on device" in said or "Not a directory" in said, said
    assert "own" not in said


def test_disk_already_full(small_disk: Path) -> None:
    if small_disk.is_dir():
        (small_disk / "artifacts").mkdir()
        with (small_disk / "big").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(4096))
    fast = _again(Tower())
    said = reasons(fast)
    assert "No space left on device" in said or "Not a directory" in said, said
    assert "own" not in said


def test_disk_with_room_for_the_graph_and_not_for_the_artefact(small_disk: Path) -> None:
    if small_disk.is_dir():
        (small_disk / "artifacts").mkdir()
        (small_disk / "big").write_bytes(bytes(250_000))
    fast = _again(Tower())
    said = reasons(fast)
    assert uses_program(fast) or "No space left on device" in said or "Not a directory" in said, said
    assert "own" not in said


def test_store_that_is_a_file(tmp_path: Path) -> None:
    settings.cache_dir = tmp_path / "file"
    settings.cache_dir.write_text("not a folder")
    fast = _again(Tower())
    assert fast.report.chosen == "eager"
    assert "Not a directory" in reasons(fast) or "File exists" in reasons(fast), reasons(fast)


def test_store_that_vanishes_while_a_program_runs(own_store: Path) -> None:
    module = Tower()
    fast = _again(module)
    shutil.rmtree(own_store)
    with torch.no_grad():
        x = rows()
        equal(fast(x), pristine(module)(x))
    assert uses_program(fast)


_KERNEL = """
import torch, deepseek_lab
from tests.engine.cases import Tower, rows
torch.set_num_threads(1)
torch.manual_seed(0)
module, x = Tower(), rows()
expected = module(x).detach()
fast = deepseek_lab.optimize(module, backends=("planted-counted",))
with torch.no_grad():
    fast(x)
    assert deepseek_lab.wait(300)
    assert torch.allclose(fast(x), expected, atol=1e-6)
print(fast.report.chosen, [row.cached for row in fast.report.candidates])
"""


def test_two_kernels_that_want_the_same_thing_build_it_once(
    repository: Path, tmp_path: Path, own_store: Path
) -> None:
    count = tmp_path / "count"
    path = os.pathsep.join((str(repository), os.environ["PYTHONPATH"]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PLANTED_COUNT": str(count),
        "DEEPSEEK_LAB_CACHE_DIR": str(own_store),
    }
    kernels = [
        subprocess.Popen([sys.executable, "-c", _KERNEL], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(kernel.communicate(timeout=400)[0].strip() for kernel in kernels)
    assert [kernel.returncode for kernel in kernels] == [0, 0]
    assert said == ["planted-counted [False]", "planted-counted [True]"]
    assert len(count.read_text().splitlines()) == 1
