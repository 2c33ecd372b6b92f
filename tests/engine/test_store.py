"""The artefact store by itself: whole entries or none, checked on reading, bounded, and able to explain a miss."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from deepseek_lab.base.errors import ArtifactError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.store import LEFT_OVER_S, LOCK, MANIFEST, Key, Store, checksum


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def _key(graph: str = "g", **parts: str) -> Key:
    return Key.of(**{"graph": graph, "weights": "w", "threads": "2", **parts})


def _put(
    store: Store, key: Key, content: bytes = b"content", record: dict[str, object] | None = None
) -> Path:
    scratch = store.scratch()
    (scratch / "inner").mkdir()
    (scratch / "inner" / "model.bin").write_bytes(content)
    return store.put(key, scratch, record or {"chosen": "x"}).directory


def test_what_was_put_is_got(store: Store) -> None:
    assert store.get(_key()) is None
    _put(store, _key(), b"abc", {"chosen": "x", "ratio": 1.5, "order": [None, [1, 0]]})
    entry = store.get(_key())
    assert entry is not None
    assert entry.record == {"chosen": "x", "ratio": 1.5, "order": [None, [1, 0]]}
    assert (entry.directory / "inner" / "model.bin").read_bytes() == b"abc"
    assert not list(store.root.glob(".scratch-*"))


def test_key_does_not_depend_on_the_order_of_its_parts() -> None:
    assert Key.of(a="1", b="2") == Key.of(b="2", a="1")
    assert Key.of(a="1", b="2").digest == Key.of(b="2", a="1").digest
    assert Key.of(a="1", b="2").digest != Key.of(a="12", b="").digest


@pytest.mark.parametrize("part", ["graph", "weights", "threads"])
def test_any_other_part_is_another_entry(store: Store, part: str) -> None:
    _put(store, _key())
    assert store.get(Key.of(**{**dict(_key().parts), part: "other"})) is None


def test_second_put_replaces_the_first(store: Store) -> None:
    _put(store, _key(), b"old")
    _put(store, _key(), b"new")
    entry = store.get(_key())
    assert entry is not None
    assert (entry.directory / "inner" / "model.bin").read_bytes() == b"new"
    assert store.usage()[0] == 1


def test_unfinished_entry_is_not_seen(store: Store) -> None:
    scratch = store.scratch()
    (scratch / "model.bin").write_bytes(b"half")
    assert store.get(_key()) is None
    assert store.usage()[0] == 0


@pytest.mark.parametrize("content", [b"", b"conten", b"Content", b"content ", b"\0" * 7])
def test_any_other_content_is_damage(store: Store, content: bytes) -> None:
    directory = _put(store, _key())
    (directory / "inner" / "model.bin").write_bytes(content)
    assert store.get(_key()) is None
    assert not directory.exists(), "a damaged entry is removed"


def test_file_added_by_somebody_else_does_no_harm(store: Store) -> None:
    directory = _put(store, _key())
    (directory / "note.txt").write_text("hello")
    assert store.get(_key()) is not None


def test_manifest_of_another_format_is_damage(store: Store) -> None:
    manifest = _put(store, _key()) / MANIFEST
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**data, "format": 99}))
    assert store.get(_key()) is None


def test_entry_in_the_place_of_another_is_damage(store: Store) -> None:
    other = _put(store, _key(weights="v"))
    other.rename(other.with_name(_key().digest))
    assert store.get(_key()) is None


def test_mark_that_is_a_path_is_no_mark(store: Store, tmp_path: Path) -> None:
    """What is found damaged where a mark points to is removed."""
    precious = tmp_path / "precious"
    precious.mkdir()
    store.root.mkdir(parents=True, exist_ok=True)
    for content in (str(precious), "..", ".", "", f"../{precious.name}", "0" * 39):
        (store.root / ".weights-w").write_text(content)
        assert store.marked("w") is None, content
    store.mark("w", _key())
    assert store.marked("w") == _key().digest


def test_checksum_sees_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = set()
    for position in range(64):
        path.write_bytes(bytes(int(index == position) for index in range(64)))
        seen.add(checksum(path))
    assert len(seen) == 64


def test_miss_names_the_part_that_changed(store: Store) -> None:
    assert store.explain_miss(_key()) == "nothing like it has been built before"
    _put(store, _key())
    _put(store, _key(weights="v", threads="4", graph="h"))
    assert store.explain_miss(_key(threads="8")) == "built before with another threads"
    assert store.explain_miss(_key(threads="8", weights="u")) == "built before with another threads, weights"


def test_trim_removes_what_was_used_longest_ago(store: Store) -> None:
    keys = [_key(str(number)) for number in range(4)]
    now = time.time()
    for age, key in enumerate(keys):
        manifest = _put(store, key, bytes(1000)) / MANIFEST
        os.utime(manifest, (now - 100 + age, now - 100 + age))
    assert store.get(keys[0]) is not None  # the oldest is used again, and so becomes the newest
    size = store.usage()[1] // 4
    freed = store.trim(limit_bytes=2 * size + size // 2)
    assert freed > 0
    assert [store.get(key) is not None for key in keys] == [True, False, False, True]
    assert store.trim(limit_bytes=2 * size + size // 2) == 0


def test_put_keeps_the_store_within_its_limit(store: Store) -> None:
    settings.cache_limit_bytes = 5_000
    for number in range(8):
        _put(store, _key(str(number)), bytes(1_500))
    count, size = store.usage()
    assert size <= 5_000
    assert 1 <= count < 8


def test_scratch_left_by_a_dead_kernel_is_removed_after_a_day(store: Store) -> None:
    old, new = store.scratch(), store.scratch()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    store.trim()
    assert (old.exists(), new.exists()) == (False, True)


def test_locks_that_nobody_holds_are_removed_after_a_day(store: Store) -> None:
    held, old, new = (store.root / f"{LOCK}{name}" for name in "abc")
    store.root.mkdir(parents=True, exist_ok=True)
    for path in (held, old, new):
        path.touch()
    for path in (held, old):
        os.utime(path, (time.time() - 2 * LEFT_OVER_S,) * 2)
    with held.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        store.trim()
        assert [path.exists() for path in (held, old, new)] == [True, False, True]
    store.trim()
    assert [path.exists() for path in (held, old, new)] == [False, False, True]


def test_marks_go_with_their_entries(store: Store) -> None:
    kept, gone = _key("kept"), _key("gone")
    for key in (kept, gone):
        _put(store, key)
        store.mark(f"weights of {key.digest}", key)
    store.discard(gone)
    store.trim()
    assert store.marked(f"weights of {kept.digest}") == kept.digest
    assert [path.name for path in store.root.glob(".weights-*")] == [f".weights-weights of {kept.digest}"]


def test_put_where_nothing_can_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    scratch = store.scratch()
    (scratch / "file").write_text("x")
    (store.root / _key().digest).mkdir()
    (store.root / _key().digest / "in the way").write_text("x")
    assert store.put(_key(), scratch, {}).directory.is_dir(), "what is in the way is set aside"
    with pytest.raises(ArtifactError, match="could not be stored"):
        store.put(_key(), tmp_path / "no such folder", {})


def _hammer(root: str, seed: int) -> None:
    store, key = Store(Path(root)), _key()
    for _ in range(40):
        # Given up after some tries: whoever calls this goes on without an entry.
        with contextlib.suppress(ArtifactError):
            _put(store, key, bytes([seed]) * 5000, {"seed": seed})
        entry = store.get(key)
        if entry is not None:
            try:
                content = (entry.directory / "inner" / "model.bin").read_bytes()
            except FileNotFoundError:
                continue  # replaced between the check and the read
            assert content in {bytes([number]) * 5000 for number in range(1, 4)}
    store.discard(_key("other"))


def test_many_writers_of_one_entry(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_hammer, args=(str(store.root.parent), seed)) for seed in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    entry = store.get(_key())
    assert entry is not None
    assert (entry.directory / "inner" / "model.bin").read_bytes() == bytes([entry.record["seed"]]) * 5000
    assert not list(store.root.glob(".scratch-*"))
