from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.worker.units import require, units
from tests.distributed.cells import notebook
from tests.distributed.test_training import DEFINE, LOOP, furthest, parameters, run

TOWER = """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if STATISTICS else nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    def forward(self, x): return x + self.inner(self.norm(x))

class Tower(nn.Module):
    def __init__(self, width=12, depth=2):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.head, self.decode = nn.Linear(width, 8, bias=False), nn.Linear(8, width, bias=False)
        self.decode.weight = self.embed.weight
    def encode(self, x):
        x = self.embed(x)
        for block in self.blocks: x = block(x)
        return x + self.frozen(x)
    def forward(self, x): return (self.head(self.encode(x)) + self.decode(x) @ self.embed.weight)[:, :3] * 1.0
"""


def make(
    batch: int,
    epochs: int,
    *,
    optimizer: str = "SGD(model.parameters(), 0.02, momentum=0.9)",
    statistics: bool = False,
    width: int = 12,
) -> dict[str, Any]:
    """A notebook with a tower of blocks, tied weights, and parameters that are not trained."""
    return notebook(
        f"{DEFINE}\nEPOCHS, STATISTICS = {epochs}, {statistics}\n{TOWER}\ntorch.manual_seed(0)\n"
        f"model = Tower({width})\nopt = torch.optim.{optimizer}\n"
        f"loader = DataLoader(Data(), batch_size={batch}, collate_fn=collate)"
    )


def test_it_is_training_with_the_whole_batch_in_one_process(three: Ranks) -> None:
    here, there = make(30, 9), make(10, 9)
    exec(LOOP, here)
    model, weight = there["model"], there["model"].blocks[0].inner[0].weight
    trained = run(three, there, LOOP, strategy="fsdp")
    assert not trained.failed, trained.answers[0].text
    assert len(there["losses"]) == 54
    assert furthest(parameters(here), parameters(there)) < 1e-5
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
    assert there["model"] is model
    assert model.blocks[0].inner[0].weight is weight
    assert type(model) is there["Tower"]
    assert type(there["norm"]) is torch.Tensor
    assert there["norm"].item() == pytest.approx(here["norm"].item(), abs=1e-5)
    (note,) = trained.notes
    assert note.startswith("each rank held at most ")
    for what, (_, whole) in trained.held[0].items():
        parts = [held[what][0] for held in trained.held.values()]
        assert sum(parts) >= whole
        assert max(parts) < whole / 2


def test_an_optimizer_goes_on_with_either_strategy(three: Ranks) -> None:
    here, there = (make(batch, 9, optimizer="AdamW(model.parameters(), 0.01)") for batch in (30, 10))
    exec(LOOP, here)
    weight = there["model"].head.weight
    state = None
    for epochs, strategy in ((1, "ddp"), (7, "fsdp"), (1, "ddp")):
        there["EPOCHS"] = epochs
        assert not run(three, there, LOOP, strategy=strategy).failed
        state = there["opt"].state[weight]["exp_avg"] if state is None else state
    assert len(there["losses"]) == 54
    assert furthest(parameters(here), parameters(there)) < 1e-5
    assert there["opt"].state[weight]["step"] == 54
    for name in ("exp_avg", "exp_avg_sq"):
        made, expected = there["opt"].state[weight][name], here["opt"].state[here["model"].head.weight][name]
        assert type(made) is torch.Tensor
        assert torch.allclose(made, expected, atol=1e-5)
    assert there["opt"].state[weight]["exp_avg"] is state


LIVE = """
import gc
def live():
    gc.collect()
    held = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, nn.Parameter):
            storage = one.untyped_storage()
            held[storage._cdata] = storage.nbytes()
    return sum(held.values())
"""


def test_a_rank_holds_its_part(three: Ranks) -> None:
    peaks = {}
    for strategy in ("ddp", "fsdp"):
        names = make(10, 1, optimizer="AdamW(model.parameters(), 0.01)", width=192)
        whole = sum(one.numel() * 4 for one in names["model"].parameters())
        source = LIVE + LOOP + "seen = [None] * 3\ntorch.distributed.all_gather_object(seen, live())"
        trained = run(three, names, source, strategy=strategy)
        assert not trained.failed, trained.answers[0].text
        peaks[strategy] = max(names["seen"])
    trains = whole - sum(one.numel() * 4 for one in names["model"].frozen.parameters())
    assert peaks["ddp"] > whole + 3 * trains
    assert peaks["fsdp"] < 0.45 * peaks["ddp"]
    for held in trained.held.values():
        assert held["parameters"][1] == whole
        assert held["gradients"][1] == trains
        assert held["states"][1] == pytest.approx(2 * trains, rel=0.01)
        assert sum(part for part, _ in held.values()) < peaks["fsdp"]


def test_what_a_loop_does_beside_training(three: Ranks) -> None:
    """Schedules, accumulation, norms, evaluation before and between, states kept and loaded, layers thawed."""
    source = """
import copy
model.embed.requires_grad_(False)
schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.7)
everything = list(model.parameters())
x, y = Data()[:]
with torch.no_grad():
    seen = [loss_of(model(x), y).item()]
for epoch in range(EPOCHS):
    for x, y in loader:
        loss = loss_of(model(x), y)
        loss.backward()
        losses.append(loss.item())
        try:
            model(x[:, :3])
        except RuntimeError:
            failed = True
        if len(losses) % 2:
            seen.append(sum(one.grad.norm().item() for one in everything if one.grad is not None))
            if all(bool(one.grad.isfinite().all()) for one in everything if one.grad is not None):
                nn.utils.clip_grad_norm_(everything, 1.0)
                opt.step()
            opt.zero_grad()
    schedule.step()
    model.embed.requires_grad_(True)
    model.eval()
    with torch.inference_mode():
        x, y = Data()[:]
        seen.append(loss_of(model(x), y).item())
    model.train()
    if epoch == 0:
        best = {name: value.clone() for name, value in model.state_dict().items()}
        kept = copy.deepcopy(opt.state_dict())
        kinds = {type(one) for one in [*best.values(), *(one["exp_avg"] for one in kept["state"].values())]}
    if epoch == 1:
        model.load_state_dict(best)
        opt.load_state_dict(kept)
        largest = [model.head.weight.detach().abs().max()]
"""
    optimizer = "AdamW(model.parameters(), 0.01)"
    here, there = make(30, 3, optimizer=optimizer), make(5, 3, optimizer=optimizer)
    exec(source, here)
    trained = run(three, there, source, strategy="fsdp", batch=30)
    assert not trained.failed, trained.answers[0].text
    assert trained.answers[0].details["global_batches"] == [30]
    assert there["failed"]
    assert furthest(parameters(here), parameters(there)) < 1e-5
    assert there["seen"] == pytest.approx(here["seen"], abs=1e-4)
    assert there["schedule"].get_last_lr() == here["schedule"].get_last_lr()
    assert torch.allclose(there["largest"][0], here["largest"][0], atol=1e-5)
    assert there["kinds"] == {torch.Tensor}
    for name, value in here["best"].items():
        assert torch.allclose(there["best"][name], value, atol=1e-5)
    assert there["kept"]["state"].keys() == here["kept"]["state"].keys()


@pytest.mark.parametrize("whole_first", [False, True])
def test_modules_that_are_called_in_parts(three: Ranks, whole_first: bool) -> None:
    call = "model.head(model.encode_module(x))[:, :3]"
    define = "class Encode(nn.Module):\n    def __init__(self, tower):\n        super().__init__()\n"
    define += "        self.embed, self.blocks = tower.embed, nn.Sequential(*tower.blocks)\n"
    define += "    def forward(self, x): return self.blocks(self.embed(x))\n"
    loop = LOOP.replace("loss_of(model(x), y)", f"loss_of({call}, y)").replace(
        "model.encode_module", "encode"
    )
    if whole_first:
        loop = LOOP.replace(
            "        opt.step()",
            "        opt.step(); opt.zero_grad()\n        wide = model.blocks[1].inner[0](torch.ones(4, 12))\n"
            "        (model.blocks[0](torch.ones(4, 12)) * model.embed(x[:4])).mean().add(wide.mean()).backward()\n"
            "        opt.step()",
        )
        loop = loop.replace("x[:4]", "torch.ones(4, 8)")
    here, there = make(30, 1), make(10, 1)
    for names in (here, there):
        exec(define + "encode = Encode(model)", names)
        exec(loop, names) if names is here else None
    trained = run(three, there, loop, strategy="fsdp")
    assert not trained.failed, trained.answers[0].text
    assert furthest(parameters(here), parameters(there)) < 1e-5


def test_two_models_that_are_trained_in_turns(three: Ranks) -> None:
    source = """
for _ in range(1):
    for x, y in loader:
        made = model(x)
        loss = judge(made.detach()).square().mean() + (judge(x[:, :3]) - 1).square().mean()
        judge_opt.zero_grad(); loss.backward(); judge_opt.step()
        loss = (judge(model(x)) - 1).square().mean()
        opt.zero_grad(); loss.backward(); opt.step()
"""
    here, there = make(30, 1), make(10, 1)
    for names in (here, there):
        exec("judge = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))", names)
        exec("judge_opt = torch.optim.Adam(judge.parameters(), 0.01)", names)
    there["judge"].load_state_dict(here["judge"].state_dict())
    exec(source, here)
    trained = run(three, there, source, strategy="fsdp")
    assert not trained.failed, trained.answers[0].text
    assert furthest(parameters(here), parameters(there)) < 1e-5
    assert furthest(list(here["judge"].parameters()), list(there["judge"].parameters())) < 1e-5


def test_statistics_are_those_of_ddp(three: Ranks) -> None:
    made = []
    for strategy in ("ddp", "fsdp"):
        names = make(10, 1, statistics=True)
        source = LOOP + (
            "count = model.blocks[0].norm.num_batches_tracked\ncount += torch.distributed.get_rank()\nmodel(x)\n"
            "seen = [None] * 3\ntorch.distributed.all_gather_object(seen, count.item())\n"
        )
        assert not run(three, names, source, strategy=strategy).failed
        made.append(names)
    one, other = ([buffer.float() for buffer in names["model"].buffers()] for names in made)
    assert furthest(one, other) < 1e-5
    assert [names["seen"] for names in made] == [[7, 7, 7]] * 2
    assert furthest(parameters(made[0]), parameters(made[1])) < 1e-5


def test_a_model_made_in_the_cell_comes_back_plain(three: Ranks) -> None:
    made = "model = Tower(8)\nopt = torch.optim.Adam(model.parameters(), 0.01)\n" + LOOP
    with_ddp, names = make(10, 1), make(10, 1)
    run(three, with_ddp, made, seed=3)
    source = (
        made + "gradients = {'head': [model.head.weight.grad]}\npair = (model.head.weight.detach(), 1)\n"
        "if torch.distributed.get_rank() == 1: pair, mine = 2, model.head.weight.detach()\n"
    )
    trained = run(three, names, source, strategy="fsdp", seed=3)
    assert not trained.failed, trained.answers[0].text
    assert furthest(parameters(with_ddp), parameters(names)) < 1e-5
    model = names["model"]
    assert type(model) is names["Tower"]
    assert type(model.head.weight) is nn.Parameter
    assert names["opt"].param_groups[0]["params"][0] is model.embed.weight
    assert model.embed.weight is model.decode.weight
    assert names["gradients"]["head"][0].shape == model.head.weight.shape
    assert type(names["gradients"]["head"][0]) is torch.Tensor
    assert model(torch.ones(2, 8)).shape == (2, 3)
    assert not any(vars(model)[name] for name in vars(model) if "_hooks" in name)
    assert "pair" not in names
    assert any(note.startswith("pair stayed on the ranks (it has parts of sharded") for note in trained.notes)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("model.head(torch.ones(2, 12))\nmodel(torch.ones(2, 8))", "called as a whole after a part of it"),
        ("held = tuple(model.parameters())\nmodel(torch.ones(2, 8))\nheld[0].grad", "try: take it from the"),
        (
            "(model(torch.ones(2, 8)).mean() + model.head.weight.square().sum()).backward()",
            "try: PARAMETER.full_tensor() for its values, or %%deepseek distributed --strategy ddp",
        ),
        (
            "torch.autograd.grad(model(torch.ones(2, 8)).mean(), list(model.parameters()))",
            "try: loss.backward(), or %%deepseek distributed --strategy ddp",
        ),
        (
            "import copy\nmodel(torch.ones(2, 8))\ncopy.deepcopy(model)",
            "try: copy.deepcopy(model.state_dict()), or %%deepseek",
        ),
    ],
)
def test_what_shards_cannot_do_is_refused(three: Ranks, source: str, words: str) -> None:
    names = make(10, 1)
    before = parameters(names)
    trained = run(three, names, source, strategy="fsdp")
    assert {one.status for one in trained.answers.values()} == {"error"}
    assert words in trained.answers[0].text
    assert furthest(parameters(names), before) == 0


def test_a_rank_that_dies_is_replaced_and_training_goes_on(three: Ranks, tmp_path: Path) -> None:
    source = LOOP + (
        "        time.sleep(0.02)\n"
        "        if len(losses) == 20 and torch.distributed.get_rank() == 1 and not os.path.exists(MARK):\n"
        "            open(MARK, 'w').close()\n            os.kill(os.getpid(), 9)\n"
    )
    optimizer = "AdamW(model.parameters(), 0.01)"
    here, there = make(30, 5, optimizer=optimizer), make(10, 5, optimizer=optimizer)
    exec(LOOP, here)
    exec("import os, time", there)
    there["MARK"] = str(tmp_path / "mark")
    trained = run(three, there, source, strategy="fsdp", save_s=0.1)
    assert not trained.failed, trained.answers[0].text
    assert "rank 1 was ended by SIGKILL" in trained.notes[0]
    assert "it was replaced, and the training went on after" in trained.notes[0]
    assert len(there["losses"]) == 30
    assert furthest(parameters(here), parameters(there)) < 1e-5


def test_an_error_on_one_rank_leaves_the_notebook_as_it_was(three: Ranks) -> None:
    names = make(10, 5)
    before = parameters(names)
    source = (
        LOOP + "        if len(losses) == 3 and torch.distributed.get_rank() == 1: raise ValueError('no')\n"
    )
    trained = run(three, names, source, strategy="fsdp")
    assert [trained.answers[rank].status for rank in range(3)] == ["unblocked", "error", "unblocked"]
    assert trained.answers[1].text.endswith("ValueError: no")
    assert furthest(parameters(names), before) == 0
    for strategy in ("fsdp", "ddp"):
        assert not run(three, names | {"EPOCHS": 1}, LOOP, strategy=strategy).failed
    here = make(30, 2)
    exec(LOOP, here)
    assert furthest(parameters(here), parameters(names)) < 1e-5


def test_units_are_blocks_that_stand_alone() -> None:
    def layer() -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    encoder = nn.TransformerEncoder(layer(), 3)
    first, second, third = layers = [one for one in encoder.modules() if isinstance(one, type(layer()))]
    assert units(encoder) == [*layers, encoder]
    pairs = [nn.Sequential(layer(), layer()) for _ in range(2)]
    stages = nn.Sequential(*pairs, nn.ReLU(), nn.ReLU())
    assert units(stages) == [*pairs[0], *pairs[1], stages]
    assert units(nn.Linear(2, 2))[:-1] == []
    second.linear1.weight = third.linear1.weight
    assert units(encoder) == [first, encoder]
    encoder.norm = first.norm1
    assert units(encoder) == [encoder]


def test_parameters_that_cannot_be_sharded_are_refused() -> None:
    def change(kind: str) -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 3))
        weight = next(module.parameters())
        if kind == "scalar":
            module.scale = nn.Parameter(torch.ones(()))
        elif kind == "strides":
            module[0].weight = nn.Parameter(torch.ones(2, 3).T)
        elif kind == "hook":
            weight.register_hook(torch.abs)
        elif kind == "late hook":
            weight.register_post_accumulate_grad_hook(lambda one: None)
        elif kind == "gradient":
            weight.grad = torch.ones_like(weight)
        return module

    require(change("nothing"))
    for kind, words in {
        "scalar": r"Sequential cannot be sharded: scale has no dimension .*\n  try: give it one value, or %%deepseek",
        "strides": r"0.weight is not contiguous in memory\n  try: make it so by .contiguous\(\), or %%deepseek",
        "hook": r"0.weight has a hook on its gradient.*\n  try: %%deepseek distributed --strategy ddp",
        "late hook": "0.weight has a hook on its gradient",
        "gradient": r"0.weight has a gradient from before .*\n  try: optimizer.zero_grad\(\), or %%deepseek",
    }.items():
        with pytest.raises(TargetError, match=words):
            require(change(kind))
