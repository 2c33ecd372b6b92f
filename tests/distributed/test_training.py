from __future__ import annotations

import functools
import operator
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.distributed.worker.choice import LOCAL, WAYS
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook

DEFINE = """
import dataclasses, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * FACTOR
    @staticmethod
    def backward(ctx, g): return g * FACTOR

FACTOR = 1.5

@dataclasses.dataclass
class Config:
    width: int = 16
    rate: float = 0.05

class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first = nn.Linear(8, config.width)
        self.second = nn.Linear(config.width, 3)
        self.unused = nn.Linear(2, 2)
    def forward(self, x): return self.second(activation(Scale.apply(self.first(x))))

def activation(x): return torch.tanh(x)

class Data(Dataset):
    def __init__(self):
        g = torch.Generator().manual_seed(1)
        self.x = torch.randn(180, 8, generator=g)
        self.y = (self.x[:, :3] * 2).argmax(1)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]

config = Config()
torch.manual_seed(0)
model = Net(config)
opt = torch.optim.Adam(model.parameters(), lr=config.rate)
loss_of = nn.CrossEntropyLoss()
collate = lambda items: tuple(torch.stack(part) for part in zip(*items))
losses = []
"""

LOOP = """
for epoch in range(EPOCHS):
    for x, y in loader:
        loss = loss_of(model(x), y)
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        losses.append(loss.item())
"""


def run(ranks: Ranks, names: dict[str, Any], source: str, **options: Any) -> Trained:
    if len(ranks.live) < 3:
        ranks.resize(3)
    seen = cells.names(source)
    return train(
        ranks,
        names,
        source,
        "cell",
        uses=seen.loads | seen.changes,
        binds=seen.binds | seen.changes,
        **options,
    )


def make(batch: int, epochs: int, more: str = "") -> dict[str, Any]:
    return notebook(
        f"{DEFINE}\nEPOCHS = {epochs}\nloader = DataLoader(Data(), batch_size={batch}, collate_fn=collate{more})"
    )


def parameters(names: dict[str, Any]) -> list[torch.Tensor]:
    return [one.detach().clone() for one in names["model"].parameters()]


def furthest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shuffled", [False, True])
def test_it_is_training_with_the_whole_batch_in_one_process(three: Ranks, shuffled: bool) -> None:
    more = ", shuffle=True, generator=torch.Generator().manual_seed(3)" if shuffled else ""
    here, there = make(30, 9, more), make(10, 9, more)
    exec(LOOP, here)
    weight = there["model"].first.weight
    trained = run(three, there, LOOP)
    assert not trained.failed
    assert len(here["losses"]) == len(there["losses"]) == 54
    assert furthest(parameters(here), parameters(there)) < 1e-5
    assert there["model"].first.weight is weight
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
    assert [one.details["global_batches"] for one in trained.answers.values()] == [[30]] * 3
    assert [one.details["num_steps"] for one in trained.answers.values()] == [54] * 3
    assert trained.notes == ()
    assert set(trained.changed) >= {"losses", "loss", "epoch", "norm"}
    assert there["opt"].state[weight]["step"] == 54


def test_training_goes_on_where_it_was(three: Ranks) -> None:
    here, there = make(30, 4), make(10, 2)
    exec(LOOP, here)
    run(three, there, LOOP)
    exec("for x, y in []: pass", there)
    run(three, there, LOOP)
    assert furthest(parameters(here), parameters(there)) < 1e-5


@pytest.mark.parametrize("way", ["plain", "local"])
def test_parameters_that_are_trained_later_are_averaged_too(three: Ranks, way: str) -> None:
    """With gradients that go, and averaged after each update of plain SGD, which is the same."""
    loop = "model.first.requires_grad_(False)\n" + LOOP.replace(
        "    for x, y", "    if epoch == 2:\n        model.first.requires_grad_(True)\n    for x, y"
    ).replace("        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n", "")
    sgd = "opt = torch.optim.SGD(model.parameters(), lr=0.05)"
    here, there = make(30, 5), make(10, 5)
    for names in (here, there):
        exec(sgd, names)
    exec(loop, here)
    trained = run(three, there, loop, way=way, every=1 if way == "local" else None)
    assert not trained.failed, trained.answers[0].text
    assert furthest(parameters(here), parameters(there)) < (1e-5 if way == "plain" else 1e-2)
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1


def test_an_effective_batch_is_shared(three: Ranks) -> None:
    here, there = make(36, 3), make(10, 3)
    exec(LOOP, here)
    trained = run(three, there, LOOP, batch=36)
    assert trained.answers[0].details["global_batches"] == [36]
    assert furthest(parameters(here), parameters(there)) < 1e-5
    here, there = make(32, 3), make(10, 3)  # 32 has no third, nor has the rest of 180 samples
    exec(LOOP, here)
    assert run(three, there, LOOP, batch=32).answers[0].details["global_batches"] == [32]
    assert furthest(parameters(here), parameters(there)) < 1e-5
    with pytest.raises(TargetError, match=r"batch of 2 cannot be shared by 3 ranks\n.*--effective-batch 3"):
        run(three, there, LOOP, batch=2)


def test_gradients_that_are_accumulated_are_averaged(three: Ranks) -> None:
    loop = LOOP.replace("        opt.zero_grad()\n", "").replace(
        "        opt.step()\n",
        "        if len(losses) % 2:\n            opt.step()\n            opt.zero_grad()\n",
    )
    here, there = make(30, 4), make(10, 4)
    exec(loop, here)
    run(three, there, loop)
    assert furthest(parameters(here), parameters(there)) < 1e-5


def test_a_model_made_in_the_cell_is_the_same_on_all_ranks_and_comes_back(three: Ranks) -> None:
    names = make(10, 2)
    source = "made = Net(Config(width=4))\nopt = torch.optim.SGD(made.parameters(), 0.1)\n" + LOOP.replace(
        "model", "made"
    )
    trained = run(three, names, source)
    assert trained.notes == ()
    assert isinstance(names["made"], names["Net"])
    assert names["opt"].param_groups[0]["params"][0] is names["made"].first.weight
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1


def test_containers_that_are_changed_deep_inside_come_back(three: Ranks) -> None:
    names = make(10, 2) | {"kept": [1, 2]}
    exec("import collections\nhistory = collections.defaultdict(list)\nseen = {'steps': [0]}", names)
    history = names["history"]
    loop = LOOP + "        history['loss'].append(loss.item())\n        seen['steps'][0] += len(kept) - 1\n"
    trained = run(three, names, loop + "nn.utils.parameters_to_vector(model.parameters());")
    assert names["history"] is history
    assert history["loss"] == names["losses"]
    assert names["seen"] == {"steps": [12]}
    assert names["kept"] == [1, 2]
    assert "nn" not in trained.changed


def test_two_models_and_two_optimizers(three: Ranks) -> None:
    define = """
import torch
from torch import nn
torch.manual_seed(0)
make, judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
opt_m, opt_j = torch.optim.SGD(make.parameters(), 0.05), torch.optim.SGD(judge.parameters(), 0.05)
data = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
"""
    loop = """
for _ in range(5):
    for rows in loader:
        real, noise = rows[:, :8], rows[:, 8:]
        loss = (judge(real) - 1).square().mean() + judge(make(noise).detach()).square().mean()
        opt_j.zero_grad(); loss.backward(); opt_j.step()
        loss = (judge(make(noise)) - 1).square().mean()
        opt_m.zero_grad(); loss.backward(); opt_m.step()
"""
    here, there = notebook(define.replace("BATCH", "15")), notebook(define.replace("BATCH", "5"))
    exec(loop, here)
    trained = run(three, there, loop)
    assert not trained.failed, trained.answers[0].text
    for name in ("make", "judge"):
        one, other = ([p.detach() for p in names[name].parameters()] for names in (here, there))
        assert furthest(one, other) < 1e-5
    assert trained.answers[0].details["num_steps"] == 40


def test_loops_that_do_not_train_see_all_of_the_data(three: Ranks) -> None:
    names = make(10, 1)
    source = LOOP + "with torch.no_grad():\n    seen = sum(len(y) for x, y in loader)\nsteps = len(loader)"
    run(three, names, source)
    assert names["seen"] == 180
    assert names["steps"] == 6
    assert len(names["losses"]) == 6


def test_each_sample_is_seen_once_an_epoch_in_another_order(three: Ranks) -> None:
    names = notebook(
        "import torch, torch.distributed as dist\nmodel = torch.nn.Linear(1, 1)\n"
        "loader = torch.utils.data.DataLoader(list(range(30)), batch_size=5, shuffle=True)"
    )
    source = (
        "orders = []\nfor _ in range(2):\n    mine = [int(i) for b in loader for i in b]\n"
        "    all_of = [None] * 3\n    dist.all_gather_object(all_of, mine)\n    orders.append(all_of)\n"
        "model(torch.ones(1, 1)).sum().backward()"
    )
    run(three, names, source)
    first, second = names["orders"]
    assert sorted(functools.reduce(operator.iadd, first, [])) == list(range(30))
    assert sorted(functools.reduce(operator.iadd, second, [])) == list(range(30))
    assert first != second


def test_what_the_shares_leave_to_be_said_is_said(three: Ranks) -> None:
    names = notebook(
        "import torch\nmodel = torch.nn.Linear(2, 1)\nopt = torch.optim.SGD(model.parameters(), 0.1)\n"
        "x = torch.ones(4, 2)"
    )
    step = "loss = model(x).mean()\nopt.zero_grad()\nloss.backward()\nopt.step()\n"
    (note,) = run(three, names, step).notes
    assert "no DataLoader was looped over" in note
    (note,) = run(three, names, "y = 5").notes
    assert "no module was called with gradients" in note
    notes = run(
        three, names, step + "import torch.distributed as dist\nmodel.weight.data += dist.get_rank()"
    ).notes
    assert any("not the same on all ranks" in note for note in notes)
    assert names["y"] == 5


def test_a_part_that_is_called_before_the_whole_is_refused(three: Ranks) -> None:
    names = notebook(
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))\nx = torch.ones(4, 2)"
    )
    trained = run(three, names, "model[0](x)\nmodel(x).mean().backward()")
    assert {one.error for one in trained.answers.values()} == {"TargetError"}
    assert "would be averaged twice" in trained.answers[0].text
    assert not run(three, names, "model(x).mean().backward()\nmodel[0](x).mean().backward()").failed


SLOW = LOOP.replace("        losses.append", "        time.sleep(0.04)\n        losses.append")
DYING = (
    SLOW
    + """
        if len(losses) == WHEN and torch.distributed.get_rank() == WHO and not os.path.exists(MARK):
            open(MARK, "w").close()
            os.kill(os.getpid(), 9)
"""
)
DROPOUT = "\nimport os, time\nmodel = nn.Sequential(model, nn.Dropout(0.3))\n"


@pytest.mark.parametrize(("outermost", "who"), [("epochs", 2), ("batches", 0), ("while", 2)])
def test_a_rank_that_dies_is_replaced_and_training_goes_on(
    three: Ranks, tmp_path: Path, outermost: str, who: int
) -> None:
    _head, *body = DYING.strip("\n").splitlines()
    inner = "\n".join(body)
    loop = {
        "epochs": DYING,
        "batches": "\n".join(line[4:] for line in body),
        "while": f"epoch = 0\nwhile epoch < EPOCHS:\n{inner}\n    epoch += 1",
    }[outermost]
    made = []
    for mark in ("unbroken", "broken"):
        more = ", shuffle=True, generator=torch.Generator().manual_seed(3)" if who else ", shuffle=True"
        names = make(1 if outermost == "batches" else 10, 12, more) | {"WHEN": 55, "WHO": who}
        exec(DROPOUT, names)
        names["MARK"] = str(tmp_path / mark)
        if mark == "unbroken":
            Path(names["MARK"]).touch()
        trained = run(three, names, loop, seed=5, save_s=0.2)
        assert not trained.failed, trained.answers
        made.append((names, trained))
    (unbroken, _), (broken, trained) = made
    assert Path(broken["MARK"]).exists()
    assert f"rank {who} was ended by SIGKILL" in trained.notes[0]
    assert "it was replaced, and the training went on after" in trained.notes[0]
    assert len(broken["losses"]) == len(unbroken["losses"])
    assert broken["losses"] == pytest.approx(unbroken["losses"], abs=1e-5)
    assert furthest(parameters(broken), parameters(unbroken)) < 1e-5
    assert [one.details["num_steps"] for one in trained.answers.values()] == [len(broken["losses"])] * 3


def test_without_anything_saved_training_begins_again(three: Ranks, tmp_path: Path) -> None:
    names = make(10, 3) | {"WHEN": 3, "WHO": 1, "MARK": str(tmp_path / "mark")}
    exec(DROPOUT, names)
    trained = run(three, names, DYING)
    assert not trained.failed
    assert "it was replaced, and the training began again" in trained.notes[0]
    assert len(names["losses"]) == 18


def test_a_rank_that_dies_again_at_the_same_place_is_not_replaced_for_ever(three: Ranks) -> None:
    names = make(10, 3) | {"WHEN": 3, "WHO": 1, "MARK": "/nowhere/at/all"}
    exec(DROPOUT, names)
    source = DYING.replace('            open(MARK, "w").close()\n', "")
    before = parameters(names)
    trained = run(three, names, source)
    assert trained.failed
    assert trained.answers[1].status == "dead"
    replaced, left_out = trained.notes
    assert "it was replaced, and the training began again" in replaced
    assert "not replaced (new processes have not led further), and 2 of 3 ranks began again" in left_out
    assert furthest(parameters(names), before) == 0


def test_loops_that_train_nothing_may_turn_differently_often(three: Ranks) -> None:
    names = make(10, 2)
    source = (
        "import time\nn = 0\nwhile n < 40 * (torch.distributed.get_rank() + 1):\n    n += 1\n    time.sleep(0.01)\n"
        "for i in range(3 * torch.distributed.get_rank()):\n    time.sleep(0.05)\n" + LOOP
    )
    trained = run(three, names, source, save_s=0.1)
    assert not trained.failed, trained.answers
    assert names["n"] == 40


def test_workers_of_data_loaders(three: Ranks) -> None:
    here, there = make(30, 2), make(10, 2, ", num_workers=2")
    exec(LOOP, here)
    assert not run(three, there, LOOP).failed
    assert furthest(parameters(here), parameters(there)) < 1e-5


@pytest.mark.parametrize("how", ["error", "death", "interrupt"])
def test_what_fails_leaves_the_notebook_as_it_was(three: Ranks, how: str) -> None:
    names = make(10, 50)
    before = parameters(names)
    end = {
        "error": "raise ValueError('no')",
        "death": "import os, time; time.sleep(0.7); os.kill(os.getpid(), 9)",
        "interrupt": "import time; time.sleep(30)",
    }[how]
    source = LOOP + f"        if len(losses) == 20 and torch.distributed.get_rank() == 1: {end}\n"
    if how == "interrupt":
        timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run(three, names, source)
    else:
        began = time.monotonic()
        trained = run(three, names, source, save_s=0)
        assert trained.failed
        assert trained.answers[1].status == ("error" if how == "error" else "dead")
        assert trained.answers[1].line == 10
        assert time.monotonic() - began < 30
    assert furthest(parameters(names), before) == 0
    assert names["losses"] == []
    assert not run(three, names | {"EPOCHS": 1}, LOOP).failed


@pytest.mark.parametrize("way", ["bf16", "int8", "powersgd-2", "local", "diloco"])
def test_gradients_that_are_changed_on_their_way_train_as_well(three: Ranks, way: str) -> None:
    exact, rounded = make(10, 12), make(10, 12)
    run(three, exact, LOOP)
    trained = run(three, rounded, LOOP, way=way, every=4 if way in {"local", "diloco"} else None)
    assert not trained.failed, trained.answers[0].text
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
    assert furthest(parameters(exact), parameters(rounded)) > 0
    mean = [sum(names["losses"][-12:]) / 12 for names in (exact, rounded)]
    assert mean[0] < 0.5 * exact["losses"][0]
    if way in {"bf16", "int8"}:
        assert furthest(parameters(exact), parameters(rounded)) < 0.2
        assert mean[1] == pytest.approx(mean[0], rel=0.1)
    assert mean[1] < 0.05 * exact["losses"][0]
    assert trained.notes[0].startswith(("gradients as", "gradients in", "parameters averaged"))


def test_what_follows_a_loop_sees_what_all_ranks_have_come_to(three: Ranks) -> None:
    """Six updates since the last agreement would part them otherwise."""
    names = make(10, 1) | {"seen": [None] * 3}
    source = LOOP + "torch.distributed.all_gather_object(seen, model.first.weight.sum().item())"
    assert not run(three, names, source, way="local", every=100).failed
    assert names["seen"].count(names["seen"][0]) == 3
    assert len(names["losses"]) == 6


def test_what_all_ranks_have_already_is_not_sent_again(three: Ranks) -> None:
    request = three.ask(
        "run",
        {
            "file": "cell",
            "source": "import torch\nfrom torch import nn\n"
            "from deepseek_lab.distributed.worker.replicas import _is_same_everywhere as same\n"
            "torch.manual_seed(0)\nmodel = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20)).bfloat16()\n"
            "seen = [same(model)]\n"
            "if rank == 1: model[1].running_mean[3] = 0.5\n"
            "seen.append(same(model))\n"
            "model[1].running_mean[3] = 0.5\nseen.append(same(model))\n"
            "seen.append(same(nn.Linear(3, 2 + rank)))\nseen",
        },
        [],
    )
    assert {one.value for one in request.answers.values()} == {"[True, False, True, False]"}


def test_the_way_is_chosen_alike_on_all_ranks(three: Ranks) -> None:
    names = make(10, 45)
    trained = run(three, names, LOOP, way="auto")
    assert not trained.failed, trained.answers[0].text
    details = [one.details for one in trained.answers.values()]
    assert len({one["way"] for one in details}) == 1
    assert len({one["checksum"] for one in details}) == 1
    on_one_host = {way for way in WAYS if not way.startswith("hierarchical")}
    assert set(details[0]["step_s"]) == on_one_host | {LOCAL}
    assert details[0]["way"] in on_one_host | {LOCAL}
    assert ("where ranks never differ: --exchange" in trained.notes[0]) == (details[0]["way"] == LOCAL)
    assert all(seconds > 0 for seconds in details[0]["step_s"].values())
    assert len({str(one["step_s"]) for one in details}) == 1
    (note,) = run(three, make(10, 1), LOOP, way="auto").notes
    assert "too few updates" in note


def test_an_infinite_gradient_reaches_all_ranks(three: Ranks) -> None:
    names = make(10, 1)
    source = (
        "x, y = next(iter(loader))\nif torch.distributed.get_rank() == 1:\n    x = x * float('inf')\n"
        "loss_of(model(x), y).backward()\nbad = not all(p.grad is None or p.grad.isfinite().all() for p in "
        "model.parameters())\nseen = [None] * 3\ntorch.distributed.all_gather_object(seen, bad)"
    )
    for way in ("plain", "int8", "bf16", "powersgd-1"):
        trained = run(three, names, source, way=way)
        assert not trained.failed, trained.answers[0].text
        assert names["seen"] == [True] * 3


def test_an_interrupt_while_gradients_are_on_their_way(three: Ranks) -> None:
    names = make(10, 500)
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(three, names, LOOP, way="int8")
    timer.join()
    assert len(three.live) == 3
    assert not run(three, names | {"EPOCHS": 1}, LOOP, way="int8").failed
