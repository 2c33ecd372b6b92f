"""A loop whose gradients are accumulated trains as the same loop with batches of that size does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deepseek_lab
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.memory.accumulation.run import Accumulation

GOAL, OWN, EPOCHS = 256, 32, 2
_IMAGES, _LABELS = (torch.tensor(one) for one in load_digits(return_X_y=True))
_DATA = TensorDataset(_IMAGES.float() / 16, _LABELS)
Make = Callable[[Iterator[Tensor]], torch.optim.Optimizer]


def _adamw(parameters: Iterator[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def _momentum(parameters: Iterator[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 10))


def _loader(batch: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(_DATA, batch_size=batch, **{"shuffle": True, **options})


def _loop(
    batch: int,
    make: Make = _adamw,
    *,
    reduction: str = "mean",
    clip: Callable[[Any], Any] | None = None,
    schedule: bool = False,
    set_to_none: bool = True,
    **options: Any,
) -> nn.Module:
    """The user's loop."""
    model = _net()
    optimizer = make(model.parameters())
    torch.manual_seed(1)
    loader = _loader(batch, **options)
    scheduler = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * -(-len(_DATA) // GOAL))
        if schedule
        else None
    )
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = F.cross_entropy(model(images), labels, reduction=reduction)
            loss.backward()
            if clip is not None:
                clip(model.parameters())
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return model


def _close(found: nn.Module, expected: nn.Module) -> None:
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        # AdamW divides by the gradient's size: what differs in the last digit differs by a step where it is tiny.
        torch.testing.assert_close(own, other, rtol=1e-3, atol=2e-5)


def _apart(found: nn.Module, expected: nn.Module) -> float:
    return max(
        float((a - b).abs().max().detach())
        for a, b in zip(found.parameters(), expected.parameters(), strict=True)
    )


_LOOPS: dict[str, dict[str, Any]] = {
    "a mean": {},
    "a sum": {
        "reduction": "sum",
        "make": lambda parameters: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9),
    },
    "gradients that are set to zero": {"set_to_none": False},
    "a norm that is clipped": {"clip": lambda p: nn.utils.clip_grad_norm_(p, 0.5), "make": _momentum},
    "values that are clipped": {"clip": lambda p: nn.utils.clip_grad_value_(p, 0.005), "make": _momentum},
    "a schedule": {"schedule": True},
    "workers": {"num_workers": 2},
    "a last batch that is dropped": {"drop_last": True},
}


@pytest.mark.parametrize("name", _LOOPS)
def test_trains_as_with_batches_of_that_size(name: str) -> None:
    expected, small = _loop(GOAL, **_LOOPS[name]), _loop(OWN, **{**_LOOPS[name], "schedule": False})
    with Accumulation(GOAL) as accumulation:
        found = _loop(OWN, **_LOOPS[name])
    _close(found, expected)
    assert _apart(found, expected) < _apart(small, expected) / 100
    per_epoch = len(_DATA) // GOAL if name == "a last batch that is dropped" else -(-len(_DATA) // GOAL)
    assert accumulation.num_updates == EPOCHS * per_epoch
    assert accumulation.num_micro_batches > accumulation.num_updates


def test_a_loop_that_makes_its_batches_itself() -> None:
    def loop(batch: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        for _ in range(2):
            for start in range(0, 1024, batch):
                loss = F.cross_entropy(
                    model(_DATA.tensors[0][start : start + batch]), _LABELS[start : start + batch]
                )
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return model

    with Accumulation(GOAL) as accumulation:
        found = loop(OWN)
    _close(found, loop(GOAL))
    assert accumulation.num_updates == 8
    event = accumulation.event("run")
    assert (event.micro_batch, event.own_batch, event.num_micro_batches) == (OWN, OWN, 64)


def test_what_is_left_when_the_loop_ends_is_said() -> None:
    with Accumulation(100) as accumulation:
        model = _net()
        before = copy.deepcopy(model)
        optimizer = _momentum(model.parameters())
        for start in (0, 32):
            F.cross_entropy(
                model(_DATA.tensors[0][start : start + 32]), _LABELS[start : start + 32]
            ).backward()
            optimizer.step()
    assert accumulation.num_updates == 0
    assert any("64 samples, fewer than the 100" in note for note in accumulation.notes)
    assert _apart(model, before) == 0.0


def test_a_mean_over_labelled_tokens_weighs_tokens() -> None:
    torch.manual_seed(5)
    inputs = torch.randn(64, 12, 16)
    labels = torch.randint(0, 7, (64, 12))
    labels[torch.arange(12) >= torch.randint(1, 12, (64, 1))] = -100  # as many labels as a sentence is long

    def loop(batch: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(16, 7)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(3):
            for some, wanted in DataLoader(TensorDataset(inputs, labels), batch_size=batch):
                optimizer.zero_grad()
                F.cross_entropy(model(some).flatten(0, 1), wanted.flatten()).backward()
                optimizer.step()
        return model

    with Accumulation(64):
        found = loop(4)
    _close(found, loop(64))


def test_two_optimisers_that_take_turns() -> None:
    def loop(batch: int) -> list[nn.Module]:
        torch.manual_seed(0)
        generator, judge = nn.Linear(8, 64), nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))
        own, other = _momentum(generator.parameters()), _momentum(judge.parameters())
        noise = torch.randn(len(_DATA), 8)
        loss = nn.BCEWithLogitsLoss()
        for images, numbers in DataLoader(TensorDataset(_DATA.tensors[0], noise), batch_size=batch):
            made = generator(numbers)
            other.zero_grad()
            real, false = judge(images), judge(made.detach())
            (loss(real, torch.ones_like(real)) + loss(false, torch.zeros_like(false))).backward()
            other.step()
            own.zero_grad()
            judged = judge(made)
            loss(judged, torch.ones_like(judged)).backward()  # reaches the judge's gradients too
            own.step()
        return [generator, judge]

    expected = loop(GOAL)
    with Accumulation(GOAL) as accumulation:
        found = loop(OWN)
    for one in accumulation._gradients.values():
        if one.used:
            assert one.num_updates == -(-len(_DATA) // GOAL)
    # The generator's micro-batches, all but the last, are judged by the judge of the batch before.
    small = loop(OWN)
    for index in (0, 1):
        assert _apart(found[index], expected[index]) < _apart(small[index], expected[index]) / 10


def test_two_losses_and_two_backward_passes_in_one_step() -> None:
    def loop(batch: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        for images, labels in DataLoader(_DATA, batch_size=batch):
            optimizer.zero_grad()
            results = model(images)
            F.cross_entropy(results, labels).backward(retain_graph=True)
            (0.1 * results.pow(2).mean()).backward()
            optimizer.step()
        return model

    with Accumulation(GOAL):
        found = loop(OWN)
    _close(found, loop(GOAL))


def test_a_loop_that_accumulates_by_itself() -> None:
    def loop(batch: int, times: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        for number, start in enumerate(range(0, 1024, batch), 1):
            rows = slice(start, start + batch)
            (F.cross_entropy(model(_DATA.tensors[0][rows]), _LABELS[rows]) / times).backward()
            if number % times == 0:
                optimizer.step()
                optimizer.zero_grad()
        return model

    with Accumulation(GOAL) as accumulation:
        found = loop(16, 4)
    _close(found, loop(GOAL, 1))
    assert accumulation.num_updates == 4


def test_a_scaler_keeps_one_scale_for_a_batch() -> None:
    def loop(batch: int) -> tuple[nn.Module, int]:
        model = _net()
        optimizer = _momentum(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for images, labels in DataLoader(_DATA, batch_size=batch):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(images), labels)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        return model, int(scaler.get_scale())

    expected, scale = loop(GOAL)
    with Accumulation(GOAL):
        found, own_scale = loop(OWN)
    _close(found, expected)
    assert own_scale == scale


def test_gradients_that_overflow_are_left_out_until_the_scale_fits() -> None:
    model = _net()
    optimizer = _momentum(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-20, growth_interval=1000)
    with Accumulation(64) as accumulation:
        for _ in range(2):
            for images, labels in _loader(OWN):
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(model(images) * 1e3, labels)).backward()
                scaler.step(optimizer)
                scaler.update()
    assert 0.0 < scaler.get_scale() < 2.0**127
    assert accumulation.num_updates > 10
    assert all(bool(one.isfinite().all()) for one in model.parameters())
    assert any("overflowed" in note for note in accumulation.notes)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_that_nothing_trains_with_keeps_its_batches(shuffle: bool) -> None:
    held_out = DataLoader(_DATA, batch_size=OWN, shuffle=shuffle)
    model = _net()
    optimizer = _adamw(model.parameters())
    sizes = []
    with Accumulation(GOAL):
        for _ in range(2):
            for images, labels in _loader(OWN):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for images, _ in held_out:
                    model(images)
                    sizes.append(len(images))
            model.train()
    per_pass = [OWN] * (len(_DATA) // OWN) + [len(_DATA) % OWN]
    assert sizes == 2 * per_pass


def test_two_loaders_that_feed_one_step_keep_their_batches() -> None:
    """As where few samples have labels and many have none: it is their mixture that is trained with."""
    sizes = []

    def loop(times: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        torch.manual_seed(1)
        labelled, others = _loader(8), _loader(56)
        for number, ((images, labels), (unlabelled, _)) in enumerate(zip(labelled, others, strict=False), 1):
            sizes.append((len(images), len(unlabelled)))
            both = model(torch.cat([images, unlabelled]))
            (F.cross_entropy(both[:8], labels) + 0.1 * both[8:].softmax(1).square().mean()).div(
                times
            ).backward()
            if number % times == 0:
                optimizer.step()
                optimizer.zero_grad()
        return model

    expected = loop(4)
    with Accumulation(GOAL) as accumulation:
        found = loop(1)
    assert sizes[: len(sizes) // 2] == sizes[len(sizes) // 2 :]
    assert any("several loaders" in note for note in accumulation.notes)
    assert accumulation.num_updates == len(sizes) // 2 // 4
    _close(found, expected)


def test_a_scheduler_of_epochs_is_stepped() -> None:
    model = _net()
    optimizer = _momentum(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    with Accumulation(GOAL):
        for _ in range(3):
            for images, labels in _loader(OWN):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 8)


def test_each_micro_batch_shows_its_own_gradient() -> None:
    model = _net()
    optimizer = _momentum(model.parameters())
    with Accumulation(64):
        for rows in (slice(0, 32), slice(32, 64)):
            optimizer.zero_grad()
            F.cross_entropy(model(_DATA.tensors[0][rows]), _LABELS[rows]).backward()
            shown = [one.grad.clone() for one in model.parameters() if one.grad is not None]
            used = slice(0, rows.stop) if rows.stop == 64 else rows  # the update sees both
            wanted = torch.autograd.grad(
                F.cross_entropy(model(_DATA.tensors[0][used]), _LABELS[used]), list(model.parameters())
            )
            torch.testing.assert_close(shown, list(wanted))
            optimizer.step()
            assert all(one.grad is not None for one in model.parameters())


def test_an_error_in_the_middle_leaves_the_last_update() -> None:
    model = _net()
    optimizer = _momentum(model.parameters())
    updates: list[Any] = []
    with pytest.raises(KeyboardInterrupt), Accumulation(64):  # noqa: PT012 - a loop is what is interrupted
        for number in itertools.count():
            optimizer.zero_grad()
            rows = slice(32 * number, 32 * number + 32)
            F.cross_entropy(model(_DATA.tensors[0][rows]), _LABELS[rows]).backward()
            if number == 2:
                raise KeyboardInterrupt
            optimizer.step()
            updates.append(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(model.state_dict(), updates[1])
    assert all(int(one["momentum_buffer"].isfinite().all()) for one in optimizer.state.values())


def test_everything_is_as_it_was_afterwards() -> None:
    before = (torch.autograd.backward, DataLoader.__iter__, nn.Module.__call__, nn.utils.clip_grad_value_)
    step = torch.optim.lr_scheduler.OneCycleLR.__mro__[1].step
    with Accumulation(GOAL):
        assert torch.autograd.backward is not before[0]
    assert (
        torch.autograd.backward,
        DataLoader.__iter__,
        nn.Module.__call__,
        nn.utils.clip_grad_value_,
    ) == before
    assert torch.optim.lr_scheduler.LRScheduler.step is step
    model = _loop(OWN)
    _close(model, _loop(OWN))


def test_batch_norm_is_warned_of() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))
    optimizer = _momentum(model.parameters())
    with Accumulation(64) as accumulation:
        for rows in (slice(0, 32), slice(32, 64)):
            optimizer.zero_grad()
            F.cross_entropy(model(_DATA.tensors[0][rows]), _LABELS[rows]).backward()
            optimizer.step()
    assert any("batch norm" in note for note in accumulation.notes)


def test_an_update_smaller_than_the_loops_own_batches() -> None:
    model = _net()
    with Accumulation(16), pytest.raises(TargetError, match="32 samples, more than the 16") as raised:
        model(_DATA.tensors[0][:32])
    assert "--effective-batch 32" in str(raised.value)
    with Accumulation(16) as accumulation:
        found = _loop(OWN, shuffle=True)
    _close(found, _loop(16))
    assert accumulation.event("run").micro_batch <= 16


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loader_that_is_made_anew_in_each_epoch(drop_last: bool) -> None:
    def loop(batch: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        torch.manual_seed(1)
        for _ in range(3):
            for images, labels in _loader(batch, drop_last=drop_last):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
        return model

    with Accumulation(GOAL) as accumulation:
        found = loop(OWN)
    _close(found, loop(GOAL))
    assert accumulation.num_updates == 3 * (7 if drop_last else 8)


def test_more_samples_than_there_are() -> None:
    with Accumulation(4096), pytest.raises(TargetError, match="drops its last batch"):
        _loop(OWN, drop_last=True)
    with pytest.raises(UsageError, match="0 samples"):
        Accumulation(0)


def test_the_public_function_accumulates_within_its_block() -> None:
    expected = _loop(GOAL)
    with deepseek_lab.effective_batch(GOAL, memory_limit="1GiB") as accumulation:
        found = _loop(OWN)
    _close(found, expected)
    assert accumulation.num_updates == EPOCHS * 8
    assert accumulation.event("run").micro_batch >= 4
    with pytest.raises(UsageError):
        deepseek_lab.effective_batch(GOAL, memory_limit="much")


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(_DATA)


def test_a_dataset_without_indices_keeps_its_batches() -> None:
    def loop(batch: int) -> nn.Module:
        model = _net()
        optimizer = _momentum(model.parameters())
        for images, labels in itertools.islice(DataLoader(_Stream(), batch_size=batch), 1024 // batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return model

    with Accumulation(GOAL) as accumulation:
        found = loop(OWN)
    _close(found, loop(GOAL))
    assert accumulation.num_micro_batches == 32
