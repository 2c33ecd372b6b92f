"""Studies on disk: killed writers, full disks, other cells, other versions."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.hpo.record import (
    Entry,
    Record,
    StudyChanged,
    check_name,
    file_of,
    names,
    names_in,
    new_config,
    storage_of,
)
from deepseek_lab.hpo.spaces import Space
from tests.hpo.searched import CURVE, PLAIN, Look

X = Space("uniform", 0.0, 1.0, default=0.5)


def begun(name: str = "study", source: str = PLAIN) -> Record:
    record = Record(name)
    record.begin(source, "<cell>", ("loss",), ("min",))
    record.known("x", X)
    return record


def entry(value: float, **others: object) -> Entry:
    return Entry(new_config(), "search", {"x": value}, "complete", (value,), **others)  # type: ignore[arg-type]


def read(name: str = "study") -> list[Entry]:
    record = Record(name)
    record.load()
    return record.news()


def test_what_is_written_is_read_again(store: Path) -> None:
    record = begun()
    made = [
        entry(0.25, seconds=1.5, curve=((0, 0.5), (1, 0.25)), constraints=(-1.0,)),
        Entry(new_config(), "search", {"x": 0.5}, "failed", error="RuntimeError: no", text="...", line=3),
        Entry(new_config(), "search", {"x": 0.75}, "stopped", curve=((0, 0.9),), turns=0.5),
    ]
    for one in made:
        record.add(one)
    for one, again in zip(made, read(), strict=True):
        assert again.number >= 0
        assert {**vars(again), "number": -1} == vars(one)


def test_optuna_itself_reads_a_study(store: Path, look: Look) -> None:
    done = look(PLAIN, metrics=("loss",), directions=("min",), trials=5)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(file_of("study")))
    )
    study = optuna.load_study(study_name="study", storage=storage)
    assert study.best_value == done.result.best.values[0]
    assert len(study.trials) == 5


def test_half_a_line_of_a_killed_writer_goes_away(store: Path) -> None:
    record = begun()
    record.add(entry(0.25))
    with file_of("study").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","study')
    assert [one.values for one in read()] == [(0.25,)]
    record.add(entry(0.5))
    begun().add(entry(0.75))
    assert [one.values[0] for one in read()] == [0.25, 0.5, 0.75]
    assert all(json.loads(line) for line in file_of("study").read_text().splitlines())


FULL = """
import resource, signal, sys
from deepseek_lab.hpo.record import Entry, Record, new_config
from deepseek_lab.hpo.spaces import Space
record = Record("study"); record.load(); record.known("x", Space("uniform", 0.0, 1.0, default=0.5))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = record._storage._backend._path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
record.add(Entry(new_config(), "search", {"x": 0.5}, "complete", (0.5,)))
print(record.failed, "|", len(record.unsaved))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record.add(Entry(new_config(), "search", {"x": 0.75}, "complete", (0.75,)))
print(record.failed, "|", len(record.unsaved))
"""


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(store: Path) -> None:
    begun().add(entry(0.25))
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        capture_output=True,
        text=True,
        env={**os.environ, "DEEPSEEK_LAB_CACHE_DIR": str(store)},
        check=True,
    )
    assert done.stdout.splitlines() == ["File too large | 1", " | 0"]
    assert [one.values[0] for one in read()] == [0.25, 0.5, 0.75]


def test_a_folder_that_cannot_be_written_is_told(store: Path) -> None:
    (store / "hpo").write_text("a file where a folder should be")
    with pytest.raises(TargetError, match="cannot be opened") as error:
        begun()
    assert "--storage" in error.value.hint


def test_another_cell_is_asked_about_and_never_mixed(look: Look) -> None:
    look(CURVE, trials=3)
    changed = CURVE.replace("1e-5", "1e-4")
    with pytest.raises(StudyChanged, match=r"it had 'lr = ds.log\(1e-5, 1e-1\)' where this one has") as error:
        look(changed, trials=5)
    assert "--on-change restart" in error.value.hint
    record = Record("study")
    record.load()
    record.accept(changed, "<cell>")
    with pytest.raises(StudyChanged, match="other ranges: lr_2"):
        look(changed, trials=5, changed=True)
    assert {one.params["lr"] >= 1e-5 for one in read()} == {True}
    assert len({one.config for one in read()}) == 3


def test_comments_change_no_cell(look: Look) -> None:
    look(CURVE, trials=3)
    look("# what this is\n" + CURVE.replace("accuracy = 0.0", "accuracy = 0.0  # at first"), trials=4)


def test_another_metric_is_another_study(look: Look) -> None:
    look(PLAIN, metrics=("loss",), directions=("min",), trials=2)
    with pytest.raises(StudyChanged, match="searches for loss min"):
        look(PLAIN, metrics=("x",), directions=("max",), trials=2)


def test_a_study_of_a_newer_version_is_left_alone(store: Path) -> None:
    record = begun()
    record.say(version=99)
    before = file_of("study").read_bytes()
    with pytest.raises(TargetError, match="newer version"):
        begun()
    assert file_of("study").read_bytes() == before


def test_a_study_that_no_cell_made_is_left_alone(store: Path) -> None:
    Record("study")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(file_of("study")))
    )
    optuna.create_study(study_name="study", storage=storage)
    with pytest.raises(TargetError, match="not made by a cell"):
        begun()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 200, "a\nb"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a study"):
        check_name(name)


def test_studies_are_listed_and_forgotten(store: Path) -> None:
    begun("one").add(entry(0.5))
    begun("two").add(entry(0.5))
    shutil.copy(file_of("one"), file_of(".hidden"))
    assert set(names()) == {"one", "two"}, "nothing that cannot be a study"
    record = Record("one")
    record.remove()
    with pytest.raises(TargetError, match="no study 'one'"):
        read("one")
    assert len(read("two")) == 1


def test_a_storage_lists_its_own(store: Path, tmp_path: Path) -> None:
    begun("here")
    place = f"sqlite:///{tmp_path}/studies.db"
    for name in ("first", "second"):
        record = Record(name, place)
        record.begin("x = 1", "<cell>", ("loss",), ("min",))
        record.known("x", X)
        record.add(entry(0.5))
        record.add(dataclasses.replace(entry(0.5), purpose="repeat"))
    assert names_in(storage_of("", place)) == ["second", "first"]
    with pytest.raises(TargetError, match=r"no study 'secnd' in sqlite:.*") as error:
        Record("secnd", place).load()
    assert error.value.hint == "%deepseek hpo show second --storage and the same place"


def test_no_password_of_a_storage_is_shown(store: Path) -> None:
    with pytest.raises(TargetError, match="cannot be opened") as error:
        Record("study", "nothing+like://user:pa55word@host/db")
    assert "pa55word" not in f"{error.value.message} {error.value.hint}"


SEARCH = """
import sys, time
from deepseek_lab.base import events as ev
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.search import Options, Search
from deepseek_lab.hpo.workers import Task
from deepseek_lab.processes.sealed import Sealed
from deepseek_lab.processes.travel import Luggage
SOURCE = '''
import time
x = ds.uniform(0, 1)
loss = 1.0
for step in range(8):
    time.sleep(0.01)
    loss = (x - 0.3) ** 2 + 1 / (step + 1)
'''
if __name__ == "__main__":
    record = Record("study")
    record.begin(SOURCE, "<cell>", ("loss",), ("min",))
    options = Options(("loss",), ("min",), trials=24, workers=2, repeats=0)
    task = Task(SOURCE, "<cell>", ("loss",), None, ("loss",))
    search = Search(task, Sealed(Luggage({}, []).pack()), options, record, ev.EventLog())
    print("ready", flush=True)
    search.run()
    print("done", search.result.best.values[0], flush=True)
"""


def test_killed_at_random_moments_nothing_is_lost_and_nothing_is_counted_twice(
    store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "search.py"
    script.write_text(SEARCH)
    draw = random.Random(7)
    seen: dict[tuple[str, int], tuple[float, ...]] = {}
    for kill in [True, True, False]:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "DEEPSEEK_LAB_CACHE_DIR": str(store), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        children = []
        if kill:
            time.sleep(1.2 + 1.0 * draw.random())
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
        last = process.stdout.read()
        process.wait()
        process.stdout.close()
        now = {(one.config, one.rung): one.values for one in read()} if file_of("study").exists() else {}
        assert len(now) == len(read())
        assert {key: now[key] for key in seen} == seen
        seen = now
        psutil.wait_procs(children, timeout=10)
        assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert len({config for config, _ in seen}) == 24
    best = min(one.values[0] for one in read() if one.whole)
    assert float(last.split()[1]) == best
