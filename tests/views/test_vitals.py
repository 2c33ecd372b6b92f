from __future__ import annotations

from deepseek_lab import views
from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.views import _page

WORD = "<img src=x onerror=alert(1)>"
VITALS = (
    RankVitals(0, "training", num_updates=1200, updates_per_s=25.41, samples_per_s=813.2, waiting=0.624, loss=0.5),
    RankVitals(1, "training", num_updates=1201, updates_per_s=25.4, samples_per_s=812, late_s=0.0213, loss=0.25,
               memory_bytes=2**30, link_bytes_per_s=2.0**24, num_replaced=2, why="was ended by SIGKILL"),
    RankVitals(2, "dead", why=WORD),
)  # fmt: skip


def bundle(vitals: tuple[RankVitals, ...], *, live: bool = False) -> dict[str, object]:
    log = ev.EventLog()
    log.emit(ev.RunStarted(run="r", verb="distributed"))
    if vitals:
        log.emit(ev.RanksSeen(run="r", ranks=vitals))
    return views.run_bundle("r", log, views.vitals_line(vitals), title="training", live=live)


def test_text_has_a_row_a_rank_and_no_column_that_says_nothing() -> None:
    line, head, *rows = str(bundle(VITALS)["text/plain"]).splitlines()
    assert line == (
        "training  3 ranks  0 updates  25.4 updates/s  1,625 samples/s  loss 0.375  the others wait for rank 1  "
        "rank 2 is dead"
    )
    assert head.split("  ")[0] == "rank"
    assert "on the GPU" not in head
    assert rows[0].split() == ["0", "training", "1,200", "25.4", "813", "62", "%", "0.5"]
    assert rows[1].endswith(
        "1.00 GiB  16.0 MiB/s  the others wait for it, 21.3 ms an update, its process was ended by SIGKILL, "
        "replaced 2 times"
    )
    assert rows[2].split(maxsplit=3) == ["2", "dead", "0", WORD]


def test_html_is_static_and_names_are_data() -> None:
    page = str(bundle(VITALS, live=True)["text/html"])
    assert "21.3 ms an update" in page
    assert WORD not in page
    assert "&lt;img src=x" in page
    assert "<script" not in page


def test_a_run_without_ranks_has_no_table() -> None:
    assert bundle(())["text/plain"] == "training  0 ranks  0 updates"
    assert "rank" not in str(bundle((), live=True)["text/html"]).replace("0 ranks", "")
    assert "live" in bundle((), live=True)[_page.MIME]  # type: ignore[operator]
