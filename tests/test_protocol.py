"""The page's types are those of the events: ``js/src/protocol.ts`` is what its generator writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from deepseek_lab.base import events
from deepseek_lab.base.version import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol", ROOT / "js" / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_protocol_is_as_generated(generator: ModuleType) -> None:
    assert generator.TARGET.read_text(encoding="utf-8") == generator.protocol(), "run: python js/protocol.py"


def test_a_changed_event_is_a_difference(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generator.protocol()
    with monkeypatch.context() as patched:
        patched.setattr(events, "REGISTRY", dict(events.REGISTRY))

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Renamed(events.Event):
            """Another kind."""

            depth: int

        assert Renamed.kind in generator.protocol()
        assert generator.protocol() != before
    assert generator.protocol() == before


def test_a_type_without_a_counterpart_is_refused(generator: ModuleType) -> None:
    with pytest.raises(TypeError, match="no counterpart"):
        generator.type_of(complex)


def test_front_end_and_package_have_one_version() -> None:
    package = json.loads((ROOT / "js" / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == __version__
