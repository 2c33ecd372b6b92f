"""Logits that only a cross entropy wants: the loss and its gradients are those of the logits, and so are the logits."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek_lab.memory import logits as module
from deepseek_lab.memory.logits import Deferred, Head, LogitsGone, find_heads, linear_cross_entropy

WIDTH, CLASSES, ROWS = 16, 4096, 700


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, CLASSES)


def _target(ignored: float = 0.0) -> Tensor:
    target = torch.randint(0, CLASSES, (ROWS,))
    return target.masked_fill(torch.rand(ROWS) < ignored, -100)


def _gradients(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    return [one.detach() for one in torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_are_those_of_the_logits(reduction: str, ignored: float, bias: bool) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(WIDTH, CLASSES, bias=bias).double()
    rows = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    target = _target(ignored)
    wanted = [rows, *layer.parameters()]
    expected = F.cross_entropy(layer(rows), target, reduction=reduction)
    found = linear_cross_entropy(rows, layer.weight, layer.bias, target, reduction=reduction)
    if ignored == 1.0 and reduction == "mean":
        assert expected.isnan()
        assert found.isnan()
        return
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(_gradients(3 * found, *wanted), _gradients(3 * expected, *wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_a_second_backward_pass_through_the_same_loss(layer: nn.Linear) -> None:
    rows, target = torch.randn(ROWS, WIDTH, requires_grad=True), _target(0.5)
    loss = linear_cross_entropy(rows, layer.weight, layer.bias, target)
    loss.backward(retain_graph=True)
    first = layer.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, 2 * first)


def test_autocast_is_that_of_the_layer(layer: nn.Linear) -> None:
    rows, target = torch.randn(ROWS, WIDTH, requires_grad=True), _target()
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.cross_entropy(layer(rows), target)
        found = linear_cross_entropy(rows, layer.weight, layer.bias, target)
    assert abs(float(found.detach()) - float(expected.detach())) < 0.05
    gradient, other = (_gradients(one, layer.weight)[0] for one in (found, expected))
    assert gradient.dtype == torch.float32
    assert float((gradient - other).norm() / other.norm()) < 0.02


def test_no_logits_are_made_for_rows_without_a_label(
    layer: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = F.linear
    monkeypatch.setattr(module.F, "linear", lambda rows, *rest: seen.append(len(rows)) or plain(rows, *rest))
    target = _target(0.9)
    linear_cross_entropy(torch.randn(ROWS, WIDTH, requires_grad=True), layer.weight, layer.bias, target)
    assert sum(seen) == int((target != -100).sum())


LAZY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flattened": lambda logits, target: F.cross_entropy(logits.view(-1, CLASSES), target.view(-1)),
    "with an unknown size": lambda logits, target: F.cross_entropy(logits.reshape(12, -1), target.view(-1)),
    "shifted": lambda logits, target: F.cross_entropy(
        logits[:, :-1].contiguous().view(-1, CLASSES), target[:, 1:].reshape(-1)
    ),
    "by an ellipsis": lambda logits, target: F.cross_entropy(
        logits[..., :-1, :].flatten(0, 1), target[..., 1:].flatten()
    ),
    "masked": lambda logits, target: F.cross_entropy(logits[target > 9], target[target > 9]),
    "classes second": lambda logits, target: F.cross_entropy(logits.transpose(1, 2), target),
    "permuted": lambda logits, target: F.cross_entropy(logits.permute(0, 2, 1), target),
    "as float": lambda logits, target: F.cross_entropy(logits.float().view(-1, CLASSES), target.view(-1)),
    "by a module": lambda logits, target: nn.CrossEntropyLoss()(logits.view(-1, CLASSES), target.view(-1)),
}
MADE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scaled": lambda logits, target: F.cross_entropy((logits / 2).view(-1, CLASSES), target.view(-1)),
    "smoothed": lambda logits, target: F.cross_entropy(
        logits.view(-1, CLASSES), target.view(-1), label_smoothing=0.1
    ),
    "other loss": lambda logits, target: logits.square().mean(),
    "each token's": lambda logits, target: F.cross_entropy(
        logits.view(-1, CLASSES), target.view(-1), reduction="none"
    ).mean(),
    "part of the classes": lambda logits, target: logits[..., :7].exp().mean(),
    "softmax": lambda logits, target: -torch.log_softmax(logits, -1)[:, :, 3].mean(),
    "other shape": lambda logits, target: logits.view(-1).square().sum(),
}


@pytest.mark.parametrize("name", [*LAZY, *MADE])
def test_whatever_is_done_with_logits_gives_what_it_gives(layer: nn.Linear, name: str) -> None:
    loss = {**LAZY, **MADE}[name]
    rows = torch.randn(3, 4, WIDTH, requires_grad=True)
    target = torch.randint(0, CLASSES, (3, 4))
    expected = loss(layer(rows), target)
    wanted = [rows, layer.weight]
    expected_gradients = _gradients(expected, *wanted)
    head = Head("head", layer).install()
    try:
        logits = layer(rows)
        assert type(logits) is Deferred
        assert logits.shape == (3, 4, CLASSES)
        assert logits.requires_grad
        found = loss(logits, target)
    finally:
        head.remove()
    assert ("LinearCrossEntropy" in type(found.grad_fn).__name__) == (name in LAZY)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(_gradients(found, *wanted), expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_logits_asked_for_after_the_update_are_those_of_before(layer: nn.Linear) -> None:
    rows = torch.randn(3, 4, WIDTH)
    expected = layer(rows)
    head = Head("head", layer).install()
    logits = layer(rows)
    shown = layer(rows)
    head.before_update()
    with torch.no_grad():
        layer.weight += 1.0
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert torch.equal(logits.detach(), expected)
    assert repr(shown.detach()) == repr(expected.detach())
    other = copy.deepcopy(shown.detach())
    buffer = io.BytesIO()
    torch.save(shown.detach(), buffer)
    buffer.seek(0)
    assert torch.equal(other, torch.load(buffer))
    head.remove()
    assert "forward" not in layer.__dict__


def test_logits_that_can_not_be_had_any_more_say_so(layer: nn.Linear) -> None:
    head = Head("model.head", layer).install()
    logits = layer(torch.randn(3, 4, WIDTH))
    with torch.no_grad():
        layer.weight.mul_(2.0)  # by hand: no optimiser says so beforehand
    with pytest.raises(LogitsGone, match=r"weights of 'model.head' changed since") as caught:
        logits.argmax(-1)
    assert "read them before" in str(caught.value)
    head.remove()


def test_without_gradients_a_layer_does_what_it_did(layer: nn.Linear) -> None:
    head = Head("head", layer).install()
    with torch.no_grad():
        assert type(layer(torch.randn(3, WIDTH))) is Tensor
    head.remove()


def test_only_wide_layers_are_heads() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 5000), nn.Linear(5000, 5000))
    assert [head.path for head in find_heads(model)] == ["1"]
