"""Settings: defaults, the environment, and what a user types."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from deepseek_lab.base.errors import MissingPackageError, UsageError, nearest
from deepseek_lab.base.settings import Settings


def test_every_field_has_a_default_of_a_kind_that_can_be_typed() -> None:
    made = Settings()
    for field in dataclasses.fields(made):
        assert isinstance(getattr(made, field.name), bool | int | float | str | tuple | Path)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_what_is_shown_can_be_typed_back(name: str) -> None:
    made, shown = Settings(), Settings().to_dict()[name]
    made.set(name, ",".join(shown) if isinstance(shown, list) else str(shown))
    assert getattr(made, name) == getattr(Settings(), name)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("build_budget_s", "12.5", 12.5),
        ("cache_limit_bytes", "1000", 1000),
        ("backends", " openvino, inductor ,", ("openvino", "inductor")),
        ("backends", "", ()),
        ("cache_dir", "~/x", Path("~/x").expanduser()),
        ("view", "static", "static"),
    ],
)
def test_typed_value(name: str, text: str, value: object) -> None:
    made = Settings()
    made.set(name, text)
    assert getattr(made, name) == value


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no setting 'build_budget'(.|\n)*%deepseek config build_budget_s"):
        Settings().set("build_budget", "1")


@pytest.mark.parametrize(("name", "text"), [("build_budget_s", "soon"), ("cache_limit_bytes", "1.5")])
def test_value_of_another_kind_is_refused(name: str, text: str) -> None:
    made = Settings()
    with pytest.raises(UsageError, match=f"'{text}' is no value for {name}, which is a"):
        made.set(name, text)
    assert getattr(made, name) == getattr(Settings(), name)


def test_environment_overlays_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LAB_MIN_GAIN", "1.5")
    monkeypatch.setenv("DEEPSEEK_LAB_BACKENDS", "openvino")
    made = Settings.from_environment()
    assert (made.min_gain, made.backends) == (1.5, ("openvino",))
    assert made.race_budget_s == Settings().race_budget_s


def test_environment_that_makes_no_sense_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LAB_MIN_GAIN", "much")
    with pytest.raises(UsageError, match="min_gain"):
        Settings.from_environment()


def test_cache_folder_follows_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().cache_dir == tmp_path / "deepseek_lab"


def test_settings_are_plain_json() -> None:
    assert json.loads(json.dumps(Settings().to_dict()))["view"] == "auto"


def test_errors_end_with_what_to_type() -> None:
    error = MissingPackageError("optuna", extra="hpo", needed_for="%%deepseek hpo")
    assert str(error) == (
        "%%deepseek hpo needs the package 'optuna', which is not installed\n"
        '  try: pip install "deepseek_lab[hpo]"'
    )
    assert str(UsageError("no")) == "no"


def test_nearest_word() -> None:
    assert nearest("optimise", ["optimize", "profile"]) == "optimize"
    assert nearest("qqqq", ["optimize", "profile"]) is None
