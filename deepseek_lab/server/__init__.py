"""Studies as pages: behind a Jupyter server's own authentication, or from a kernel behind a token of their own.

The pages are optuna-dashboard's. Nothing here imports torch or IPython; Optuna is imported when a study is first looked
at, and Jupyter's server only where this runs inside of it.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """What a Jupyter server asks a package that is named in its configuration."""
    return [{"module": "deepseek_lab.server"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Called by a Jupyter server when it starts."""
    from deepseek_lab.server import extension

    extension.load(server)
