"""deepseek_lab: makes PyTorch code in a notebook fast, and proves every gain before it keeps it.

``%load_ext deepseek_lab`` in a notebook, then ``%%deepseek optimize`` above a cell; or
``fast = deepseek_lab.optimize(model)`` anywhere. torch is imported only when a verb runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import DeepseekError, UsageError
from deepseek_lab.base.settings import settings
from deepseek_lab.base.version import __version__ as __version__

if TYPE_CHECKING:
    from deepseek_lab.engine.api import optimize, profile, wait
    from deepseek_lab.hpo.spaces import (
        choice,
        constrain,
        epochs,
        integer,
        log,
        report,
        subset,
        uniform,
        validation,
    )
    from deepseek_lab.inspector.api import inspect
    from deepseek_lab.memory.accumulation.run import effective_batch
    from deepseek_lab.memory.run import memory_limit
    from deepseek_lab.notebook.track import track

__all__ = [
    "DeepseekError",
    "UsageError",
    "choice",
    "constrain",
    "effective_batch",
    "epochs",
    "inspect",
    "integer",
    "log",
    "memory_limit",
    "optimize",
    "profile",
    "report",
    "settings",
    "subset",
    "track",
    "uniform",
    "validation",
    "wait",
]

_SPACES = {"choice", "constrain", "epochs", "integer", "log", "report", "subset", "uniform", "validation"}


def __getattr__(name: str) -> Any:
    if name in {"optimize", "profile", "wait"}:
        from deepseek_lab.engine import api

        return getattr(api, name)
    if name in _SPACES:
        from deepseek_lab.hpo import spaces

        return getattr(spaces, name)
    if name == "inspect":
        from deepseek_lab.inspector.api import inspect

        return inspect
    if name == "effective_batch":
        from deepseek_lab.memory.accumulation.run import effective_batch

        return effective_batch
    if name == "memory_limit":
        from deepseek_lab.memory.run import memory_limit

        return memory_limit
    if name == "track":
        from deepseek_lab.notebook.track import track

        return track
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext deepseek_lab``."""
    from deepseek_lab.notebook import extension

    extension.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Called by ``%unload_ext deepseek_lab``: restores the shell exactly."""
    from deepseek_lab.notebook import extension

    extension.unload(shell)
