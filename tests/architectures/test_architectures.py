"""Every entry of the list builds the same model twice and runs."""

from __future__ import annotations

import pytest
import torch

from tests.architectures import ARCHITECTURES, Architecture, outputs


def test_there_are_24_with_different_names() -> None:
    assert len({architecture.name for architecture in ARCHITECTURES}) == len(ARCHITECTURES) == 24


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_builds_and_runs(architecture: Architecture) -> None:
    model = architecture.build()
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        first = outputs(model(**architecture.inputs(0)))
        again = outputs(architecture.build()(**architecture.inputs(0)))
        other = outputs(model(**architecture.inputs(1)))
    assert first
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert torch.isfinite(value).all(), name
        torch.testing.assert_close(value, again[name], rtol=0, atol=0)
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
