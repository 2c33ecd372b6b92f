"""Settings: defaults, then ``DEEPSEEK_LAB_*`` environment variables, then ``%deepseek config``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import UsageError, nearest

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def _default_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "deepseek_lab"


@dataclasses.dataclass
class Settings:
    """What a user may turn; every field is an option of ``%deepseek config``.

    Units are in the names. Fields are read when they are needed, so a change holds from the next
    cell on.
    """

    cache_dir: Path = dataclasses.field(default_factory=_default_cache_dir)
    """Folder of the artefact store, one per user."""
    cache_limit_bytes: int = 8 * 2**30
    """Least recently used artefacts are removed above this size."""
    build_budget_s: float = 600.0
    """A single candidate that builds longer than this is stopped."""
    builder_memory_bytes: int = 0
    """Address-space limit of the builder process; 0 chooses three quarters of the machine's memory."""
    donated_share: float = 0.33
    """While the builder gets no processor time because calls follow each other without a gap, each call is
    followed by a pause of this share of its own time."""
    store_wait_s: float = 1.5
    """A call that is captured waits this long at most for a program that an earlier process has left."""
    race_budget_s: float = 20.0
    """Time that racing one graph may take in the builder."""
    block_bytes: int = 128 * 2**20
    """In a graph with weights of so many bytes, candidates that are long to build are tried on one of its repeated
    blocks first."""
    min_gain: float = 1.02
    """A candidate is kept only when the lower end of its speed-up interval is above this."""
    retrace_budget: float = 1.0
    """Seconds that re-tracing a new shape may cost per second that the shape has cost in eager mode."""
    max_graphs: int = 32
    """Graphs that one target may have; further shapes stay eager."""
    backends: tuple[str, ...] = ()
    """Candidates that may take part, by name; empty means all that are installed."""
    compile_training: bool = True
    """Whether training steps may be compiled by Inductor, which takes a minute of processor time for each model."""
    view: str = "auto"
    """How reports are shown: auto, live, static or text."""

    def set(self, name: str, text: str) -> None:
        """Set one field from what a user typed.

        Raises:
            UsageError: the name is unknown, or the text is no value of the field's type.
        """
        setattr(self, name, self._parse(name, text))

    def _parse(self, name: str, text: str) -> Any:
        fields = {field.name for field in dataclasses.fields(self)}
        if name not in fields:
            near = nearest(name, fields)
            raise UsageError(
                f"there is no setting {name!r}",
                hint=f"%deepseek config {near}" if near else "%deepseek config",
            )
        kind = type(getattr(self, name))
        try:
            if kind is bool:
                word = text.strip().lower()
                if word not in _TRUE | _FALSE:
                    raise ValueError(text)
                return word in _TRUE
            if kind is tuple:
                return tuple(part.strip() for part in text.split(",") if part.strip())
            if issubclass(kind, Path):
                return Path(text).expanduser()
            return kind(text)
        except ValueError:
            raise UsageError(
                f"{text!r} is no value for {name}, which is a {kind.__name__}",
                hint=f"%deepseek config {name} {getattr(self, name)}",
            ) from None

    @classmethod
    def from_environment(cls) -> Settings:
        """Defaults overlaid with ``DEEPSEEK_LAB_<FIELD>`` from the environment."""
        made = cls()
        for field in dataclasses.fields(cls):
            text = os.environ.get(f"DEEPSEEK_LAB_{field.name.upper()}")
            if text is not None:
                made.set(field.name, text)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


settings = Settings.from_environment()
"""The settings of this process."""
