"""Ranks that train apart between means of their parameters: when they meet, how often, and how that ends."""

from __future__ import annotations

from typing import Any

import pytest

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import EVERY, Trained, train
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook
from tests.distributed.conftest import Run

DEFINE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
opt = torch.optim.Adam(model.parameters(), lr=0.02)
x_all = torch.randn(180, 8)
y_all = (x_all[:, :3] * 2).argmax(1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x_all, y_all), batch_size=4)
losses, seen = [], [None] * 3
"""
LOOP = """
for x, y in loader:
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
"""


def run(ranks: Ranks, names: dict[str, Any], source: str, **options: Any) -> Trained:
    found = cells.names(source)
    uses, binds = found.loads | found.changes, found.binds | found.changes
    return train(ranks, names, source, "cell", uses=uses, binds=binds, **{"way": "local", **options})


def checked(trained: Trained) -> Trained:
    assert not trained.failed, trained.answers[0].text
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
    return trained


class TestMeeting:
    @pytest.mark.parametrize("way", ["local", "diloco"])
    def test_an_evaluation_sees_what_all_ranks_have_come_to(self, three: Ranks, way: str) -> None:
        """Three updates since the last mean part them otherwise; a look does not end DiLoCo's round."""
        names = notebook(DEFINE)
        look = """
    if len(losses) == 3:
        model.eval()
        with torch.no_grad(): score = model(x_all).sum().item()
        model.train()
        torch.distributed.all_gather_object(seen, (score, model[0].weight.sum().item(), model[1].running_mean.tolist()))
"""
        checked(run(three, names, LOOP + look, way=way, every=100))
        assert (names["seen"] == [names["seen"][0]] * 3) == (way == "local")

    def test_a_state_that_is_kept_is_what_all_ranks_have_come_to(self, three: Ranks) -> None:
        names = notebook(DEFINE)
        keep = """
    if len(losses) == 3:
        kept = {name: one.tolist() for name, one in model.state_dict().items()}
        torch.distributed.all_gather_object(seen, kept)
"""
        checked(run(three, names, LOOP + keep, every=100))
        assert names["seen"] == [names["seen"][0]] * 3

    def test_a_rank_that_evaluates_alone_is_waited_for(self, three: Ranks) -> None:
        names = notebook(DEFINE)
        alone = """
    if torch.distributed.get_rank() == 1 and len(losses) in (2, 9):
        with torch.no_grad(): model(x)
    if torch.distributed.get_rank() == 0 and len(losses) == 6:
        state = model.state_dict()
"""
        checked(run(three, names, LOOP + alone, every=4))
        assert len(names["losses"]) == 15

    def test_ranks_that_end_a_loop_apart_are_told_of(self, three: Ranks) -> None:
        names = notebook(DEFINE)
        early = "    if torch.distributed.get_rank() == 0 and len(losses) == 5: break\n"
        trained = run(three, names, LOOP + early, every=8)
        assert trained.failed
        text = trained.answers[0].text
        assert "different numbers of updates (5, 8, 8)" in text
        assert names["losses"] == []
        checked(run(three, names, LOOP, every=8))

    def test_ranks_that_end_a_loop_apart_before_a_mean_meet_at_its_end(self, three: Ranks) -> None:
        early = "    if len(losses) == 5 + torch.distributed.get_rank(): break\n"
        names = notebook(DEFINE)
        checked(run(three, names, LOOP + early + LOOP, every=8))
        assert len(names["losses"]) == 20

    def test_a_step_that_calls_the_model(self, three: Ranks) -> None:
        names = notebook(DEFINE + "opt = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)")
        source = """
for x, y in loader:
    def closure():
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss
    opt.step(closure)
"""
        checked(run(three, names, source, every=4))
        checked(run(three, names, source, way="auto"))


class TestHowOften:
    def test_less_often_where_the_loss_does_not_fall(self, three: Ranks) -> None:
        falls = """
model, opt, losses = nn.Linear(1, 1, bias=False), None, []
opt = torch.optim.SGD(model.parameters(), lr=RATE)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(900, 1)), batch_size=1)
"""
        loop = """
for (x,) in loader:
    loss = model(x).sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
"""
        for rate, every in ((0.0, 2), (0.01, EVERY["local"])):
            trained = checked(run(three, notebook(f"{DEFINE}\nRATE = {rate}\n{falls}"), loop))
            assert trained.answers[0].details["every"] == every
            assert f"at the end every {every} updates" in trained.notes[0]
        trained = checked(run(three, notebook(f"{DEFINE}\nRATE = 0.0\n{falls}"), loop, every=6))
        assert trained.answers[0].details["every"] == 6

    @pytest.mark.parametrize("why", ["nothing", "batch", "scaler"])
    def test_it_is_tried_where_updates_are_alike(self, three: Ranks, why: str) -> None:
        scaler = "scaler = torch.amp.GradScaler('cpu', enabled=False)\n" if why == "scaler" else ""
        many = LOOP.replace("\n", "\n    ").replace("    for", "for _ in range(25):\n    for", 1)
        options = {"batch": 12} if why == "batch" else {}
        trained = checked(run(three, notebook(DEFINE), scaler + many, way="auto", **options))
        seconds = trained.answers[0].details["step_s"]
        assert seconds
        assert ("local" in seconds) == (why == "nothing")


LEAVES = """
import torch
from torch import nn
from deepseek_lab.distributed.worker.apart import Apart
from deepseek_lab.distributed.worker.exchange import Exchange
torch.manual_seed(0)
model = nn.Linear(40, 30)
opt = MAKE
def same(tensors):
    flat = torch.cat([one.detach().reshape(-1) for one in tensors])
    of_all = [torch.empty_like(flat) for _ in range(3)]
    torch.distributed.all_gather(of_all, flat)
    return all(torch.equal(one, flat) for one in of_all), torch.stack(of_all).mean(0), flat
def kept(): return [one for each in opt.state.values() for one in each.values() if one.numel() > 1]
exchange = Exchange()
apart = Apart(exchange, 100, lambda: 1.0)
apart.add(opt, list(model.parameters()))
for number in range(5):
    for one in model.parameters(): one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(rank))
    opt.step()
    apart.stepped(opt, lambda: ())
parted, mean, _ = same(kept())
apart.leave(lambda: ())
together, _, now = same(kept())
exchange.close()
(parted, together, same(model.parameters())[0], bool((now - mean).abs().max() < 0.02 * mean.abs().max()), apart.differ)
"""


@pytest.mark.parametrize(
    "made",
    [
        "SGD(model.parameters(), lr=0.1, momentum=0.9)",
        "Adam(model.parameters())",
        "Adagrad(model.parameters())",
    ],
)
def test_what_optimizers_keep_is_the_mean_afterwards(run: Run, made: str) -> None:
    request = run(LEAVES.replace("MAKE", f"torch.optim.{made}"))
    expected = str((False, True, True, True, False))
    assert [one.value for one in request.answers.values()] == [expected] * 3, request.answers[0].text
