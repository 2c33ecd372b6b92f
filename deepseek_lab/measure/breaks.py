"""Why Dynamo stopped capturing a graph, in words."""

from __future__ import annotations

import re


def in_words(reason: str) -> str:
    """Dynamo's reason for a break in a line: what happened, and its explanation if there is one."""
    if reason.startswith(("generic_jump", "Data-dependent branching")):
        return "a branch depends on the values of a tensor"
    what = reason.strip().partition("\n")[0]
    explained = re.search(r"^\s*Explanation: (.*)$", reason, re.MULTILINE)
    return f"{what}: {explained[1]}" if explained else what
