"""A run as it travels to the page: its events, what its steps measured, and how much of that was left out."""

from __future__ import annotations

import array
import base64
import dataclasses
import html
import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from deepseek_lab.base import events as ev
from deepseek_lab.base.series import Rows
from deepseek_lab.views import _curves, _page, _vitals, _words
from deepseek_lab.views._packed import Packer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Places: TypeAlias = NDArray[np.intp]

MAX_TEXT = 2_000
"""Characters of one text of an event."""
SAVED_ROWS = 6_000
"""Measured values that a notebook keeps; a page has all of them while the run is live."""
_HEAVY = frozenset({"nodes", "source", "code"})
"""Fields that other views show."""


def packed_run(events: Iterable[ev.Event], rows: Rows, **facts: Any) -> str:
    """Events and measured values as one packed table, ``facts`` beside them.

    Facts that a page knows: ``done`` and ``total`` steps with their ``unit``, ``values`` (how many were measured in
    all, where rows were left out), ``live``, ``state``.
    """
    start_s = rows.at_s[0] if len(rows) else 0.0
    meta = {"events": [_light(event) for event in events], "start_s": start_s, **facts}
    packer = Packer(len(rows), meta)
    packer.text("series", [rows.names[code] for code in rows.code])
    packer.integers("step", rows.step)
    packer.integers("at_ms", [round((at - start_s) * 1e3) for at in rows.at_s])
    packer.floats("value", rows.value)
    return packer.base64()


def _light(event: ev.Event) -> dict[str, Any]:
    """An event as JSON data without what makes it heavy."""
    data: dict[str, Any] = {"kind": event.kind}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        data[field.name] = _clean(type(value)() if field.name in _HEAVY else value)
    return data


def _clean(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            clipped = value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
            return clipped.encode("utf-8", "replace").decode()
        case dict():
            return {_clean(key): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {field.name: _clean(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return value


def thinned(rows: Rows, limit: int = SAVED_ROWS) -> Rows:
    """At most about ``limit`` rows: of each series its first, its last, and from as many stretches as there is room
    for the smallest and the largest value, so that no peak disappears. NaN stands for a gap and counts as smallest.
    """
    if len(rows) <= limit:
        return rows
    import numpy as np  # views of few rows need only the standard library

    codes = np.frombuffer(rows.code, np.uint16)
    value = np.frombuffer(rows.value, np.float64)
    found = [np.flatnonzero(codes == code) for code in range(len(rows.names))]
    found = [places for places in found if len(places)]
    room = max(4, limit // len(found))
    kept = np.unique(np.concatenate([_extremes(places, value, room) for places in found]))
    return Rows(
        rows.names,
        array.array("H", codes[kept].tobytes()),
        array.array("q", np.frombuffer(rows.step, np.int64)[kept].tobytes()),
        array.array("d", np.frombuffer(rows.at_s, np.float64)[kept].tobytes()),
        array.array("d", value[kept].tobytes()),
    )


def _extremes(places: Places, value: NDArray[np.float64], room: int) -> Places:
    if len(places) <= room:
        return places
    import numpy as np

    stretches = max(1, (room - 2) // 2)
    heights = value[places]
    heights[np.isnan(heights)] = -math.inf
    bounds = [len(places) * number // stretches for number in range(stretches + 1)]
    kept = [0, len(places) - 1]
    for start, end in itertools.pairwise(bounds):
        if start < end:
            part = heights[start:end]
            kept += [start + int(part.argmin()), start + int(part.argmax())]
    return places[np.unique(kept)]


def packed_log(log: ev.EventLog, limit: int = SAVED_ROWS, **facts: Any) -> str:
    """A whole run for a notebook or a file, thinned to ``limit`` values."""
    rows = log.series.since()
    if (progress := log.progress) is not None:
        facts = {"done": progress.done, "total": progress.total, "unit": progress.unit, **facts}
    events = log.since()
    if (ranks := log.ranks) is not None:
        events = [*events, ranks]
    return packed_run(events, thinned(rows, limit), values=len(rows), **facts)


def run_bundle(run: str, log: ev.EventLog, text: str, *, title: str, live: bool = False) -> dict[str, Any]:
    """A run that is watched as ``text/plain``, ``text/html`` and data for our own front end.

    Args:
        run: Under what name a page asks for what comes.
        log: What happened so far.
        text: The run in one line.
        title: What the run is called.
        live: Whether more will come.
    """
    content = _page.content("run", title, packed_log(log, live=live))
    text = _words.clip(text, MAX_TEXT)
    words = f'<p style="white-space:pre-wrap">{html.escape(text)}</p>'
    picture = base64.b64encode(_curves.picture(log.series.since()).encode()).decode()
    image = f'<img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{picture}">'
    frame = "" if live else _page.frame(**content) or ""
    ranks = log.ranks.ranks if log.ranks is not None else ()
    table = _vitals.vitals_html(ranks) if ranks else ""
    return {
        "text/plain": f"{text}\n{_vitals.vitals_text(ranks)}" if ranks else text,
        "text/html": words + table + (image if len(log.series) else "") + frame,
        _page.MIME: _page.payload(run, [content], live=live, in_cell=True),
    }
