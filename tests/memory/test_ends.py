"""What a plan takes for granted about a recomputation: where it ends, and what can be kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepseek_lab.memory.choice import Choice
from deepseek_lab.memory.operations import Operations
from deepseek_lab.memory.recompute import Recomputed
from deepseek_lab.memory.rehearsal import Rehearsal
from deepseek_lab.memory.units import Unit


def test_what_follows_the_last_saved_value_is_not_computed_again() -> None:
    """A block's second product has its input saved, and nothing is saved of its result."""
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)))
    part = Recomputed(Unit("0", model[0]), lambda reason: None)
    found = Rehearsal(model, (torch.randn(4, 8),), {}, recomputed=[part]).run(Choice(), look=True)
    (one,) = found.parts
    again = [operation.name for operation in one.operations[: one.num_again]]
    assert again.count("aten.addmm.default") == 1
    assert "aten.gelu.default" in again
    assert [operation.name for operation in one.operations].count("aten.addmm.default") == 2


def test_attention_can_be_kept_unless_it_drops_values() -> None:
    x = torch.randn(1, 2, 4, 8, requires_grad=True)

    def keepable(dropout: float) -> bool:
        with Operations() as operations:
            result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x, dropout)[0]
        assert result.shape == x.shape
        return operations.found[-1].keepable

    assert keepable(0.0)
    with Operations() as operations:
        torch.nn.functional.dropout(x, 0.5)
    assert not any(one.keepable for one in operations.found if "bernoulli" in one.name)
