"""Pages for the benchmark of tables and charts: 100,000 rows, 1,000,000 points, 4096 × 4096 cells."""

from __future__ import annotations

import array
import math
import random
import sys
from pathlib import Path

from deepseek_lab.views import HeatmapView, LinesView, ScatterView, TableView
from deepseek_lab.views._chart import Chart


def views() -> dict[str, Chart]:
    source = random.Random(0)
    rows, points, side = 100_000, 1_000_000, 4096
    wave = array.array("d", (math.sin(at / 99) for at in range(2 * side)))
    return {
        "table": TableView(
            {
                "trial": [f"trial {at}" for at in range(rows)],
                "optimiser": [source.choice(("adam", "sgd", "lion")) for _ in range(rows)],
                "latency": [source.lognormvariate(1, 1) for _ in range(rows)],
                "error": [source.random() for _ in range(rows)],
                "layers": [source.randrange(48) for _ in range(rows)],
            },
            better={"error": "lower"},
            bars=["latency"],
        ),
        "scatter": ScatterView(
            {
                "a": [source.gauss(0, 1) for _ in range(points)],
                "b": [source.gauss(0, 1) for _ in range(points)],
            }
        ),
        "lines": LinesView(
            None, {"loss": [math.exp(-at / 3e5) + source.random() / 5 for at in range(points)]}
        ),
        "heatmap": HeatmapView([wave[row : row + side] for row in range(side)]),
    }


if __name__ == "__main__":
    for name, view in views().items():
        page = view.page(name)
        assert page is not None
        (Path(sys.argv[1]) / f"{name}.html").write_text(page)
