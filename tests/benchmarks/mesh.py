"""What layers that ranks share and stages of a pipeline cost beside DDP: ``python -m tests.benchmarks.mesh``.

Two ranks on this machine train a transformer of 19 million parameters with AdamW, on the same global batch. Cells with
each strategy take turns; said are the bytes of parameters, gradients and optimizer states that a rank holds, and the
time of an update. Bar: all strategies come to the same parameters within 1e-4, and a rank holds at most 0.6 of what DDP
holds.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.measure.race import Ratio
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook

ROUNDS = 3
WAYS: dict[str, Mesh | None] = {
    "ddp": None,
    "tensor": Mesh(tensor=2),
    "pipeline of 4": Mesh(pipeline=2, micro_batches=4),
    "pipeline of 8": Mesh(pipeline=2, micro_batches=8),
}
DEFINE = """
import time, torch
from torch import nn
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
model = nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), nn.Linear(512, 16))
opt = torch.optim.AdamW(model.parameters(), 1e-4, eps=1e-4)
data = torch.randn(8 * 4, 32, 512)
losses, took_s = [], []
"""
CELL = """
for x in loader:
    began_s = time.perf_counter()
    loss = model(x).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
    took_s.append(time.perf_counter() - began_s)
"""


def cell(ranks: Ranks, mesh: Mesh | None) -> tuple[dict[str, Any], Trained]:
    """The names that a cell leaves, and what it did."""
    batch = 8 // (len(ranks) if mesh is None else mesh.data)
    names = notebook(DEFINE + f"loader = torch.utils.data.DataLoader(data, batch_size={batch})\n")
    seen = cells.names(CELL)
    trained = train(
        ranks,
        names,
        CELL,
        "cell",
        uses=seen.loads | seen.changes,
        binds=seen.binds | seen.changes,
        mesh=mesh,
        save_s=0,
    )
    assert not trained.failed, trained.answers[0].text
    return names, trained


def main() -> int:
    ranks = Ranks(2)
    ranks.start()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    held: dict[str, float] = {}
    furthest = 0.0
    try:
        for _ in range(ROUNDS):
            made = {}
            for name, mesh in WAYS.items():
                names, trained = cell(ranks, mesh)
                made[name] = list(names["model"].parameters())
                times[name].append(statistics.median(names["took_s"][1:]))
                if mesh is not None:
                    parts = [sum(part for part, _ in one.values()) for one in trained.held.values()]
                    held[name] = max(parts) / sum(whole for _, whole in trained.held[0].values())
            for name in held:
                pairs = zip(made["ddp"], made[name], strict=True)
                furthest = max(furthest, *((one - other).abs().max().item() for one, other in pairs))
    finally:
        ranks.stop()
    for name in held:
        ratio = Ratio.of(times[name], times["ddp"])
        low, high = ratio.ci95
        print(
            f"{name}: a rank holds {held[name]:.2f} of what it holds with DDP (bar 0.60), an update takes "
            f"{ratio.speedup:.2f} ({low:.2f}-{high:.2f}) of DDP's {ratio.median_ms:.0f} ms"
        )
    print(f"furthest parameters: {furthest:.1e} (bar 1e-4)")
    return int(max(held.values()) > 0.6 or furthest > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
