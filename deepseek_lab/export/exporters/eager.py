"""Where eager mode was kept: the user's own code, with the weights as they are now.

Unlike its siblings it writes a whole target, because nothing of what was captured takes its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write(target: Any, file: Path) -> bool:
    """Save a module's parameters and buffers; False for a function, which has none."""
    if not isinstance(target, torch.nn.Module):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.detach() for name, value in target.state_dict().items()}, file)
    return True


def code(path: str, weights: str | None, training: bool) -> str:
    """Body of ``load()``: run the cells and give their own object the weights.

    Args:
        path: What the cells call the target.
        weights: The file of the weights beside the module; None for a function.
        training: The module's mode.
    """
    lines = ["from . import cells", "", f"target = cells.{path}"]
    if weights is not None:
        lines += [
            f'target.load_state_dict(torch.load(HERE / "{weights}", weights_only=True))',
            f"target.train({training})",
        ]
    return "\n".join([*lines, "return target"]) + "\n"
