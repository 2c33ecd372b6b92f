"""The whole answer: machines, anatomies, growth, choices, and what is said where nothing fits."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.memory.devices import DEVICES, Machine, plan_devices
from deepseek_lab.memory.devices.anatomy import anatomy, block_paths
from deepseek_lab.memory.devices.grow import Family, Size
from deepseek_lab.memory.devices.inputs import find_inputs
from deepseek_lab.memory.devices.planner import RESERVED, Allowed, Planner, usable
from deepseek_lab.memory.devices.simulate import pretended, simulate
from deepseek_lab.memory.devices.way import PLAIN, Way
from tests.memory.devices.models import Mixer, gpt, llama

BEST = Way(chunk=1024, eight_bit=True, step_in_backward=True, bf16_parameters=True)


@pytest.mark.parametrize(
    ("text", "count", "num_bytes"),
    [
        ("8x80GB", 8, 80 * 10**9),
        ("4x24GiB", 4, 24 * 2**30),
        ("16xV100", 16, 16 * 2**30),
        ("8 x h100", 8, 80 * 2**30),
        ("2x80GB,4x40GB", 6, 40 * 10**9),
        ("1.5TiB", 1, 3 * 2**39),
        ("2xA100-40GB", 2, 40 * 2**30),
    ],
)
def test_machines(text: str, count: int, num_bytes: int) -> None:
    machine = Machine.parse(text)
    assert machine.num_devices == count
    assert machine.smallest.memory_bytes == num_bytes


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("8x80", "neither a size such as 80GB nor a device of the table", "--devices 8x80GB"),
        ("8xH101", "neither a size", "--devices 8xH100"),
        ("0x80GB", "describes no device", "--devices 8x80GB"),
        (",", "describes no device", "--devices 8x80GB"),
        ("8x1KB", "holds no model", "--devices 8x80GB"),
    ],
)
def test_machines_that_are_none(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Machine.parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_every_known_device_has_a_source() -> None:
    assert all(device.source for device in DEVICES.values())
    assert all(Machine.parse(f"2x{name}").num_devices == 2 for name in DEVICES)


def test_blocks_are_found_by_structure() -> None:
    assert block_paths(gpt(3)) == [f"transformer.h.{at}" for at in range(3)]
    assert block_paths(llama(3)) == [f"model.layers.{at}" for at in range(3)]
    assert block_paths(Mixer(3)) == [f"blocks.{at}" for at in range(3)]
    layer = nn.TransformerEncoderLayer(32, 4)
    assert block_paths(nn.Sequential(*(copy.deepcopy(layer) for _ in range(3)))) == ["0", "1", "2"]
    seen = anatomy(gpt(5, 128))
    assert seen.num_parameters == sum(each.numel() for each in gpt(5, 128).parameters())


def test_nothing_of_the_users_is_touched() -> None:
    model = gpt(3, 128, device="cpu").eval()
    calls = []
    model.transformer.h[0].register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [each._version for each in model.parameters()]
    state, attention = torch.get_rng_state(), functional.scaled_dot_product_attention
    forwards = [module.forward.__func__ for module in model.modules()]
    plan_devices(model, "2x1GB", batch=2)
    assert torch.equal(state, torch.get_rng_state())
    assert functional.scaled_dot_product_attention is attention
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert versions == [each._version for each in model.parameters()]
    assert forwards == [module.forward.__func__ for module in model.modules()]
    assert not any(module.training for module in model.modules())
    assert calls == []
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize("make", [gpt, llama])
def test_a_family_counts_what_it_would_build(make: type) -> None:
    family = Family(make(4, 256))
    size = Size(7, 384)
    _, seen = family.member(size)
    built = family.build(size)
    assert seen.num_parameters == sum(each.numel() for each in built.parameters())
    assert [one.num_parameters for one in anatomy(built).blocks] == [
        one.num_parameters for one in seen.blocks
    ]
    assert anatomy(built).largest_of_rest == seen.largest_of_rest
    assert family.proportionate(40).width == 5120


def test_a_model_without_a_configuration_grows_in_depth() -> None:
    plan = plan_devices(Mixer(), "2x1GB", example=torch.zeros(4, 3, 64, 64))
    assert [one.width for one in plan.largest] == [0] * len(plan.largest)
    assert plan.ratio > 1.2
    assert plan.inputs == "4×3×64×64"


def test_the_largest_models_fit_and_one_more_block_does_not() -> None:
    """By PyTorch's own tracker, not by our arithmetic."""
    model = gpt(4, 256, places=256)
    plan = plan_devices(model, "4x200MB", batch=2, precision="bf16")
    family = Family(model)
    inputs = find_inputs(model, batch=2)
    limit = 200e6 * (1 - RESERVED)
    plain, best = plan.largest[0], plan.largest[-1]
    assert plan.ratio == best.ratio > 2.5
    for one, way in (
        (plain, lambda depth: Way()),
        (
            best,
            lambda depth: dataclasses.replace(BEST, num_full=depth),
        ),
    ):
        with pretended(4) as mesh:
            fits = simulate(family.build(Size(one.num_blocks, one.width)), inputs, way(one.num_blocks), mesh)
            more = simulate(
                family.build(Size(one.num_blocks + 2, one.width)), inputs, way(one.num_blocks + 2), mesh
            )
        assert fits <= 1.01 * limit
        assert more >= 0.98 * limit


def test_plain_is_kept_where_it_fits() -> None:
    plan = plan_devices(gpt(), "8x80GB")
    assert plan.plain.fits
    assert plan.chosen == plan.plain
    assert plan.chosen.words == "plain FSDP2"
    assert plan.chosen.slowdown == 1


def test_the_cheapest_that_fits_is_chosen() -> None:
    """With less and less room, ways that cost more and more; what changes the arithmetic comes last."""
    model = gpt(8, 512, places=512)
    inputs = find_inputs(model, batch=8)
    planner = Planner(model, inputs, Machine.parse("4x80GB"), Allowed())
    peak = planner.choice(PLAIN).holding.peak / (1 - RESERVED)
    seen = []
    for share in (1.01, 0.8, 0.6, 0.4, 0.3):
        machine = Machine.parse(f"4x{peak * share / 1e6:.0f}MB")
        choice = planner.cheapest(machine=machine)
        assert choice is not None
        assert choice.holding.peak <= usable(machine)
        seen.append(choice)
    assert seen[0].way == PLAIN
    assert not seen[1].way.eight_bit
    slow = [one.slowdown for one in seen[1:]]
    assert slow == sorted(slow)
    assert len({one.way for one in seen}) >= 4


def test_where_nothing_fits_it_says_by_how_much_and_each_remedy_works() -> None:
    model = gpt(8, 768, places=256)
    arguments = {"batch": 2}
    plan = plan_devices(model, "2x250MB", **arguments)
    assert plan.chosen is None
    assert plan.code == ""
    assert plan.short_bytes == plan.smallest.holding.peak - plan.limit_bytes > 0
    tried = set()
    for remedy in plan.remedies:
        flag, value = remedy.partition(":")[0].split()[:2]
        name = flag.removeprefix("--").replace("-", "_")
        tried.add(name)
        more = {name: int(value) if name == "batch" else value}
        devices = more.pop("devices", "2x250MB")
        assert plan_devices(model, devices, **(arguments | more)).chosen is not None, remedy
    assert {"devices", "host_memory"} <= tried
    assert any("more of the same devices" in remedy for remedy in plan.remedies)


def test_offload_is_planned_only_with_a_host_and_within_it() -> None:
    model = gpt(8, 768, places=128)
    assert "host" not in plan_devices(model, "2x320MB").smallest.words
    plan = plan_devices(model, "2x320MB", host_memory="10GB")
    assert plan.chosen is not None
    assert "on the host" in plan.smallest.words
    assert plan.largest[-1].host_bytes <= 10e9


@pytest.mark.parametrize(
    ("model", "arguments", "kind", "message", "hint"),
    [
        (nn.Linear(4, 4), {}, TargetError, "no repeated blocks", "nn.ModuleList"),
        (nn.Sequential(), {}, TargetError, "no parameters to train", "a model with parameters"),
        (Mixer(), {}, UsageError, "nothing says what Mixer takes", "--inputs NAME"),
        (Mixer(), {"example": 3}, UsageError, "a int is no input of a model", "--inputs NAME"),
        (Mixer(), {"example": torch.zeros(2, 7)}, TargetError, "cannot be called with 0 (2, 7)", "--inputs NAME"),
        (gpt(), {"sequence": 4096}, UsageError, "longer than the 128 positions", "--sequence 128"),
        (gpt(), {"precision": "int8"}, UsageError, "--precision int8 is nothing", "--precision bf16"),
        (gpt(), {"host_memory": "much"}, UsageError, "'much' is no size for --host-memory", "--host-memory 512GB"),
        (3, {}, TargetError, "model is a int, not a model", "nn.Module"),
    ],
)  # fmt: skip
def test_refusals(model: object, arguments: dict, kind: type, message: str, hint: str) -> None:
    with pytest.raises(kind) as caught:
        plan_devices(model, "8x80GB", **arguments)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_tokens_without_a_length() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(100, 32)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, batch_first=True), 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.embed(ids))

    with pytest.raises(UsageError, match="nothing says how many"):
        plan_devices(Tagger(), "2x1GB")
    plan = plan_devices(Tagger(), "2x1GB", sequence=64, batch=3)
    assert plan.inputs == "3×64"
    assert "output does not say more" in " ".join(plan.assumptions)
