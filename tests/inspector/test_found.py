"""Planted faults are found and put on the right module; nothing is said of sound trainings."""

from __future__ import annotations

import pytest
import torch

from tests.inspector.healthy import HEALTHY
from tests.inspector.planted import PLANTED, Planted


@pytest.mark.parametrize("fault", PLANTED, ids=lambda one: one.name)
def test_planted_fault_is_found_where_it_is(fault: Planted) -> None:
    # Every step is looked at: what is found must not depend on how fast the machine is.
    torch.manual_seed(0)
    seen = fault.make().inspected(share=1.0)
    assert fault.is_found(seen), [(one.kind, one.module, one.text) for one in seen.findings]
    found = next(one for one in seen.findings if one.kind in fault.kinds and one.module in fault.modules)
    assert found.evidence
    assert found.fix
    assert found.code
    assert found.file.endswith(("planted.py", "models.py", "data.py"))


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_sound_training(name: str) -> None:
    torch.manual_seed(0)
    seen = HEALTHY[name]().inspected(share=1.0)
    assert seen.findings == ()
    assert seen.notes == ()
    assert seen.num_samples > 100


def test_there_are_enough_of_them() -> None:
    assert len(PLANTED) == 30
    assert len(HEALTHY) == 10
