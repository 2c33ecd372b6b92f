"""What sharding saves and costs beside DDP: ``python -m tests.benchmarks.sharded``.

Three ranks on this machine train a transformer of 19 million parameters with AdamW. Cells with either strategy
alternate; said are the bytes of parameters, gradients and optimizer states that a rank holds, and the time of an
update. Ranks of their own then say their largest resident set during a cell (proc(5), ``VmHWM``, reset by
``clear_refs``): glibc keeps what is freed in pieces of less than 32 MB, unless ``MALLOC_MMAP_THRESHOLD_`` is set.
Bar: both strategies come to the same parameters within 1e-4, and a rank holds at most 0.4 of what DDP holds.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import train
from deepseek_lab.measure.race import Ratio
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook

NUM_RANKS, ROUNDS = 3, 5
DEFINE = """
import pathlib, time, torch
from torch import nn
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
model = nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), nn.Linear(512, 16))
opt = torch.optim.AdamW(model.parameters(), 1e-4)
data = torch.randn(3 * 2 * 6, 32, 512)
loader = torch.utils.data.DataLoader(data, batch_size=2)
losses, took_s = [], []
"""
CELL = """
pathlib.Path("/proc/self/clear_refs").write_text("5")
for x in loader:
    began_s = time.perf_counter()
    loss = model(x).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
    took_s.append(time.perf_counter() - began_s)
status = pathlib.Path("/proc/self/status").read_text()
peaks = [None] * 3
torch.distributed.all_gather_object(peaks, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def cell(ranks: Ranks, strategy: str) -> tuple[dict[str, Any], Any]:
    """The names that a cell leaves, and what it did."""
    names, seen = notebook(DEFINE), cells.names(CELL)
    trained = train(
        ranks,
        names,
        CELL,
        "cell",
        uses=seen.loads | seen.changes,
        binds=seen.binds | seen.changes,
        strategy=strategy,
        save_s=0,
    )
    assert not trained.failed, trained.answers[0].text
    return names, trained


def resident(strategy: str, threshold: str) -> float:
    """Bytes; of the rank that has most of them."""
    if threshold:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = threshold
    ranks = Ranks(NUM_RANKS)
    try:
        ranks.start()
        return float(max(cell(ranks, strategy)[0]["peaks"]))
    finally:
        ranks.stop()
        os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)


def main() -> int:
    ranks = Ranks(NUM_RANKS)
    ranks.start()
    times: dict[str, list[float]] = {"ddp": [], "fsdp": []}
    furthest = 0.0
    try:
        for _ in range(ROUNDS):
            made = {}
            for strategy in times:
                names, trained = cell(ranks, strategy)
                made[strategy] = list(names["model"].parameters())
                times[strategy].append(statistics.median(names["took_s"][1:]))
            pairs = zip(made["ddp"], made["fsdp"], strict=True)
            furthest = max(furthest, *((one - other).abs().max().item() for one, other in pairs))
    finally:
        ranks.stop()
    held = [sum(part for part, _ in one.values()) for one in trained.held.values()]
    whole = sum(whole for _, whole in trained.held[0].values())
    ratio = Ratio.of(times["fsdp"], times["ddp"])
    low, high = ratio.ci95
    print(
        f"held by a rank: {max(held) / 1e6:.0f} MB of {whole / 1e6:.0f}, {max(held) / whole:.2f} (bar 0.40)"
    )
    for threshold in ("", "1048576"):
        peaks = [f"{strategy} {resident(strategy, threshold) / 1e6:.0f} MB" for strategy in times]
        print(f"largest resident set, MALLOC_MMAP_THRESHOLD_={threshold or 'not set'}: {', '.join(peaks)}")
    print(f"an update takes {ratio.speedup:.2f} ({low:.2f}-{high:.2f}) of DDP's {ratio.median_ms:.0f} ms")
    print(f"furthest parameters: {furthest:.1e} (bar 1e-4)")
    return int(max(held) > 0.4 * whole or furthest > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
