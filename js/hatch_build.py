"""Puts the built front end into packages: it is not in the repository, so the packager does not see it by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = "deepseek_lab/views/_static"
"""Scripts of pages and frames."""
EXTENSION = "deepseek_lab/labextension"
"""What JupyterLab loads; a wheel holds it where JupyterLab looks, through ``shared-data``."""


class FrontEnd(BuildHookInterface):  # type: ignore[type-arg]
    """Includes what was built. Where nothing was built, as before a first set-up, views are static."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a package is put together."""
        wanted = [STATIC, EXTENSION] if self.target_name == "sdist" else [STATIC]
        if version == "editable":
            return
        for path in wanted:
            if (Path(self.root) / path).is_dir():
                build_data["force_include"][path] = path
