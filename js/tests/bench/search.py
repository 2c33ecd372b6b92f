"""Tables for the benchmark of the view of a search: 10,000 trials of 8 ranges, and what is new of the next ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deepseek_lab.views import _page
from deepseek_lab.views._search_packed import SearchPacking
from tests.views.searches import Made

NEWS = 12

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    made, packing = Made().begin(20_000), SearchPacking()
    while made.num < 10_000:
        made.search(1, small=False) if made.num % 4 else made.trial(
            f"small {made.num}", made.draw(), cost=1 / 9
        )
    seen = len(made.log.since())
    page = _page.page("search", "search", packing.packed(made.log.since(), state="live"))
    assert page is not None
    (folder / "search.html").write_text(page)
    news = []
    for _ in range(NEWS):
        made.trial(f"new {made.num}", made.draw())
        made.running(1)
        events = made.log.since(seen)
        seen += len(events)
        news.append(packing.packed(events, state="live"))
    (folder / "news.json").write_text(json.dumps(news))
