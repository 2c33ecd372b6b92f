"""The same training, bit by bit, beside everything that loops do; and everything of ours is gone afterwards."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.optim import optimizer as optimizers
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from deepseek_lab.inspector.api import inspect
from tests.inspector import data
from tests.inspector.models import CNN, LSTM, Transformer, mlp

Loop = Callable[[], list[Tensor]]
"""Trains, and gives everything that must be the same."""
LOOPS: dict[str, Loop] = {}


def loop(function: Loop) -> Loop:
    LOOPS[function.__name__] = function
    return function


def _state(*modules: nn.Module) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def _classify(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 12, **more: Any
) -> list[Tensor]:
    losses = []
    for _, (x, y) in zip(range(steps), data.batches(data.digits(), 32), strict=False):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *_state(model)]


@loop
def dropout_and_batch_norm() -> list[Tensor]:
    model = nn.Sequential(CNN(), nn.Dropout(0.5), nn.Linear(10, 10))
    return _classify(model, torch.optim.AdamW(model.parameters()))


@loop
def two_models_and_optimizers() -> list[Tensor]:
    maker, judge = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64)), mlp(2)
    of_maker, of_judge = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
    for _, (x, _) in zip(range(10), data.batches(data.digits(), 16), strict=False):
        noise = torch.randn(16, 8)
        loss = (judge(x)[:, 0] - judge(maker(noise).detach())[:, 0]).square().mean()
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()
        of_maker.zero_grad()
        judge(maker(noise))[:, 0].square().mean().backward()
        of_maker.step()
    return _state(maker, judge)


@loop
def clipping_schedule_average_and_evaluation() -> list[Tensor]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=12)
    average = copy.deepcopy(model)
    seen = []
    for step, (x, y) in zip(range(12), data.batches(data.digits(), 32), strict=False):
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)
            model.eval()
            seen.append(model(x).argmax(1) == y)
            model.train()
        if step == 6:
            average = copy.deepcopy(model)
    return [*seen, *_state(model, average)]


@loop
def accumulation_and_tied_weights() -> list[Tensor]:
    model = Transformer(data.text()[1])
    model.head.weight = model.embed.weight
    optimizer = torch.optim.AdamW(model.parameters())
    for number, (x, y) in zip(range(12), data.sentences(4), strict=False):
        (data.over_letters(model(x), y) / 3).backward()
        if number % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    return _state(model)


@loop
def lstm_with_closure() -> list[Tensor]:
    model = LSTM(data.text()[1], 16)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)
    x, y = next(data.sentences(4))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = data.over_letters(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return _state(model)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


class _Odd(nn.Module):
    """Operators in place, a function of its own, and a part that is computed again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        x = x.mul(1.5).add_(0.1).relu_()
        x = _Double.apply(x)
        return self.c(checkpoint(self.b, x, use_reentrant=False))  # type: ignore[no-any-return]


@loop
def in_place_custom_function_checkpoint() -> list[Tensor]:
    model = _Odd()
    return _classify(model, torch.optim.Adam(model.parameters()))


@loop
def hooks_of_the_users() -> list[Tensor]:
    model, seen = mlp(), []
    model[2].register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    model[2].register_full_backward_hook(lambda module, given, gave: seen.append(gave[0].clone()))
    model[4].register_forward_hook(lambda module, args, out: out * 0.5)
    return [*_classify(model, torch.optim.Adam(model.parameters())), *seen]


@loop
def workers_and_generators() -> list[Tensor]:
    model = mlp()
    loader = DataLoader(TensorDataset(*data.digits()), 128, shuffle=True, num_workers=1)
    optimizer = torch.optim.Adam(model.parameters())

    def steps() -> Any:
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            yield loss.detach()

    losses = []
    for number, value in enumerate(steps()):
        losses.append(value)
        if number == 5:
            break
    return [*losses, *_state(model)]


@loop
def autocast_and_scaler() -> list[Tensor]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    for _, (x, y) in zip(range(8), data.batches(data.digits(), 32), strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return _state(model)


@loop
def by_hand_in_evaluation_mode() -> list[Tensor]:
    model = CNN().eval()
    for _, (x, y) in zip(range(6), data.batches(data.digits(), 32), strict=False):
        for parameter in model.parameters():
            parameter.grad = None
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]
    return _state(model)


def _language(model: nn.Module) -> list[Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    ids = data.text()[0][:256].view(4, 64)
    for _ in range(6):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _state(model)


_SIZE = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@loop
def bert() -> list[Tensor]:
    return _language(transformers.BertForMaskedLM(transformers.BertConfig(**_SIZE, intermediate_size=64)))


@loop
def gpt2() -> list[Tensor]:
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=100)
    return _language(transformers.GPT2LMHeadModel(config))


@loop
def vit() -> list[Tensor]:
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=10,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _, (x, y) in zip(range(6), data.batches(data.digits(), 16), strict=False):
        loss = nn.functional.cross_entropy(model(x.view(-1, 1, 8, 8)).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _state(model)


def _run(function: Loop) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(5)
    return function(), torch.get_rng_state()


WITH_TRIALS = ("dropout_and_batch_norm", "gpt2", "hooks_of_the_users", "two_models_and_optimizers")


@pytest.mark.parametrize(
    ("name", "tries"), [*((name, False) for name in LOOPS), *((name, True) for name in WITH_TRIALS)]
)
def test_training_is_the_same_bit_by_bit(name: str, tries: bool) -> None:
    expected, random_state = _run(LOOPS[name])
    with inspect(found=lambda finding: None, share=1.0, try_fixes=tries) as seen:
        found, state = _run(LOOPS[name])
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(state, random_state)
    assert seen.report.num_samples > 0
    ours = [note for note in seen.report.notes if "not looked at" in note]
    assert not ours, ours


def _everything() -> list[Any]:
    return [
        nn.Module.__call__,
        torch.autograd.backward,
        nn.functional.cross_entropy,
        nn.functional.mse_loss,
        nn.functional.binary_cross_entropy_with_logits,
        len(optimizers._global_optimizer_pre_hooks),
        len(optimizers._global_optimizer_post_hooks),
        torch._C._len_torch_function_stack(),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_error_in_the_middle_of_a_step_is_the_users_and_leaves_nothing(error: type[BaseException]) -> None:
    before, model = _everything(), mlp()

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error("mine")

    failing = nn.Sequential(mlp(), Failing())
    seen = inspect(found=lambda finding: None, share=1.0)

    def loop() -> None:
        with seen:
            _classify(model, torch.optim.Adam(model.parameters()))
            failing(data.digits()[0])

    with pytest.raises(error, match="mine"):
        loop()
    assert _everything() == before
    assert seen.report.error == error.__name__
    assert seen.report.num_steps == 12
    assert not any(module._forward_hooks for module in model.modules())


def test_error_of_ours_is_a_note_and_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepseek_lab.inspector import collector

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(collector.statistics, "rms", broken)
    before, model = _everything(), mlp()
    with inspect(found=lambda finding: None) as seen:
        _classify(model, torch.optim.Adam(model.parameters()))
    assert "something was not looked at (RuntimeError: planted)" in seen.report.notes
    assert _everything() == before


def test_hooks_of_the_users_see_each_call_once_although_a_step_is_run_again() -> None:
    model, calls = mlp(2), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with inspect(found=lambda finding: None, share=1.0) as seen:
        for step, (x, y) in zip(range(5), data.batches(data.digits()), strict=False):
            loss = nn.functional.cross_entropy(model(x), y) * (float("nan") if step == 3 else 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert len(calls) == 5
    assert [one.kind for one in seen.findings] == ["nonfinite"]


def test_compiled_model_says_what_is_not_seen() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = mlp(2)
        twin = copy.deepcopy(model)
        compiled = torch.compile(model, backend="aot_eager")
        expected = _classify(torch.compile(twin, backend="aot_eager"), torch.optim.Adam(twin.parameters()))
        torch._dynamo.utils.counters.clear()
        with inspect(found=lambda finding: None, share=1.0) as seen:
            found = _classify(compiled, torch.optim.Adam(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert any("compiled" in note for note in seen.report.notes)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert any(one.weight_gradient for one in seen.report.modules) or seen.report.num_samples > 0
