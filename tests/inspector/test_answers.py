"""What is said of NaN, of labels, of losses and of fixes that were tried; and what the records are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.inspection import KINDS, Finding, Inspection
from deepseek_lab.inspector import rules
from deepseek_lab.inspector.api import inspect
from deepseek_lab.inspector.seen import LossSeen
from deepseek_lab.inspector.sites import as_python
from tests.inspector import data
from tests.inspector.models import CNN, Transformer, mlp
from tests.inspector.planted import PLANTED, Training


def _train(
    model: nn.Module, loss: data.Loss, batches: data.Batches | None = None, steps: int = 20
) -> Inspection:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    training = Training(model, optimizer, batches or data.batches(data.digits()), loss=loss, num_steps=steps)
    return training.inspected(share=1.0)


def _only(seen: Inspection, kind: str) -> Finding:
    (found,) = seen.of_kind(kind)
    return found


# -- the first NaN ----------------------------------------------------------------------------------------


def test_loss_of_the_users_own_names_its_operator_line_and_inputs() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    with inspect(found=lambda finding: None, share=1.0) as seen:
        for _, (x, y) in zip(range(3), data.batches(data.digits()), strict=False):
            shares = model(x).softmax(1) * (y[:, None] != 3)
            loss = -shares.gather(1, y[:, None]).log().mean()  # the line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = _only(seen.report, "nonfinite")
    assert "first made by log, in what is computed from model" in found.text
    assert "zeros" in found.evidence
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert lines[found.line - 1].endswith("# the line")
    assert found.file == __file__
    assert "clamp" in found.code


def test_gradient_that_is_nan_where_the_loss_is_finite() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * (x > 0)).sqrt()

    found = _only(
        _train(nn.Sequential(nn.Linear(64, 32), Root(), nn.Linear(32, 10)), data.cross_entropy),
        "nonfinite",
    )
    assert found.module == "model.1"
    assert "on the way back" in found.text
    assert found.since == 0
    assert "zeros" in found.evidence


def test_overflow_is_told_and_not_the_nan_that_follows() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grown = (x * 1e3).exp()
            return grown / grown.sum(1, keepdim=True)

    found = _only(
        _train(
            nn.Sequential(nn.Linear(64, 10), Large()),
            lambda shares, y: nn.functional.mse_loss(shares, y),
            _one_hot(),
        ),
        "nonfinite",
    )
    assert "made by exp" in found.text
    assert found.module == "model.1"


def _squares(shares: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(shares, y)


def _one_hot() -> data.Batches:
    for x, y in data.batches(data.digits()):
        yield x, nn.functional.one_hot(y, 10).float()


def test_mask_of_infinities_is_no_culprit() -> None:
    seen = _train(Transformer(data.text()[1]), data.over_letters, data.sentences())
    assert not seen.findings


def test_inputs_that_are_nan_are_told_as_such() -> None:
    def spoiled() -> data.Batches:
        for number, (x, y) in enumerate(data.batches(data.digits())):
            yield (x.masked_fill(x > 0.99, float("nan")) if number == 7 else x), y

    found = _only(_train(mlp(), data.cross_entropy, spoiled()), "input")
    assert (found.module, found.since) == ("model.0", 7)
    assert "NaN" in found.evidence


def test_update_that_spoils_parameters_is_told_with_the_step_before() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    training = Training(model, optimizer, data.batches(data.digits()), num_steps=12)

    def spoil(step: int) -> None:
        if step == 8:
            with torch.no_grad():
                model[4].weight[0, 0] = float("inf")  # type: ignore[index, union-attr]

    training.before_step = spoil
    found = _only(training.inspected(share=1.0), "nonfinite")
    assert (found.module, found.since) == ("model.4", 7)
    assert "4.weight first" in found.evidence


def test_random_numbers_and_buffers_are_as_they_were_after_a_step_is_run_again() -> None:
    def trained(watched: bool) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(CNN(), nn.Dropout(0.5), nn.Linear(10, 10))
        optimizer = torch.optim.SGD(model.parameters(), 0.0)

        def run() -> None:
            for step, (x, y) in zip(range(6), data.batches(data.digits()), strict=False):
                loss = nn.functional.cross_entropy(model(x), y) * (float("nan") if step == 2 else 1)
                loss.backward()
                model.zero_grad()
                optimizer.step()

        if watched:
            with inspect(found=lambda finding: None, share=1.0):
                run()
        else:
            run()
        return list(model.state_dict().values()), torch.get_rng_state()

    (ours, our_state), (plain, state) = trained(True), trained(False)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    assert torch.equal(our_state, state)


# -- labels and losses ----------------------------------------------------------------------------------


def _labels(change: object) -> data.Batches:
    for x, y in data.batches(data.digits()):
        yield x, change(y)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y + 1, "labels from 1 to 10 where the model has 10 classes"),
        (lambda y: torch.full_like(y, -100), "every label of a batch is ignored"),
        (lambda y: torch.full_like(y, 4), "all labels are 4"),
    ],
)
def test_labels_that_cannot_be(change: object, words: str) -> None:
    found = _only(_train(mlp(), data.cross_entropy, _labels(change)), "label")
    assert words in found.text
    assert found.affected in ((), ("model.8",))


def test_probabilities_and_targets_out_of_range_and_nan() -> None:
    softmaxed = nn.Sequential(mlp(), nn.Softmax(1))
    assert "probabilities" in _only(_train(softmaxed, data.cross_entropy), "label").text

    def binary(logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())

    assert "targets from 0 to 9" in _only(_train(mlp(), binary), "label").text

    def missing(logits: Tensor, y: Tensor) -> Tensor:
        target = y.float().masked_fill(y == 3, float("nan"))
        return nn.functional.mse_loss(logits[:, 0], target)

    assert "targets are NaN" in _only(_train(mlp(), missing), "label").text


def test_loss_that_does_not_fall_is_told_with_what_chance_costs() -> None:
    torch.manual_seed(0)
    model = mlp()
    seen = _train(model, data.cross_entropy, _labels(lambda y: torch.randint(10, y.shape)), 130)
    found = _only(seen, "loss not falling")
    assert "always the same prediction would cost 2.3" in found.evidence
    assert found.module == "model"


def test_loop_at_its_plateau_is_no_fault() -> None:
    torch.manual_seed(0)
    model = mlp()
    assert not _train(model, data.cross_entropy, steps=300).findings
    assert not _train(model, data.cross_entropy, steps=300).findings


def test_same_rows_are_an_input_that_is_constant() -> None:
    def constant() -> data.Batches:
        for x, y in data.batches(data.digits()):
            yield torch.ones_like(x), y

    assert "are the same" in _only(_train(mlp(), data.cross_entropy, constant()), "input").text


def test_losses_far_from_the_others_stand_out_and_heavy_tails_do_not() -> None:
    def said(values: list[float]) -> list[int]:
        loss, found = LossSeen(("", 0), "model"), []
        for step, value in enumerate(values):
            if rules.spike(loss, value):
                found.append(step)
            loss.add(step, value)
        return found

    calm = [2.3 * 0.97**n + 0.01 * math.sin(n) for n in range(100)]
    assert said(calm) == []
    assert said([*calm, 5.0]) == [100]
    assert said([*calm, 0.6]) == []  # one hard sample
    assert said([*calm, 1.8, 1.8, 1.8]) == [102]


# -- fixes ------------------------------------------------------------------------------------------------


def _tried(name: str) -> Finding:
    planted = next(one for one in PLANTED if one.name == name)
    torch.manual_seed(0)
    training = planted.make()
    before = [one.clone() for one in training.model.parameters()]
    seen = training.inspected(share=1.0, try_fixes=True)
    assert any(
        not torch.equal(one, other) for one, other in zip(before, training.model.parameters(), strict=True)
    )
    return next(one for one in seen.findings if one.kind in planted.kinds)


@pytest.mark.parametrize(
    "name",
    [
        "mlp: ten sigmoid layers",
        "mlp: biases of the second layer at -30",
        "mlp: a learning rate of 1e-8",
        "cnn: a layer with weights of 1e-5",
        "mlp: the optimiser was made before the head",
    ],
)
def test_fix_that_is_tried_brings_the_loss_down(name: str) -> None:
    trial = _tried(name).trial
    assert trial is not None
    assert trial.failed == ""
    assert trial.num_steps == 40
    assert trial.loss_with < trial.loss_without


def test_fix_of_what_cannot_be_copied_says_so() -> None:
    class Locked(nn.Sequential):
        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("a lock")

    model = Locked(*mlp(10, activation=nn.Sigmoid))
    training = Training(
        model, torch.optim.Adam(model.parameters()), data.batches(data.digits()), num_steps=20
    )
    trial = _only(training.inspected(share=1.0, try_fixes=True), "vanishing gradient").trial
    assert trial is not None
    assert "cannot be copied (TypeError: a lock)" in trial.failed


# -- records ----------------------------------------------------------------------------------------------


def test_parts_that_the_loop_calls_belong_to_the_model_that_has_a_name() -> None:
    model = nn.ModuleDict({"encoder": mlp(2), "head": nn.Linear(10, 10)})
    optimizer = torch.optim.Adam(model.parameters())
    with inspect(found=lambda finding: None, share=1.0, namespace={"net": model}) as seen:
        for _, (x, y) in zip(range(8), data.batches(data.digits()), strict=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model["head"](model["encoder"](x)), y).backward()
            optimizer.step()
    paths = {one.path for one in seen.report.modules}
    assert {"net.encoder.0", "net.head"} <= paths
    assert not seen.findings
    assert seen.report.num_steps == 8


def test_report_is_plain_data_and_holds_no_tensor() -> None:
    seen = _train(mlp(), data.cross_entropy, _labels(lambda y: y + 1))
    read = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert read["findings"][0]["kind"] in KINDS
    whole = _train(mlp(), data.cross_entropy)
    assert len(whole.losses[0].values) == 20
    assert {one.path for one in whole.modules} >= {"model.0", "model.8"}
    assert json.dumps(whole.to_dict(), allow_nan=False)


def test_only_what_is_named_is_watched() -> None:
    mine, other = mlp(), mlp()
    with deepseek_lab.inspect(mine, found=lambda finding: None, share=1.0) as seen:
        for model in (mine, other):
            for _, (x, y) in zip(range(3), data.batches(data.digits()), strict=False):
                nn.functional.cross_entropy(model(x), y).backward()
    assert {one.model for one in seen.report.modules} == {"mine"}


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TargetError, match="inspect watches modules, and this is a list") as raised:
        deepseek_lab.inspect([mlp()])  # type: ignore[arg-type]
    assert raised.value.hint == "with deepseek_lab.inspect(model):"


def test_findings_are_lines_on_stderr_without_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    model = mlp(10, activation=nn.Sigmoid)
    optimizer = torch.optim.Adam(model.parameters())
    with deepseek_lab.inspect(share=1.0):
        for _, (x, y) in zip(range(8), data.batches(data.digits()), strict=False):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "inspect: step 0: the gradient fades at model." in capsys.readouterr().err


def test_nothing_that_trains_is_told() -> None:
    with inspect(found=lambda finding: None) as seen:
        pass
    assert seen.report.notes == ("no module with parameters was called with gradients on",)


def test_paths_can_be_typed() -> None:
    assert as_python("model.layers.0.fc.weight") == "model.layers[0].fc.weight"
