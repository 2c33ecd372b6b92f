from __future__ import annotations

from typing import Any


def notebook(code: str) -> dict[str, Any]:
    """Names as a notebook's cells would have defined them: in ``__main__``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code, names)
    return names
