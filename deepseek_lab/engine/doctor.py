"""What works on this machine and in this installation, and what to type where something does not."""

from __future__ import annotations

import dataclasses

import torch

from deepseek_lab.engine import candidates as registry
from deepseek_lab.engine.store import Store
from deepseek_lab.measure import machine


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    ok: bool
    detail: str
    hint: str = ""


def doctor(store: Store) -> list[Finding]:
    """What works here and what does not: versions, candidates, kernels, store, builder."""
    found = [Finding(name, True, version) for name, version in machine.versions().items()]
    found.append(Finding("processor", True, f"{machine.processor()}, {torch.get_num_threads()} threads"))
    for name, candidate in registry.registered().items():
        absent = candidate.missing()
        found.append(
            Finding(
                f"candidate {name}",
                absent is None,
                "ready" if absent is None else f"the package {absent} is not installed",
                "" if absent is None else f"pip install {absent}",
            )
        )
    try:
        from deepseek_lab import _kernels

        library = _kernels.load()
        hint = "" if library.available else "python -m deepseek_lab._kernels.build"
        detail = f"{library.isa}" if library.available else library.reason
        found.append(Finding("kernels", library.available, str(detail), hint))
    except ImportError as error:
        found.append(Finding("kernels", False, str(error), "pip install deepseek_lab"))
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        count, size = store.usage()
        found.append(Finding("store", True, f"{store.root}: {count} entries, {size / 2**20:.0f} MiB"))
    except OSError as error:
        found.append(
            Finding("store", False, f"{store.root}: {error.strerror}", "%deepseek config cache_dir PATH")
        )
    return found
