from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.distributed.mesh import Mesh, mesh_of
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.scaling.mesh import Layout, predicted
from deepseek_lab.distributed.scaling.plan import Cluster
from deepseek_lab.distributed.scaling.predict import Compute
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.distributed.worker.mesh import trial
from deepseek_lab.distributed.worker.mesh.batches import Batch
from deepseek_lab.distributed.worker.mesh.search import Found, search
from deepseek_lab.distributed.worker.mesh.stages import balanced, course
from deepseek_lab.notebook import cells
from tests.distributed.cells import notebook

GPT = """
import copy, math, os, time, torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

LENGTH, WORDS, WIDTH, HEADS = 6, 256, 16, 4
generator = torch.Generator().manual_seed(1)
X = torch.randint(WORDS, (36, LENGTH), generator=generator)
Y = torch.roll(X, -1, 1)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
    def forward(self, x):
        b, t, c = x.size()
        parts = (one.view(b, t, HEADS, c // HEADS).transpose(1, 2) for one in self.c_attn(x).split(c, dim=2))
        y = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH), nn.Dropout(DROP))
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.1)
        self.h = nn.ModuleList(Block() for _ in range(4))
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.lm_head.weight, self.unused = self.wte.weight, nn.Linear(2, 2)
    def forward(self, words):
        x = self.wte(words) + self.wpe[: words.shape[1]]
        for block in self.h: x = block(x)
        return self.lm_head(self.ln_f(x))

def loss_of(logits, y): return F.cross_entropy(logits.view(-1, WORDS), y.view(-1))
losses, seen = [], []
"""
LOOP = """
for epoch in range(EPOCHS):
    for x, y in loader:
        loss = loss_of(model(x), y)
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()
        losses.append(loss.item())
"""
SGD, ADAMW = "SGD(model.parameters(), 0.1, momentum=0.9)", "AdamW(model.parameters(), 0.01)"
MESHES = {
    "tensor": Mesh(tensor=2),
    "pipeline": Mesh(pipeline=2, micro_batches=3),
    "data, tensor": Mesh(data=2, tensor=2),
    "data, pipeline": Mesh(data=2, pipeline=2, micro_batches=2),
    "pipeline, tensor": Mesh(pipeline=2, tensor=2, micro_batches=2),
}


def make(batch: int, epochs: int, optimizer: str = SGD, drop: float = 0.0) -> dict[str, Any]:
    return notebook(
        f"DROP, EPOCHS = {drop}, {epochs}\n{GPT}\ntorch.manual_seed(0)\nmodel = GPT()\n"
        f"opt = torch.optim.{optimizer}\nloader = DataLoader(TensorDataset(X, Y), batch_size={batch})"
    )


def ranks_of(num: int) -> Callable[[], Iterator[Ranks]]:
    def started() -> Iterator[Ranks]:
        made = Ranks(num)
        made.start()
        yield made
        made.stop()

    return started


two = pytest.fixture(scope="module", name="two")(ranks_of(2))
four = pytest.fixture(scope="module", name="four")(ranks_of(4))


def run(ranks: Ranks, names: dict[str, Any], source: str, mesh: Mesh, **options: Any) -> Trained:
    if len(ranks.live) < len(ranks):
        ranks.restart()
    seen = cells.names(source)
    return train(
        ranks,
        names,
        source,
        "cell",
        uses=seen.loads | seen.changes,
        binds=seen.binds | seen.changes,
        strategy="mesh",
        mesh=mesh,
        **options,
    )


def parameters(names: dict[str, Any]) -> list[Tensor]:
    return [one.detach().clone() for one in names["model"].parameters()]


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(one["model"].parameters(), other["model"].parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def states_apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far the states of optimizers are from each other."""
    pairs = list(zip(one["model"].parameters(), other["model"].parameters(), strict=True))
    states = [(one["opt"].state[a], other["opt"].state[b]) for a, b in pairs if a.grad is not None]
    assert states
    assert all(a.keys() == b.keys() for a, b in states)
    return max(
        (torch.as_tensor(a[key]) - torch.as_tensor(b[key])).abs().max().item() for a, b in states for key in a
    )


# Training.


def trains_alike(ranks: Ranks, mesh: Mesh, optimizer: str) -> Trained:
    here, there = make(12, 2, optimizer), make(12 // mesh.data, 2, optimizer)
    exec(LOOP, here)
    model, weight = there["model"], there["model"].wte.weight
    trained = run(ranks, there, LOOP, mesh)
    assert not trained.failed, trained.answers[0].text
    assert furthest(here, there) < 1e-5
    assert states_apart(here, there) < 1e-5
    assert there["norm"].item() == pytest.approx(here["norm"].item(), abs=1e-5)
    if mesh.data == 1:
        assert there["losses"] == pytest.approx(here["losses"], abs=1e-5)
    assert there["model"] is model
    assert model.wte.weight is weight
    assert model.lm_head.weight is weight
    assert type(there["loss"]) is Tensor
    assert not any(vars(one)[name] for one in model.modules() for name in vars(one) if "_hooks" in name)
    assert len({one.details["checksum"] for one in trained.answers.values()}) == 1
    assert model(there["X"]).shape == (36, 6, 256)
    return trained


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_it_is_training_with_the_whole_batch_in_one_process(two: Ranks, name: str, optimizer: str) -> None:
    trained = trains_alike(two, MESHES[name], optimizer)
    for what, (_, whole) in trained.held[0].items():
        parts = [held[what][0] for held in trained.held.values()]
        assert sum(parts) >= 0.99 * whole
        # The first stage has the words of the tied weight.
        assert max(parts) < (0.72 if name == "tensor" else 0.9) * whole, what
    (plan,) = trained.answers[0].details["plans"]
    sizes = [held["parameter_bytes"] for held in plan["ranks"]]
    assert sizes == [trained.held[rank]["parameters"][0] for rank in range(2)]
    states = [held["state_bytes"] for held in plan["ranks"]]
    assert states == pytest.approx([trained.held[rank]["states"][0] for rank in range(2)], rel=0.05)
    if name == "tensor":
        assert "h.0.attn.c_attn (3 blocks) by columns, then h.0.attn.c_proj by rows" in plan["groups"]
        assert "h.3.mlp.0 by columns, then h.3.mlp.2 by rows" in plan["groups"]
        assert "wte by words; lm_head by columns, put together" in plan["groups"]
        assert plan["layers_bytes"] > 0
    else:
        assert plan["ranks"][0]["blocks"][:2] == ["wte", "h.0"]
        assert plan["ranks"][1]["blocks"][-2:] == ["ln_f", "lm_head"]
        assert plan["bubble"] == pytest.approx(1 / 4)
        assert not plan["means"]
        # An activation of all samples and the tied weight, there and back.
        assert plan["stages_bytes"] == 2 * 4 * (12 * 6 * 16 + 256 * 16)


@pytest.mark.parametrize("name", ["data, tensor", "data, pipeline", "pipeline, tensor"])
def test_dimensions_go_together(four: Ranks, name: str) -> None:
    trained = trains_alike(four, MESHES[name], ADAMW)
    (plan,) = trained.answers[0].details["plans"]
    assert len(plan["ranks"]) == 4
    assert plan["mesh"] == name.replace(", ", "=2,") + "=2"
    assert (plan["copies_bytes"] > 0) == name.startswith("data")
    assert trained.answers[0].details["global_batches"] == [12]


EXTRAS = """
schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.7)
everything = list(model.parameters())
model.wpe.requires_grad_(False)
with torch.no_grad():
    seen.append(loss_of(model(X), Y).item())
for epoch in range(3):
    for number, (x, y) in enumerate(loader):
        logits = model(x)
        loss = loss_of(logits, y)
        loss.backward()
        losses.append(loss.detach())
        try:
            model(torch.zeros(2, LENGTH))
        except (RuntimeError, TypeError):
            failed = True
        if number % 2:
            seen.append(sum(one.grad.norm() ** 2 for one in everything if one.grad is not None).sqrt().item())
            if all(bool(one.grad.isfinite().all()) for one in everything if one.grad is not None):
                nn.utils.clip_grad_norm_(everything, 0.5)
                opt.step()
            opt.zero_grad()
        if loss < 0 or number == 5: break
    schedule.step()
    model.wpe.requires_grad_(True)
    model.eval()
    with torch.inference_mode(epoch == 1), torch.no_grad():
        guess = model(X).argmax(-1)
        seen += [loss_of(model(X), Y).item(), (guess == Y).float().mean().item(), float(guess.sum())]
        words = guess[:2].tolist()
    model.train()
    if epoch == 0:
        best = {name: value.clone() for name, value in model.state_dict().items()}
        kept = copy.deepcopy(opt.state_dict())
        kinds = {type(one) for one in [*best.values(), *(one["exp_avg"] for one in kept["state"].values())]}
    if epoch == 1:
        model.load_state_dict(best)
        opt.load_state_dict(kept)
        with torch.no_grad():
            model.ln_f.weight.clamp_(0.5, 0.9)
        largest = [model.lm_head.weight.detach().abs().max()]
line = f"{loss:.3f} {torch.stack(losses).mean():.3f}"
"""


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_what_a_loop_does_beside_training(two: Ranks, name: str) -> None:
    """Schedules, accumulation, norms, evaluation, errors, states kept and loaded, layers thawed, an early end, and a
    last batch that does not come out even."""
    here, there = make(10, 3, ADAMW), make(10, 3, ADAMW)
    exec(EXTRAS, here)
    trained = run(two, there, EXTRAS, MESHES[name])
    assert not trained.failed, trained.answers[0].text
    assert there["failed"]
    assert furthest(here, there) < 1e-5
    assert there["seen"] == pytest.approx(here["seen"], abs=1e-4)
    assert there["words"] == here["words"]
    assert there["line"] == here["line"]
    assert [type(one) for one in there["losses"]] == [Tensor] * 12
    assert there["schedule"].get_last_lr() == here["schedule"].get_last_lr()
    assert torch.allclose(there["largest"][0], here["largest"][0], atol=1e-5)
    assert there["kinds"] == {Tensor}
    for key, value in here["best"].items():
        assert torch.allclose(there["best"][key], value, atol=1e-5)


ENCODER = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.look = nn.MultiheadAttention(WIDTH, HEADS)
        self.head = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(inplace=True), nn.Linear(24, WORDS))
    def forward(self, words):
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        x = self.encoder(self.embed(words), mask=mask, is_causal=True).transpose(0, 1)
        x, self.weights = self.look(x, x, x, key_padding_mask=words > 250)
        return {"logits": self.head(x.transpose(0, 1)), "length": words.shape[1]}
torch.manual_seed(0)
model = Encoder()
opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
"""


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_layers_of_pytorch_itself(two: Ranks, name: str) -> None:
    loop = LOOP.replace("loss_of(model(x), y)", "loss_of(model(x)['logits'], y)").replace(
        "opt.zero_grad()", "opt.zero_grad(set_to_none=False)"
    )
    here, there = make(12, 2), make(12, 2)
    for names in (here, there):
        exec(ENCODER, names)
    exec(loop, here)
    trained = run(two, there, loop, MESHES[name])
    assert not trained.failed, trained.answers[0].text
    assert furthest(here, there) < 1e-5
    if name == "tensor":
        (plan,) = trained.answers[0].details["plans"]
        assert plan["whole"] == {}
        assert "encoder.layers.1.self_attn by heads" in plan["groups"]
        assert torch.allclose(here["model"].weights, there["model"].weights, atol=1e-5)


def test_a_model_made_in_the_cell_and_another_that_is_trained_in_turns(two: Ranks) -> None:
    source = """
torch.manual_seed(3)
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
judge = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt, other = torch.optim.Adam(model.parameters(), 0.01), torch.optim.Adam(judge.parameters(), 0.01)
for _ in range(2):
    for x, y in loader:
        made = model(x / 256)
        loss = judge(made.detach()).square().mean() + (judge(y[:, :4] / 256) - 1).square().mean()
        other.zero_grad(); loss.backward(); other.step()
        loss = (judge(model(x / 256)) - 1).square().mean()
        opt.zero_grad(); loss.backward(); opt.step()
held = {"grad": [model[0].weight.grad], "made": made}
"""
    here = make(12, 1)
    exec(source, here)
    for name in ("tensor", "pipeline"):
        there = make(12, 1)
        del there["model"], there["opt"]
        trained = run(two, there, source, MESHES[name])
        assert not trained.failed, trained.answers[0].text
        assert furthest(here, there) < 1e-5
        for a, b in zip(here["judge"].parameters(), there["judge"].parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        assert type(there["model"][0].weight) is nn.Parameter
        assert torch.allclose(there["held"]["grad"][0], here["held"]["grad"][0], atol=1e-5)
        assert torch.allclose(there["held"]["made"], here["held"]["made"], atol=1e-5)
        assert len(trained.answers[0].details["plans"]) == 2


WHOLE = """
from torch.utils.checkpoint import checkpoint
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = GPT()
    def forward(self, *, words, labels=None, scale=2.0):
        x = self.net.wte(words) + self.net.wpe[: words.shape[1]]
        for block in self.net.h: x = checkpoint(block, x, use_reentrant=False)
        logits = self.net.lm_head(self.net.ln_f(x))
        return {"logits": logits, "loss": None if labels is None else loss_of(logits, labels) * scale, "scale": scale}
torch.manual_seed(0)
model = Whole()
opt = torch.optim.AdamW(model.parameters(), 0.01, foreach=True)
"""
LOSS_WITHIN = """
for epoch in range(2):
    for x, y in loader:
        out = model(words=x, labels=y)
        opt.zero_grad()
        out["loss"].backward()
        opt.step()
    if not epoch: average = copy.deepcopy(model)
    with torch.no_grad():
        for mean, one in zip(average.parameters(), model.parameters()): mean.lerp_(one, 0.5)
        seen.append(average(words=X)["logits"].square().mean().item())
"""


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_a_loss_that_the_model_gives_recomputed_activations_and_a_copy(two: Ranks, name: str) -> None:
    here, there = make(12, 2), make(12, 2)
    for names in (here, there):
        exec(WHOLE, names)
    exec(LOSS_WITHIN, here)
    trained = run(two, there, LOSS_WITHIN, MESHES[name])
    assert not trained.failed, trained.answers[0].text
    assert furthest(here, there) < 1e-5
    assert there["seen"] == pytest.approx(here["seen"], abs=1e-5)
    given = [one["average"](words=one["X"])["logits"] for one in (here, there)]
    assert torch.allclose(*given, atol=1e-4)
    assert there["out"]["scale"] == 2.0
    (plan,) = trained.answers[0].details["plans"]
    assert plan["means"] == (name == "pipeline")
    kept = [vars(one) for one in there["average"].modules()]
    assert not any(value for own in kept for key, value in own.items() if "_hooks" in key)


def test_an_optimizer_goes_on_on_another_mesh(two: Ranks) -> None:
    here, there = make(12, 6, ADAMW), make(12, 2, ADAMW)
    exec(LOOP, here)
    kept = None
    for mesh in (MESHES["tensor"], MESHES["pipeline"], MESHES["tensor"]):
        assert not run(two, there, LOOP, mesh).failed
        state = there["opt"].state[there["model"].wte.weight]["exp_avg"]
        assert kept is None or state is kept
        kept = state
    assert furthest(here, there) < 1e-5
    assert states_apart(here, there) < 1e-5


def test_shares_of_a_batch_that_do_not_come_out_even(four: Ranks) -> None:
    for name in ("data, tensor", "data, pipeline"):
        here, there = make(9, 1), make(9, 1)
        exec(LOOP, here)
        trained = run(four, there, LOOP, MESHES[name], batch=9)
        assert not trained.failed, trained.answers[0].text
        assert furthest(here, there) < 1e-5
        assert trained.answers[0].details["global_batches"] == [9]


def test_random_numbers_are_alike_where_they_have_to_be(two: Ranks) -> None:
    """Of the cell on all ranks, and of no two columns that ranks share."""
    source = """
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Dropout(0.5))
        self.second = nn.Linear(64, 64, bias=False)
        for one in (self.first[0], self.second): nn.init.eye_(one.weight)
    def forward(self, x): return self.second(self.first(x))
model = Noise()
for _ in range(4):
    out = model(torch.ones(8, 64))
    out.sum().backward()
kept = (out.detach() > 0)
told = [None] * 2
torch.distributed.all_gather_object(told, (torch.rand(3).tolist(), torch.as_tensor(kept * 1.0).tolist()))
"""
    for name in ("tensor", "pipeline"):
        there = make(12, 1)
        trained = run(two, there, source, MESHES[name])
        assert not trained.failed, trained.answers[0].text
        (first, mask), (second, same) = there["told"]
        assert first == second
        assert mask == same
        kept = torch.tensor(mask) > 0
        assert 0.3 < kept.float().mean() < 0.7
        left, right = kept.chunk(2, 1)
        assert not torch.equal(left, right)


def test_a_rank_holds_its_part(two: Ranks) -> None:
    source = """
import gc, time
def live():
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, nn.Parameter) and not one.is_meta:
            found[one.untyped_storage()._cdata] = one.untyped_storage().nbytes()
    return sum(found.values())
time.sleep(1)  # what the request before has sent is let go of when it has gone
before = live() - sum(one.numel() * 4 for one in model.parameters())
loss_of(model(X[:2]), Y[:2]).backward()
opt.step()
told = [None] * 2
torch.distributed.all_gather_object(told, live() - before)
"""
    for name in ("tensor", "pipeline"):
        names = make(12, 1, ADAMW)
        exec("WIDTH = 96\nmodel = GPT()\nopt = torch.optim.AdamW(model.parameters())", names)
        whole = 4 * sum(one.numel() * 4 for one in names["model"].parameters())
        trained = run(two, names, source, MESHES[name])
        assert not trained.failed, trained.answers[0].text
        assert max(names["told"]) < 0.66 * whole
        assert sum(names["told"]) > whole


# What goes wrong.


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_a_rank_that_dies_is_replaced_and_training_goes_on(two: Ranks, name: str, tmp_path: Path) -> None:
    source = LOOP + (
        "        time.sleep(0.02)\n"
        "        if len(losses) == 12 and torch.distributed.get_rank() == 1 and not os.path.exists(MARK):\n"
        "            open(MARK, 'w').close()\n            os.kill(os.getpid(), 9)\n"
    )
    here, there = make(12, 6, ADAMW), make(12, 6, ADAMW)
    exec(LOOP, here)
    there["MARK"] = str(tmp_path / "mark")
    trained = run(two, there, source, MESHES[name], save_s=0.1)
    assert not trained.failed, trained.answers[0].text
    assert "rank 1 was ended by SIGKILL" in trained.notes[0]
    assert "it was replaced, and the training " in trained.notes[0]
    assert len(there["losses"]) == 18
    assert furthest(here, there) < 1e-5


def test_a_rank_that_dies_ends_the_training_where_nothing_is_saved(two: Ranks) -> None:
    names = make(12, 6)
    before = parameters(names)
    source = (
        LOOP + "        if len(losses) == 4 and torch.distributed.get_rank() == 1: os.kill(os.getpid(), 9)\n"
    )
    trained = run(two, names, source, MESHES["pipeline"], save_s=0)
    assert trained.answers[1].status == "dead"
    assert "rank 1 was ended by SIGKILL" in trained.answers[1].text
    assert trained.answers[0].status == "unblocked"
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(names), strict=True))


def test_an_error_on_one_rank_leaves_the_notebook_as_it_was(two: Ranks) -> None:
    names = make(12, 3)
    before = parameters(names)
    source = (
        LOOP + "        if len(losses) == 3 and torch.distributed.get_rank() == 1: raise ValueError('no')\n"
    )
    for name in ("tensor", "pipeline"):
        trained = run(two, names, source, MESHES[name])
        assert [trained.answers[rank].status for rank in range(2)] == ["unblocked", "error"]
        assert trained.answers[1].text.endswith("ValueError: no")
        assert all(torch.equal(a, b) for a, b in zip(before, parameters(names), strict=True))
    trains_alike(two, MESHES["tensor"], SGD)


NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
    def forward(self, x): return FORWARD
model = Net()
model(torch.randn(6, 6))
"""
REFUSED = {
    "an odd number": (
        "tensor",
        "model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)); model(torch.ones(2, 6))",
        "no layers of Sequential can be shared by 2 ranks:\n  0: 5 outputs cannot be shared by 2 ranks",
    ),
    "a norm": (
        "tensor",
        "model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)); model(torch.ones(2, 6))",
        "0: layer_norm() over what is cut",
    ),
    "a part": (
        "tensor",
        "model.h[0](torch.ones(2, 6, 16)); model(X)",
        "called as a whole after a part of it",
    ),
    "one block": (
        "pipeline",
        "model = nn.Linear(6, 6); model(torch.ones(2, 6))",
        "Linear is one block, which cannot be 2 stages\n  try: --strategy tensor",
    ),
    "a batch norm": (
        "pipeline",
        "model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)); model(torch.ones(6, 6))",
        "1 (BatchNorm1d) computes over a whole batch, which goes through in 3 parts\n  try: --micro-batches 1",
    ),
    "a layer again": (
        "pipeline",
        NET.replace("FORWARD", "self.c(self.a(self.b(self.a(x))))"),
        "a is called again after other blocks",
    ),
    "a mean of samples": (
        "pipeline",
        NET.replace("FORWARD", "self.b(self.a(x) - self.a(x).mean(0))"),
        "Net gives something else when its batch goes through in 3 parts",
    ),
    "batches that differ": (
        "tensor",
        "model(torch.full((2, 6), torch.distributed.get_rank()))",
        "rank 1 was given another batch than rank 0, with which it shares a copy of the model\n  try: a DataLoader",
    ),
    "gradients apart": (
        "pipeline",
        "torch.autograd.grad(model(X).mean(), [model.wte.weight, model.ln_f.weight])",
        "gradients for them are found by loss.backward().\n  try: %%deepseek distributed --strategy ddp",
    ),
    "a parameter that was held": (
        "pipeline",
        "held = tuple(model.parameters())\nmodel(X)\nheld[0].grad",
        "try: take it from the module again",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused(two: Ranks, what: str) -> None:
    name, source, words = REFUSED[what]
    trained = run(two, make(12, 1), source, MESHES[name])
    assert {one.status for one in trained.answers.values()} <= {"error", "unblocked"}
    assert any(one.status == "error" and words in one.text for one in trained.answers.values())


def test_a_pair_that_computes_otherwise_is_refused(two: Ranks) -> None:
    """Noise is drawn for each part, so that what comes out cannot be compared."""
    noise = "self.d(self.c(x) + torch.randn_like(self.c(x)))"
    names = make(12, 1)
    source = NET.replace("FORWARD", f"self.b(torch.relu(self.a(x))) + {noise}")
    trained = run(two, names, source, MESHES["tensor"])
    assert not trained.failed, trained.answers[0].text
    (plan,) = trained.answers[0].details["plans"]
    assert plan["groups"] == ["a by columns, then b by rows"]
    assert plan["whole"] == dict.fromkeys("cd", "what the model gives differed when it was split")


def test_the_mesh_is_for_the_ranks_that_run(two: Ranks) -> None:
    with pytest.raises(
        TargetError, match=r"the mesh data=2,tensor=2 is for 4 ranks, and 2 run\n  try: %deepseek"
    ):
        run(two, make(12, 1), LOOP, MESHES["data, tensor"])


# Without ranks.


def found(module: nn.Module, *args: Any, num: int = 2) -> Found:
    with trial.unchanged(module):
        return search(module, lambda: trial.seeded(lambda: module(*args)), num)


class Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Two(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], inner: int = 16, after: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(8, inner), nn.Linear(after, 8), between

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.between(self.a(x)))
        return made


@pytest.mark.parametrize(
    ("between", "inner", "blocks"),
    [
        (torch.relu, 16, 1),
        (lambda x: x.relu_().mul(2.0) + torch.ones(16), 16, 1),
        (lambda x: x.view(2, 3, 4, 4).softmax(-1).transpose(1, 2).transpose(1, 2).flatten(2), 16, 1),
        (lambda x: nn.functional.glu(x, -1), 32, 2),
        (lambda x: x[..., :16].sigmoid() * x[..., 16:], 32, 2),
        (lambda x: torch.stack(x.view(2, 3, 2, 16).unbind(2)).sum(0), 32, 2),
        (
            lambda x: (
                (x.view(2, 3, 4, 2, 2).permute(0, 3, 2, 1, 4) * 2).permute(0, 3, 2, 1, 4).reshape(2, 3, 16)
            ),
            16,
            1,
        ),
        (
            lambda x: torch.einsum("bthd,bshd->bths", *[x.reshape(2, 3, 4, 4)] * 2).reshape(2, 3, 12)[..., :],
            16,
            1,
        ),
    ],
)
def test_what_runs_between_two_layers_that_are_split(between: Any, inner: int, blocks: int) -> None:
    module = Two(between, inner, between(torch.ones(2, 3, inner)).shape[-1])
    result = found(module, torch.randn(2, 3, 8))
    assert [group.columns for group in result.groups] == [(("a", blocks),)], result.reasons
    assert result.groups[0].rows == ("b",)


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (lambda x: x - x.mean(-1, keepdim=True), "mean() over what is cut"),
        (lambda x: x.flip(-1), "flip() needs all of its outputs"),
        (lambda x: Apart.apply(x), "an autograd function of one's own"),
        (
            lambda x: x.view(2, 3, 1, 16).expand(2, 3, 1, 16).squeeze(2)[:, :, torch.arange(16)],
            "an index that is",
        ),
        (
            lambda x: x.reshape(96).view(2, 3, 16),
            "put together with what stands before it",
        ),
        (lambda x: x.view(2, 3, 1, 16) @ torch.eye(16), "a product sums over what is cut"),
    ],
)
def test_what_stops_a_split(between: Any, why: str) -> None:
    result = found(Two(between), torch.randn(2, 3, 8))
    assert result.groups == ()
    assert why in result.reasons["a"]


def test_heads_that_cannot_be_shared() -> None:
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    result = found(nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), torch.randn(2, 4, 12))
    assert result.reasons == {"self_attn": "3 heads cannot be shared by 2 ranks"}
    assert [group.rows for group in result.groups] == [("linear2",)]
    x = torch.randn(2, 4, 12)
    assert found(attention, x, x, x, num=3).groups[0].heads == ("",)
    heads = Two(lambda x: x.view(2, 3, 3, 4).tanh().flatten(2), 12, 12)
    assert found(heads, torch.randn(2, 3, 8)).reasons["a"] == "3 heads cannot be shared by 2 ranks"
    assert found(heads, torch.randn(2, 3, 8), num=3).groups[0].rows == ("b",)


def test_weights_that_others_share_stay_whole() -> None:
    module = Two(torch.relu, 16)
    module.other = module.b
    assert len(found(module, torch.randn(2, 8)).groups) == 1
    module.c = nn.Linear(16, 8)
    module.c.weight = module.b.weight
    assert found(module, torch.randn(2, 8)).groups == ()


def test_stages_are_found_and_balanced() -> None:
    assert balanced([1, 1, 1, 1, 4], 2) == [0, 0, 0, 0, 1]
    assert balanced([3, 2, 2, 2], 3) in ([0, 1, 1, 2], [0, 1, 2, 2])
    assert balanced([1, 5, 1], 3) == [0, 1, 2]
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4)), nn.Tanh())
    module = nn.Sequential(nn.Linear(4, 4), layers)
    device = torch.device("cpu")
    made = course(module, lambda: module(torch.ones(2, 4)), 2, 1, device)
    assert [block.name for block in made.blocks] == ["0", "1.0", "1.1", "1.2", "1.3"]
    assert all(block.cost_s > 0 for block in made.blocks)
    assert made.callers == {module, layers}
    small = nn.Sequential(
        nn.ModuleDict({"a": nn.Linear(4, 4)})["a"], nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    )
    made = course(small, lambda: small(torch.ones(2, 4)), 3, 1, device)
    assert [block.name for block in made.blocks] == ["0", "1.0", "1.1"]
    with pytest.raises(TargetError, match=r"has 3 blocks .* cannot be 4 stages\n  try: --mesh pipeline=3"):
        course(small, lambda: small(torch.ones(2, 4)), 4, 1, device)


def test_the_step_of_a_mesh_is_predicted() -> None:
    compute = Compute(1.0, 2.0, 0.4, ())
    fast = Cluster(8, "D", 1 << 30, 1e12, 1e14, 1e18, 1e18)
    none = Layout(1.0, 4, 0, 0, (1.0,), (1.0,), 0)
    made = predicted(none, compute, fast, Mesh(tensor=8), 8)
    assert made.step_s == pytest.approx(3 + 0.4 / 8, rel=1e-3)  # eight times the samples on as many devices
    halves = Layout(0.0, 0, 0, 0, (0.5, 0.5), (0.5, 0.5), 0)
    mesh = Mesh(data=4, pipeline=2, micro_batches=4)
    made = predicted(halves, compute, fast, mesh, 8)
    assert made.step_s == pytest.approx(3 * 5 / 4 + 0.2, rel=1e-3)
    assert made.efficiency == pytest.approx(3.4 / made.step_s)
    assert made.held_bytes == 16 * 4
    slow = Cluster(8, "D", 1 << 30, 1e12, 1e14, 1e9, 1e9)
    half = predicted(Layout(0.5, 4, 10**9, 1, (1.0,), (1.0,), 0), compute, slow, Mesh(tensor=2, data=4), 8)
    assert half.layers_s == pytest.approx(2 * 2 * 0.5, rel=1e-3)  # a ring of two, twice the samples
    assert half.step_s == pytest.approx(2 * 3 * 0.75 + half.layers_s + 0.3, rel=1e-3)


def test_a_trial_leaves_everything_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop, self.calls, self.kept = nn.BatchNorm1d(4), nn.Dropout(0.5), 0, [1]

        def forward(self, x: Tensor) -> Tensor:
            print("called")
            self.calls += 1
            self.kept.append(self.calls)
            self.last = x
            made: Tensor = self.drop(self.norm(x))
            return made

    module, x = Noted(), torch.randn(6, 4)
    torch.manual_seed(5)
    expected, before = torch.rand(3), {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(5)
    with trial.unchanged(module):
        first, second = (trial.seeded(lambda: module(x)) for _ in range(2))
    assert torch.equal(first, second)
    assert bool((first != 0).all())
    assert (module.calls, module.kept) == (0, [1])
    assert not hasattr(module, "last")
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert torch.equal(torch.rand(3), expected)
    assert capsys.readouterr().out == ""


def test_a_batch_in_parts() -> None:
    x, mask = torch.arange(10.0).view(10, 1), torch.ones(3, 3)
    batch = Batch((x,), {"mask": mask, "scale": 2}, 4)
    assert batch.sizes == [3, 3, 2, 2]
    assert [part[0][0].shape[0] for part in batch.parts] == batch.sizes
    assert all(part[1]["mask"] is mask and part[1]["scale"] == 2 for part in batch.parts)
    made = batch.together([{"y": one[0][0] + 1, "loss": one[0][0].mean(), "n": None} for one in batch.parts])
    assert torch.equal(made["y"], x + 1)
    assert made["loss"] == pytest.approx(x.mean().item())
    assert Batch((x,), {}, 20).sizes == [1] * 10
    with pytest.raises(
        TargetError, match="cannot be put together from parts of a batch\n  try: leave it out"
    ):
        batch.together([object() for _ in batch.parts])


@pytest.mark.parametrize(
    ("given", "mesh"),
    [
        ((None, None, None, 2), None),
        (("fsdp", None, None, 2), None),
        (("tensor", None, None, 4), Mesh(tensor=4)),
        (("pipeline", None, None, 2), Mesh(pipeline=2, micro_batches=8)),
        (("pipeline", None, 3, None), Mesh(pipeline=2, micro_batches=3)),
        ((None, "tensor=2, data=2", None, 4), Mesh(data=2, tensor=2)),
        ((None, "data=1,tensor=2,pipeline=2", 5, None), Mesh(pipeline=2, tensor=2, micro_batches=5)),
    ],
)
def test_what_is_asked_for(given: Any, mesh: Mesh | None) -> None:
    assert mesh_of(*given) == mesh


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, "tenser=2", None, 2), "no dimension 'tenser'.*\n  try: --mesh tensor=2"),
        ((None, "tensor", None, 2), "does not know 'tensor'"),
        ((None, "tensor=2,tensor=2", None, 4), "names tensor twice"),
        ((None, "tensor=0", None, 4), "cannot have tensor=0"),
        (
            (None, "data=4", None, 4),
            "copies of the whole model alone\n  try: %%deepseek distributed --strategy ddp",
        ),
        ((None, "data=2,tensor=2", None, 3), "is for 4 ranks, and 3 run"),
        (("ddp", "tensor=2", None, 2), "--strategy ddp has ranks in one dimension"),
        (("tensor", "pipeline=2", None, 2), "has no dimension tensor.*\n  try: --mesh pipeline=2"),
        ((None, "tensor=2", 4, 2), "--micro-batches are for a pipeline"),
        ((None, None, 4, 2), "stages of a pipeline\n  try: .*--strategy pipeline --micro-batches 4"),
        (("pipeline", None, 0, 2), "--micro-batches cannot be 0"),
    ],
)
def test_what_does_not_go_together(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        mesh_of(*given)
