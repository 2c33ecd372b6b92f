"""Which packages an export needs, each in the version that it was made with."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata

from deepseek_lab.base.errors import UsageError


def pinned(packages: Iterable[str]) -> tuple[str, ...]:
    """Lines of a requirements file; local parts of versions such as ``+cpu`` are left out.

    Raises:
        UsageError: a package is not installed here, so its version is unknown.
    """
    lines = []
    for name in sorted(set(packages)):
        try:
            lines.append(f"{name}=={metadata.version(name).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            raise UsageError(f"{name} is not installed", hint=f"pip install {name}") from None
    return tuple(lines)


def distributions(modules: Iterable[str]) -> tuple[set[str], set[str]]:
    """Distributions that provide top-level modules, and the modules that come from none (local files)."""
    known = metadata.packages_distributions()
    found: set[str] = set()
    local: set[str] = set()
    for name in modules:
        if name in sys.stdlib_module_names:
            continue
        if owners := known.get(name):
            found.add(owners[0])
        else:
            local.add(name)
    return found, local
