"""How well predictions matched what was measured: kept on this machine, and told with every plan."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from deepseek_lab.base.scaling import Checked
from deepseek_lab.base.settings import settings
from deepseek_lab.measure.machine import processor

_NAME = "scaling.json"


def _file() -> Path:
    return settings.cache_dir / _NAME


def keep(pairs: Sequence[tuple[float, float]]) -> Checked:
    """Store how far predicted seconds are from measured ones, pair by pair."""
    off = [abs(predicted / measured - 1) for predicted, measured in pairs]
    found = Checked(
        machine=processor(),
        when=dt.datetime.now(dt.UTC).date().isoformat(),
        num_steps=len(off),
        worst=max(off),
        median=statistics.median(off),
    )
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")
    written.replace(path)
    return found


def kept() -> Checked | None:
    """What was stored on this machine; None where nothing was, or what is there cannot be read."""
    try:
        found = Checked(**json.loads(_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.machine == processor() else None
