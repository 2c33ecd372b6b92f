"""A plan for a described machine, as text and HTML."""

from __future__ import annotations

import dataclasses

from deepseek_lab.base.devices import DevicePlan, Holding, Largest, Outcome
from deepseek_lab.views import devices_html, devices_line, devices_text
from tests.views.hostile import WORDS

GB = 10**9
PLAIN = Outcome(
    "plain FSDP2", Holding("backward pass", 26 * GB, GB, 52 * GB, 7 * GB, 60 * GB, GB), 0, 1.0, False
)
OURS = Outcome(
    "full recomputation, 8-bit AdamW",
    Holding("the loss", 26 * GB, 0, 13 * GB, 7 * GB, 3 * GB, GB),
    0,
    1.4,
    True,
)
PLAN = DevicePlan(
    model="model",
    class_name="GPT2LMHeadModel",
    num_parameters=52 * GB,
    num_blocks=64,
    block_class="GPT2Block",
    devices="8 x 80GB",
    num_devices=8,
    limit_bytes=76 * GB,
    inputs="input_ids 1×2048",
    precision="float32 master weights",
    plain=PLAIN,
    chosen=OURS,
    smallest=OURS,
    largest=(
        Largest("plain FSDP2", 23 * GB, 49, 6272, 75 * GB, 0, 1.0),
        Largest("full recomputation, 8-bit AdamW", 80 * GB, 76, 9344, 76 * GB, 0, 80 / 23),
    ),
    remedies=(),
    assumptions=("AdamW",),
    code="print('<b>')",
)


def test_line_and_text() -> None:
    assert devices_line(PLAN) == (
        "plan  model (52 B) on 8 x 80GB  "
        "fits with full recomputation, 8-bit AdamW: 46.6 GiB of 70.8 GiB on each device, about 1.40x the time  "
        "plain FSDP2 needs 137 GiB  largest of its kind 80 B, plain 23 B (3.48x)"
    )
    text = devices_text(PLAN)
    assert "66.1 GiB too much" in text
    assert "estimated" in text
    assert "assumed: AdamW" in text


def test_what_does_not_fit_says_how_much_and_what_next() -> None:
    over = dataclasses.replace(
        OURS, fits=False, holding=dataclasses.replace(OURS.holding, activations=60 * GB)
    )
    plan = dataclasses.replace(PLAN, chosen=None, smallest=over, remedies=("--batch 1: less at a time",))
    assert "nothing fits: 28.9 GiB too much on each device" in devices_line(plan)
    for shown in (devices_text(plan), devices_html(plan)):
        assert "--batch 1: less at a time" in shown
        assert "the least" in shown


def test_plain_alone_where_it_fits() -> None:
    plain = dataclasses.replace(PLAIN, fits=True)
    plan = dataclasses.replace(PLAN, plain=plain, chosen=plain)
    assert "plain FSDP2 fits" in devices_line(plan)
    assert "planned" not in devices_text(plan)


def test_everything_of_the_notebook_is_data() -> None:
    for text in WORDS.values():
        everywhere = dict.fromkeys(("model", "class_name", "inputs", "devices", "code"), text)
        plan = dataclasses.replace(PLAN, **everywhere, remedies=(text,), assumptions=(text,))
        shown = devices_html(plan)
        assert "<script" not in shown
        assert "<img" not in shown
        assert devices_text(plan).isprintable() or "\n" in devices_text(plan)
