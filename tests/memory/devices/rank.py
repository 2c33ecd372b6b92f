"""One process of plans: ``rank.py RANK RANKS FOLDER NAME ...``. For each name it trains three steps with the plan
``NAME.py`` of the folder and writes its losses and the most bytes that PyTorch's tracker saw to
``NAME-RANK.json``. A name that ends in ``exact`` computes in float32.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

BATCH, STEPS, TOKENS = 4, 3, 64


def loaded(path: Path) -> Any:
    """The plan as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(plan: Any, rank: int, ranks: int) -> dict[str, Any]:
    """Losses and peak."""
    torch.manual_seed(0)
    model = plan.build("cpu")
    ids = torch.randint(model.config.vocab_size, (BATCH, TOKENS))
    training, optimizers = plan.prepare(model, rate=1e-3)
    mine = ids.chunk(ranks)[rank]
    tracker = FSDPMemTracker(training, None if len(optimizers) > 1 else optimizers[0])
    tracker.track_inputs((mine,))
    losses = []
    with tracker:
        for _ in range(STEPS):
            losses.append(plan.train_step(training, optimizers, mine, input_ids=mine, use_cache=False).item())
            tracker.reset_mod_stats()
    peak = sum(int(kinds["Total"]) for kinds in tracker.get_tracker_snapshot("peak").values())
    return {"losses": losses, "peak": peak}


def main(rank: int, ranks: int, folder: Path, names: list[str]) -> None:
    """Every plan, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=ranks)
    for name in names:
        plan = loaded(folder / f"{name}.py")
        if name.endswith("exact"):
            plan.COMPUTE = plan.REDUCE = torch.float32
        # gloo's threads let go of what they have sent when they next run: on a machine that is busy with other things
        # the tracker now and then sees what is already done with, and the lower of two peaks is the plan's.
        trained = [train(plan, rank, ranks) for _ in range(1 if name.endswith("exact") else 2)]
        found = {"losses": trained[0]["losses"], "peak": min(one["peak"] for one in trained)}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
