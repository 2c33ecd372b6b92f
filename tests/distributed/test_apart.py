"""Ranks that train apart between means of their parameters: when they meet, how often, and how that ends."""

from __future__ import annotations

from typing import Any

import pytest

from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import EVERY, Trained, train
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook
from tests.distributed.conftest import Run

ADAM = "LBFGS, opt = opt, torch.optim.Adam(model.parameters(), lr=0.02)\n"
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
        assert "different numbers of updates (5, 9, 9)" in text
        assert names["losses"] == []
        checked(run(three, names, LOOP, every=8))

    def test_ranks_that_end_a_loop_apart_before_a_mean_meet_at_its_end(self, three: Ranks) -> None:
        early = "    if len(losses) == 5 + torch.distributed.get_rank(): break\n"
        names = notebook(DEFINE)
        checked(run(three, names, LOOP + early + LOOP, every=8))
        assert len(names["losses"]) == 20

    def test_a_rank_that_evaluates_alone_before_a_collective(self, three: Ranks) -> None:
        """The others are in the collective already, or in one that choosing calls."""
        names = notebook(DEFINE)
        alone = """
    if len(losses) in (2, 3, 6, 17):
        if torch.distributed.get_rank() == 0:
            state = model.state_dict()
            with torch.no_grad(): score = model(x_all).sum()
        torch.distributed.barrier()
    if torch.distributed.get_rank() == 2:
        state = model.state_dict()
"""
        many = LOOP.replace("\n", "\n    ").replace("    for", "for _ in range(4):\n    for", 1).rstrip()
        for way in ("local", "auto"):
            checked(run(three, names, many + alone.replace("\n", "\n    "), way=way))

    @pytest.mark.parametrize("way", ["local", "auto"])
    def test_an_evaluation_in_inference_mode(self, three: Ranks, way: str) -> None:
        names = notebook(DEFINE)
        look = """
    if len(losses) % 3 == 0:
        with torch.inference_mode(): model.eval()(x_all)
        model.train()
"""
        checked(run(three, names, LOOP + look, way=way))

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
        for before in ("print(nn.functional.cross_entropy(model(x_all), y_all).item())\n", ADAM + LOOP):
            names = notebook(DEFINE + "opt = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)")
            trained = checked(
                run(three, names, before + "opt = LBFGS\n" * (before[0] != "p") + source, way="auto")
            )
            assert trained.answers[0].details["way"] not in {"local", "diloco"}


SEVERAL = """
import torch
from torch import nn
torch.manual_seed(0)
first, second = nn.Linear(8, 6), nn.Linear(6, 1)
x_all = torch.randn(180, 8)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x_all), batch_size=4)
losses = []
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = first, second
    def forward(self, x, skips):
        hidden = self.first(x)
        return hidden.square().mean() + (0.0 if skips else self.second(hidden).mean())
branches = Branches()
def parameters(): return [*first.parameters(), *second.parameters()]
def made(parameters): return torch.optim.Adam(parameters, lr=0.02)
def updated(optimizer, loss):
    for one in parameters(): one.grad = None
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
CELLS = {
    "a parameter of one element": """
both = made(parameters())
for (x,) in loader: updated(both, second(first(x)).square().mean())
""",
    "two optimizers of the same parameters": """
whole, half = made(parameters()), made(first.parameters())
for (x,) in loader:
    updated(whole, second(first(x)).square().mean())
    updated(half, first(x).exp().mean())
""",
    "an optimizer anew": """
for number, (x,) in enumerate(loader):
    if number % 3 == 0: both = made(parameters())
    updated(both, second(first(x)).square().mean())
""",
    "another group later": """
both = made(first.parameters())
for number, (x,) in enumerate(loader):
    if number == 5: both.add_param_group({"params": list(second.parameters())})
    updated(both, second(first(x)).square().mean())
""",
    "a part that is called later": """
both = made(parameters())
for number, (x,) in enumerate(loader):
    updated(both, (second(first(x)) if number > 5 else first(x)).square().mean())
""",
    "a part that some ranks leave out": """
both = made(parameters())
for number, (x,) in enumerate(loader):
    updated(both, branches(x, skips=number % 2 == torch.distributed.get_rank()))
""",
    "a forward pass before the mean of others": """
whole, half = made(first.parameters()), made(second.parameters())
for (x,) in loader:
    hidden = first(torch.tanh(first(x) @ first.weight))
    updated(half, second(hidden.detach()).square().mean())
    updated(whole, second(hidden).mean())
""",
    "updates by hand": """
for (x,) in loader:
    for one in parameters(): one.grad = None
    second(first(x)).square().mean().backward()
    with torch.no_grad():
        for one in parameters(): one -= 0.02 * one.grad
""",
}


@pytest.mark.parametrize("way", ["local", "diloco", "auto"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_ranks_are_alike_whatever_updates_what(three: Ranks, cell: str, way: str) -> None:
    names = notebook(SEVERAL)
    twice = "for _ in range(2):" + cell.replace("\n", "\n    ")
    checked(run(three, names, twice, way=way, every=None if way == "auto" else 4))
    before = sum(one.sum().item() for one in notebook(SEVERAL)["parameters"]())
    assert sum(one.sum().item() for one in names["parameters"]()) != pytest.approx(before)


ANEW = """
import torch
from deepseek_lab.distributed.worker.apart import Apart
from deepseek_lab.distributed.worker.exchange import Exchange
model = torch.nn.Linear(4, 3)
exchange = Exchange()
apart = Apart(exchange, 4, lambda: 1.0)
told = []
for number in range(12):
    if number % 3 == 0: opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for one in model.parameters(): one.grad = torch.randn(one.shape)
    apart.begins(opt, number // 3, list(model.parameters()))
    opt.step()
    apart.stepped(opt, lambda: ())
    told.append(apart.differ)
exchange.close()
told
"""


def test_an_optimizer_that_takes_the_place_of_another_goes_on_with_its_round(run: Run) -> None:
    request = run(ANEW)
    expected = str([True, True, True, False] * 3)
    assert [one.value for one in request.answers.values()] == [expected] * 3, request.answers[0].text


SOME = """
import torch
from deepseek_lab.distributed.worker import states
from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.local_steps import LocalSteps
first, second = (torch.nn.Parameter(torch.ones(size)) for size in (3, 2))
opt = torch.optim.Adam([first, second])
for number in range(2 + rank):
    for one in (second, first): one.grad = torch.full_like(one, float(rank))
    if rank == 1: second.grad = None
    opt.step()
exchange = Exchange()
states.agree(LocalSteps(exchange), {0: opt})
exchange.close()
[[name for name, one in (("first", first), ("second", second)) if opt.state.get(one)], float(opt.state[first]["step"])]
"""


def test_what_only_some_ranks_keep_begins_anew(run: Run) -> None:
    """And counts of updates are the largest: here rank 2's."""
    request = run(SOME)
    assert [one.value for one in request.answers.values()] == [str([["first"], 4.0])] * 3, request.answers[
        0
    ].text


ADVERSARIAL = """
import torch
from torch import nn
from deepseek_lab.distributed.worker.replicas import Replicas
torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 8))
critic = nn.Linear(8, 1)
g_opt, d_opt = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
torch.manual_seed(rank)
told = []
with Replicas("local", 100) as replicas:
    for number in range(6):
        fake = generator(torch.randn(5, 4))
        d_opt.zero_grad()
        (critic(fake.detach()) - critic(torch.randn(5, 8))).mean().backward()
        d_opt.step()
        if number == 4: replicas._exchange.keep("plain")  # as a choice does
        g_opt.zero_grad()
        critic(fake).mean().backward()
        g_opt.step()
        flat = torch.cat([one.detach().reshape(-1) for net in (generator, critic) for one in net.parameters()])
        kept = [one for opt in (g_opt, d_opt) for state in opt.state.values() for one in state.values()]
        flat = torch.cat([flat, *(one.reshape(-1) for one in kept)])
        of_all = [torch.empty_like(flat) for _ in range(3)]
        torch.distributed.all_gather(of_all, flat)
        told.append(all(torch.equal(one, flat) for one in of_all))
told
"""


def test_coming_together_between_a_forward_pass_and_its_backward_pass(run: Run) -> None:
    """The generator's gradients are each rank's own then, for its forward pass was before."""
    request = run(ADVERSARIAL)
    expected = str([True, False, False, False, True, True])
    assert [one.value for one in request.answers.values()] == [expected] * 3, request.answers[0].text


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
        often = loop + "    with torch.no_grad(): model(x)\n"  # no round ends by itself
        trained = checked(run(three, notebook(f"{DEFINE}\nRATE = 0.0\n{falls}"), often))
        assert trained.answers[0].details["every"] == 2

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
model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 1))
opt = MAKE
def same(tensors):
    flat = torch.cat([one.detach().reshape(-1) for one in tensors])
    of_all = [torch.empty_like(flat) for _ in range(3)]
    torch.distributed.all_gather(of_all, flat)
    return all(torch.equal(one, flat) for one in of_all), torch.stack(of_all).mean(0), flat
def kept(): return [one for each in opt.state.values() for name, one in each.items() if name != "step"]
exchange = Exchange()
apart = Apart(exchange, 100, lambda: 1.0)
apart.begins(opt, 0, list(model.parameters()))
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
