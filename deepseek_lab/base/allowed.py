"""What a user allows beyond what is exact and safe, by the words of ``--allow``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from deepseek_lab.base.errors import UsageError

WORDS = {
    "8bit-optimizer": "AdamW's moments in a byte a value",
    "step-in-backward": "the optimiser steps in the backward pass; an error in it leaves half a step",
}


def parse_allowed(words: Iterable[str]) -> frozenset[str]:
    """The words, checked.

    Raises:
        UsageError: One is not known.
    """
    found = frozenset(words)
    for word in sorted(found - WORDS.keys()):
        near = difflib.get_close_matches(word, WORDS, n=1, cutoff=0.4)
        known = "; ".join(f"{name}: {what}" for name, what in WORDS.items())
        raise UsageError(
            f"--allow does not know {word!r}; what can be allowed is {known}",
            hint=f"--allow {near[0] if near else ','.join(WORDS)}",
        )
    return found
