"""Where a rank is in its cell."""

from __future__ import annotations

from types import FrameType
from typing import Any

_BETWEEN = tuple(f"distributed/worker/{name}.py" for name in ("store", "flight", "local_steps", "choice"))
"""What asks the notebook, or waits for a work or a mean, for whoever called it."""


def place(frame: FrameType | None, file: str) -> dict[str, Any]:
    """Where a thread is: the line of the cell, and the function that is innermost."""
    where: dict[str, Any] = {}
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_BETWEEN):
            where["waits"] = True
        elif "function" not in where:
            where["function"] = code.co_name
            where["waits"] = (
                "waits" in where
                or "torch/distributed" in code.co_filename
                or code.co_name == "_engine_run_backward"
            )
        if code.co_filename == file:
            where["line"] = frame.f_lineno
            break
        frame = frame.f_back
    return where
