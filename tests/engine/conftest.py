"""What the engine's tests share: a stranger's distribution of planted candidates, and a clean engine each time."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek_lab.base.settings import settings

_HERE = Path(__file__).parent


def plant(folder: Path) -> Path:
    """Install the planted candidates into a folder, as an installer would, and return it."""
    text = (_HERE / "planted_candidates.py").read_text()
    (folder / "planted_candidates.py").write_text(text)
    (folder / "planted_broken.py").write_text('raise RuntimeError("this distribution is broken")\n')
    metadata = folder / "planted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    names = [
        line.split("(")[0].removeprefix("class ") for line in text.splitlines() if line.startswith("class ")
    ]
    entries = [f"{name} = planted_candidates:{name}" for name in names]
    entries += ["broken = planted_broken:CANDIDATE", "absent = planted_candidates:NoSuchName"]
    (metadata / "entry_points.txt").write_text("[deepseek_lab.candidates]\n" + "\n".join(entries) + "\n")
    return folder


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the stranger's distribution is installed in."""
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def strangers(planted_folder: Path) -> Iterator[None]:
    """Planted candidates can be found by this process and by every builder that it starts."""
    from deepseek_lab.engine import candidates
    from deepseek_lab.engine.runs import workshop

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(planted_folder), before)))
    sys.path.insert(0, str(planted_folder))
    importlib.invalidate_caches()
    candidates.registered.cache_clear()
    workshop().builder.kill()
    yield
    sys.path.remove(str(planted_folder))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    candidates.registered.cache_clear()
    workshop().builder.kill()


@pytest.fixture(autouse=True)
def clean_engine() -> Iterator[None]:
    """Settings as they were; no run left behind; one thread, so that a race is no race for the processors."""
    import torch

    from deepseek_lab.engine import api

    before = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    for run in api.runs():
        run.restore()
    api._RUNS.clear()
    for name, value in before.items():
        setattr(settings, name, value)


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Path]:
    """An empty artefact store for this test alone."""
    settings.cache_dir = tmp_path / "store"
    yield settings.cache_dir
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
