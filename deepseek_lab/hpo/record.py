"""What a study has seen, on disk as an Optuna study: a trial is written once, when it has ended.

A process that is killed leaves every trial whole or not at all. Small trials and those that were stopped are pruned
trials to Optuna, whole ones complete ones, so that its own tools and its dashboard read a study as they would any.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import datetime as dt
import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepseek_lab.base.errors import DeepseekError, TargetError, UsageError, nearest
from deepseek_lab.hpo.places import check_name as check_name
from deepseek_lab.hpo.places import file_of as file_of
from deepseek_lab.hpo.places import names as names
from deepseek_lab.hpo.spaces import Plain, Space

VERSION = 1
_ATTRIBUTE = "deepseek_lab"
_REPEATS = " (repeats)"


class StudyChanged(UsageError):
    """A cell is not the one that its study was made with."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A trial that has ended."""

    config: str
    """Names the values; trials of the same ones, smaller or with other seeds, share it."""
    purpose: str
    """``defaults``, ``search`` or ``repeat``."""
    params: dict[str, Plain]
    status: str
    """``complete``, ``stopped`` or ``failed``."""
    values: tuple[float, ...] = ()
    final: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    constraints: tuple[float, ...] = ()
    turns: float = 1.0
    share: float = 1.0
    rung: int = 0
    """0 for the smallest; whole trials stand on the last one."""
    unseen: bool = False
    """Whether its values were measured on the half of the validation data that the search does not see."""
    num_turns: int = 0
    loads: bool = False
    halves: bool = False
    seed: int = 0
    seconds: float = 0.0
    error: str = ""
    text: str = ""
    line: int | None = None
    at_s: float = dataclasses.field(default_factory=time.time)
    number: int = -1
    """In the study; -1 before it is written."""

    @property
    def whole(self) -> bool:
        """Whether it was the cell as it stands."""
        return self.turns >= 1.0 and self.share >= 1.0

    @property
    def value(self) -> float | None:
        """Of the first metric: the last one that was reached."""
        if self.values:
            return self.values[0]
        return self.curve[-1][1] if self.curve and self.status == "stopped" else None

    @property
    def violation(self) -> float:
        """By how much it breaks its constraints; 0 where it meets them."""
        return sum(max(0.0, one) for one in self.constraints)


def ranked(entries: Iterable[Entry], directions: Sequence[str]) -> list[Entry]:
    """Whole trials that came to their end and meet their constraints, the best by the first metric first."""
    whole = [
        one
        for one in entries
        if one.whole and one.status == "complete" and one.purpose != "repeat" and not one.violation
    ]
    sign = -1.0 if directions[0] == "max" else 1.0
    return sorted(whole, key=lambda one: sign * one.values[0])


def new_config() -> str:
    """A name that no other kernel gives."""
    return uuid.uuid4().hex[:12]


def distribution(space: Space) -> BaseDistribution:
    """A space as Optuna has it."""
    match space.kind:
        case "log":
            return FloatDistribution(space.low, space.high, log=True)
        case "uniform":
            return FloatDistribution(space.low, space.high, step=space.step or None)
        case "integer":
            return IntDistribution(int(space.low), int(space.high), step=int(space.step))
        case "log-integer":
            return IntDistribution(int(space.low), int(space.high), log=True)
        case _:
            return CategoricalDistribution(space.labels)


def space_of(found: BaseDistribution) -> Space:
    """The space that :func:`distribution` was given; its default is not known."""
    match found:
        case FloatDistribution(log=True):
            return Space("log", found.low, found.high)
        case FloatDistribution():
            return Space("uniform", found.low, found.high, found.step or 0.0)
        case IntDistribution(log=True):
            return Space("log-integer", found.low, found.high, 1)
        case IntDistribution():
            return Space("integer", found.low, found.high, found.step)
        case CategoricalDistribution():
            return Space("choice", labels=tuple(str(one) for one in found.choices), default="")
        case _:
            raise TypeError(type(found).__name__)


def digest(source: str) -> str:
    """Of what a cell says; comments and blank lines say nothing."""
    try:
        text = ast.dump(ast.parse(source))
    except SyntaxError:
        text = source
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record:
    """One study.

    Args:
        name: Of the study.
        storage: Where it is; by default a file in the user's store.
    """

    def __init__(self, name: str, storage: str | None = None) -> None:
        self.name, self._storage = name, storage_of(name, storage)
        self.where, self._elsewhere = _unkeyed(storage or str(file_of(name))), storage is not None
        self.spaces: dict[str, Space] = {}
        self.failed = ""
        """Why trials could not be written, if so; they are kept here and written when that is possible."""
        self._unsaved: list[Entry] = []
        self._seen: dict[int, int] = {}
        self._ids: dict[str, int] = {}
        self._facts: dict[str, Any] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """``metrics``, ``directions``, ``source``, ``file`` and what else was said of the study."""
        return self._facts

    def begin(self, source: str, file: str, metrics: tuple[str, ...], directions: tuple[str, ...]) -> None:
        """Make the study, or go on with it.

        Raises:
            StudyChanged: it was made with another cell or for other metrics.
            TargetError: it is of a newer version, or cannot be written.
        """
        facts = {
            "version": VERSION,
            "metrics": list(metrics),
            "directions": list(directions),
            "cell": digest(source),
            "source": source,
            "file": file,
        }
        try:
            if not self.exists():
                self._create(self.name, directions)
                self._say(facts)
                return
        except OSError as error:
            raise TargetError(
                f"the study cannot be written to {self.where} ({error.strerror})",
                hint="--storage with a place that can be written to",
            ) from None
        self.load()
        old = self._facts
        if (old["metrics"], old["directions"]) != (facts["metrics"], facts["directions"]):
            told = ", ".join(
                f"{one} {way}" for one, way in zip(old["metrics"], old["directions"], strict=True)
            )
            raise StudyChanged(
                f"study {self.name} searches for {told}",
                hint="--name with another name, or --on-change restart",
            )
        if old["cell"] != facts["cell"]:
            raise StudyChanged(
                f"study {self.name} was made with another cell: {_difference(old['source'], source)}",
                hint=f"--name with another name, and --warm-start {self.name} to try its best first there; --on-change "
                "restart forgets its trials, --on-change continue keeps them where the ranges are the same",
            )

    def accept(self, source: str, file: str) -> None:
        """Go on with a cell that has changed."""
        self._say({**self._facts, "cell": digest(source), "source": source, "file": file})

    def exists(self) -> bool:
        """Whether there is such a study."""
        return self.name in {one.study_name for one in self._storage.get_all_studies()}

    def load(self) -> None:
        """Read what is known of the study.

        Raises:
            TargetError: there is none, or it is of a newer version or not of this package.
        """
        if not self.exists():
            known = names_in(self._storage) if self._elsewhere else names()
            near = nearest(self.name, known)
            raise TargetError(
                f"there is no study {self.name!r}" + (f" in {self.where}" if self._elsewhere else ""),
                hint=(f"%deepseek hpo show {near}" if near else "%deepseek hpo list")
                + (" --storage and the same place" if self._elsewhere else ""),
            )
        number = self._id(self.name)
        facts = self._storage.get_study_user_attrs(number).get(_ATTRIBUTE)
        if facts is None:
            raise TargetError(f"study {self.name} was not made by a cell", hint="--name with another name")
        if facts["version"] > VERSION:
            raise TargetError(
                f"study {self.name} is of a newer version (format {facts['version']}, here {VERSION} is known)",
                hint="--name with another name, or pip install -U deepseek-lab",
            )
        self._facts = facts

    def _say(self, facts: dict[str, Any]) -> None:
        self._storage.set_study_user_attr(self._id(self.name), _ATTRIBUTE, facts)
        self._facts = facts

    def say(self, **facts: Any) -> None:
        """Write something about the study, plain JSON data."""
        with contextlib.suppress(OSError):
            self._say({**self._facts, **facts})

    def _create(self, name: str, directions: tuple[str, ...]) -> int:
        try:
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=["maximize" if one == "max" else "minimize" for one in directions],
                load_if_exists=True,
            )
        finally:
            self._ids.pop(name, None)
        return study._study_id

    def _id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = self._storage.get_study_id_from_name(name)
        return self._ids[name]

    def news(self) -> list[Entry]:
        """Trials that have ended since the last call, of all kernels that work on the study."""
        found: list[Entry] = []
        names = {one.study_name for one in self._storage.get_all_studies()}
        for name in (self.name, self.name + _REPEATS):
            if name not in names:
                continue
            number = self._id(name)
            trials = self._storage.get_all_trials(number, deepcopy=False)
            seen = self._seen.get(number, 0)
            for trial in trials[seen:]:
                if not trial.state.is_finished():
                    break
                seen += 1
                self._learn(trial)
                if (entry := _entry(trial)) is not None:
                    found.append(entry)
            self._seen[number] = seen
        return sorted(found, key=lambda entry: entry.at_s)

    def _learn(self, trial: FrozenTrial) -> None:
        for name, one in trial.distributions.items():
            self.spaces.setdefault(name, space_of(one))

    def known(self, name: str, space: Space) -> str:
        """The name under which a space is kept: with a number, where another one has the name already."""
        for number in range(1, 1000):
            kept = name if number == 1 else f"{name}_{number}"
            if self.spaces.setdefault(kept, space).same_range(space):
                if not self.spaces[kept].default and self.spaces[kept].default != space.default:
                    self.spaces[kept] = space
                return kept
        raise ValueError(f"{name} has more than 999 different ranges")

    def add(self, entry: Entry) -> None:
        """Write a trial that has ended; where that fails, it is tried again with the next one."""
        self._unsaved.append(entry)
        self.flush()

    def flush(self) -> None:
        """Write what could not be written before."""
        while self._unsaved:
            entry = self._unsaved[0]
            name = self.name + (_REPEATS if entry.purpose == "repeat" else "")
            try:
                if name != self.name and name not in self._ids:
                    self._create(name, tuple(self._facts["directions"]))
                self._storage.create_new_trial(self._id(name), template_trial=self._frozen(entry))
            except OSError as error:
                self.failed = error.strerror or str(error)
                return
            self.failed = ""
            self._unsaved.pop(0)

    @property
    def unsaved(self) -> list[Entry]:
        """Trials that stand here only."""
        return list(self._unsaved)

    def _frozen(self, entry: Entry) -> FrozenTrial:
        states = {
            "complete": TrialState.COMPLETE if entry.whole else TrialState.PRUNED,
            "stopped": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        facts = dataclasses.asdict(entry)
        for known in ("params", "values", "curve", "number"):
            del facts[known]
        made = create_trial(
            state=states[entry.status],
            values=list(entry.values) if entry.status == "complete" else None,
            params=entry.params,
            distributions={name: distribution(self.spaces[name]) for name in entry.params},
            user_attrs={_ATTRIBUTE: facts},
            constraints={str(index): one for index, one in enumerate(entry.constraints)} or None,
            intermediate_values=dict(entry.curve),
        )
        made.datetime_complete = dt.datetime.fromtimestamp(entry.at_s)
        made.datetime_start = dt.datetime.fromtimestamp(entry.at_s - entry.seconds)
        return made

    def remove(self) -> None:
        """Forget the study and all of its trials."""
        for name in (self.name, self.name + _REPEATS):
            with contextlib.suppress(KeyError):
                self._storage.delete_study(self._id(name))
        self._ids.clear()
        self._seen.clear()
        self.spaces.clear()
        self._facts = {}


def _entry(trial: FrozenTrial) -> Entry | None:
    facts = trial.user_attrs.get(_ATTRIBUTE)
    if facts is None:
        return None
    known = {field.name for field in dataclasses.fields(Entry)}
    return Entry(
        **{
            **{name: value for name, value in facts.items() if name in known},
            "constraints": tuple(facts["constraints"]),
            "params": dict(trial.params),
            "values": tuple(trial.values or ()) if facts["status"] == "complete" else (),
            "curve": tuple(sorted(trial.intermediate_values.items())),
            "number": trial.number,
        }
    )


def _difference(old: str, new: str) -> str:
    """The first line in which two cells differ, in words."""
    before, after = ([line for line in text.splitlines() if line.strip()] for text in (old, new))
    for one, other in zip(before, after, strict=False):
        if one != other:
            return f"it had {one.strip()!r} where this one has {other.strip()!r}"
    return f"it had {len(before)} lines, this one has {len(after)}"


def storage_of(name: str, storage: str | None) -> BaseStorage:
    """Where a study is.

    Raises:
        TargetError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if storage is not None and "://" in storage:
            return optuna.storages.get_storage(storage)
        path = Path(storage).expanduser() if storage is not None else file_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(Journal(path))
    except DeepseekError:
        raise
    except Exception as error:
        raise TargetError(
            _unkeyed(f"the studies at {storage or file_of(name)} cannot be opened ({error})"),
            hint="--storage sqlite:///FILE, the URL of a database, or the path of a file",
        ) from None


def _unkeyed(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def names_in(storage: BaseStorage) -> list[str]:
    """The studies of a storage, the one that was made last first."""
    found = (one.study_name for one in reversed(storage.get_all_studies()))
    return [name for name in found if not name.endswith(_REPEATS)]


class Journal(JournalFileBackend):
    """Optuna's file of one JSON object a line, which a writer that is killed or has no room left does not spoil."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write all of them or none; what a killed writer left of a line goes away."""
        text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in logs)
        with _locked(self._path), self._path.open("r+b") as file:
            end = _whole_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise


def _whole_lines(file: Any) -> int:
    """Bytes up to the end of the last line that has one."""
    end: int = file.seek(0, os.SEEK_END)
    if not end:
        return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    size = 4096
    while True:
        start = max(0, end - size)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        if not start:
            return 0
        size *= 4


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with a file; the system lets go of the lock when its holder ends, in whatever way."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
