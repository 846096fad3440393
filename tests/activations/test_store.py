"""The store hands over what was put into it or nothing, and never stands in the way.

Processes and threads that fill the same entry take turns and get the same bytes. Damage is named,
removed and never returned. A disk that is full, read-only or no folder at all ends in one kind of
error; reading never does. The least recently used entries make room.
"""

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np
import pytest

from actor_lens.activations.store import (
    DEFAULT_LIMIT,
    Store,
    StoreError,
    StoreWarning,
    default_store,
)
from actor_lens.activations.store_files import ARRAY_FILE, JOURNAL_FILE, MANIFEST_FILE, Layout
from actor_lens.errors import UserError
from actor_lens.files.sizes import format_size, parse_size

LAYOUT = Layout(planes=2, starts=(0, 2, 5), width=4)
ARRAY = np.arange(1, 41, dtype=np.uint8)
ROWS = [ARRAY.reshape(2, 5, 4)[:, :2], ARRAY.reshape(2, 5, 4)[:, 2:]]


def planted(name="a"):
    return {"kind": "planted", "name": name}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def fill(store, name="a"):
    """A whole entry, only of rows that were missing."""
    with store.filling(planted(name), LAYOUT) as filling:
        missing = filling.missing
        filling.put(missing, [ROWS[row] for row in missing])
        return filling.finish()


def begin(store, name="a"):
    """An entry that was cut short after its first row."""
    with store.filling(planted(name), LAYOUT) as filling:
        filling.put([0], [ROWS[0]])


def folder_of(store, name="a"):
    return store.folder / store.key(planted(name))


def flip(path, place):
    """Change a byte; size and time of the file stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def age(path, days=2):
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def names(entries):
    return [entry.identity.get("name") for entry in entries]


def refusing(code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    return refuse


# What is put is read


def test_what_was_put_is_read(store):
    assert store.read(planted()) is None
    np.testing.assert_array_equal(fill(store), ARRAY)
    found = store.read(planted())
    assert isinstance(found, np.memmap)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ARRAY)
    assert store.read(planted("b")) is None


def test_nothing_is_made_before_the_first_entry(store):
    assert store.read(planted()) is None
    assert store.entries() == store.verify() == []
    assert not store.folder.exists()


def test_only_its_user_may_look_into_the_store(store):
    fill(store)
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_every_part_of_the_identity_counts_and_its_order_does_not():
    identity = {"kind": "planted", "layers": [1, 2], "format": 1, "scale": 0.5}
    same = {"scale": 0.5, "format": 1, "layers": [1, 2], "kind": "planted"}
    others = [{**identity, "layers": [2, 1]}, {**identity, "format": 2}, {**identity, "scale": 5}]
    keys = {Store.key(one) for one in [identity, *others]}
    assert len(keys) == 4
    assert Store.key(same) == Store.key(identity)
    assert all(len(key) == 32 and int(key, 16) for key in keys)


def test_the_format_of_entries_that_users_have_stays(store):
    """Name and manifest of an entry as they were written from the beginning on."""
    identity = {"kind": "residuals", "model": "tiny", "layer": None, "prompts": 2}
    manifest = (
        '{"format": 1, "identity": {"kind": "residuals", "model": "tiny", "layer": null, '
        '"prompts": 2}, "layout": {"planes": 2, "starts": [0, 2, 5], "width": 4}, "nbytes": 40, '
        '"chunks": ["80b169aa3491d43cb26e61ffd7973525"], '
        '"xxh3": "183428ffa576c10582f4497f992a9c33"}'
    )
    older = store.folder / "335d997f7774139fcba5a85d4d40297c"
    older.mkdir(parents=True)
    (older / ARRAY_FILE).write_bytes(ARRAY.tobytes())
    (older / MANIFEST_FILE).write_text(manifest)
    np.testing.assert_array_equal(store.read(identity), ARRAY)
    newer = Store(store.folder.with_name("newer"))
    with newer.filling(identity, LAYOUT) as filling:
        filling.put([0, 1], ROWS)
        filling.finish()
    assert (newer.folder / older.name / MANIFEST_FILE).read_text() == manifest


def test_an_identity_with_tuples_is_read_again(store):
    layout = Layout(1, (0, 1), 3)
    with store.filling({"kind": "k", "layers": (1, 2)}, layout) as filling:
        filling.put([0], [np.frombuffer(b"abc", dtype=np.uint8)])
        filling.finish()
    assert bytes(store.read({"kind": "k", "layers": [1, 2]})) == b"abc"
    assert bytes(store.read({"kind": "k", "layers": (1, 2)})) == b"abc"


def test_an_entry_without_bytes_is_an_entry(store):
    with store.filling(planted(), Layout(3, (0,), 4)) as filling:
        assert filling.missing == ()
        assert filling.finish().shape == (0,)
    assert store.read(planted()).shape == (0,)
    assert store.verify()[0].fault == ""


def test_rows_that_were_put_are_not_put_again(store):
    begin(store)
    with store.filling(planted(), LAYOUT) as filling:
        assert filling.missing == (1,)
        filling.put([1], [ROWS[1]])
        np.testing.assert_array_equal(filling.finish(), ARRAY)
        assert filling.missing == ()
        np.testing.assert_array_equal(filling.finish(), ARRAY)
    with store.filling(planted(), LAYOUT) as filling:
        assert filling.missing == ()
        filling.put([0], [np.zeros_like(ROWS[0])])  # of no effect: a whole entry never changes
        np.testing.assert_array_equal(filling.finish(), ARRAY)
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


def test_an_exception_while_filling_keeps_what_was_put(store):
    def interrupted():
        with store.filling(planted(), LAYOUT) as filling:
            filling.put([0], [ROWS[0]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with store.filling(planted(), LAYOUT) as filling:
        assert filling.missing == (1,)


def test_after_its_context_a_filling_touches_nothing(store):
    with store.filling(planted(), LAYOUT) as filling:
        filling.put([0, 1], ROWS)
    for use in (lambda: filling.put([0], [ROWS[0]]), filling.finish):
        with pytest.raises(ValueError, match="closed"):
            use()
    with store.filling(planted(), LAYOUT) as again:
        assert again.missing == ()


def test_what_users_write_into_a_map_stays_theirs(store):
    for array in (fill(store), store.read(planted())):
        array[:] = 0
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


def test_no_text_of_an_identity_is_in_a_file_name(store):
    fill(store, "secret")
    assert not [path for path in store.folder.rglob("*") if "secret" in path.name]


# Damage


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        (ARRAY_FILE, 0, "chunk 0 of its array differs from its checksum"),
        (ARRAY_FILE, 39, "chunk 0 of its array differs from its checksum"),
        (MANIFEST_FILE, 0, "its manifest is damaged"),
        (MANIFEST_FILE, -3, "its manifest is damaged"),
    ],
)
def test_damage_is_named_removed_and_never_returned(store, name, place, fault):
    fill(store)
    fill(store, "other")
    flip(folder_of(store) / name, place)
    key = store.key(planted())
    assert {entry.key: entry.fault for entry in store.verify()} == {
        key: fault,
        store.key(planted("other")): "",
    }
    with pytest.warns(StoreWarning, match=rf"entry {key} .* is damaged \({fault}\); it is comp"):
        assert store.read(planted()) is None
    assert names(store.entries()) == ["other"]
    assert not folder_of(store).exists()
    assert store.read(planted()) is None  # without another warning
    np.testing.assert_array_equal(fill(store), ARRAY)


def test_damage_found_when_filling_is_filled_anew(store):
    fill(store)
    flip(folder_of(store) / ARRAY_FILE, 7)
    with pytest.warns(StoreWarning, match="is damaged"):
        found = fill(store)
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


@pytest.mark.parametrize("use", [lambda store: store.read(planted()), fill])
def test_an_entry_under_the_name_of_another_is_not_taken_for_it(store, use):
    with store.filling(planted("other"), LAYOUT) as filling:
        filling.put([0, 1], [np.zeros_like(row) for row in ROWS])
        filling.finish()
    folder_of(store, "other").rename(folder_of(store))
    assert store.verify()[0].fault == "it belongs to something else"
    with pytest.warns(StoreWarning, match="belongs to something else"):
        found = use(store)
    assert found is None or found.tolist() == ARRAY.tolist()
    assert names(store.entries()) == ([] if found is None else ["a"])


def test_damage_in_a_store_that_cannot_be_written_is_never_returned(store, monkeypatch):
    fill(store)
    flip(folder_of(store) / ARRAY_FILE, 7)
    monkeypatch.setattr(os, "replace", refusing(errno.EROFS))
    for _ in range(2):
        with pytest.warns(StoreWarning, match="is damaged"):
            assert store.read(planted()) is None
    with (
        pytest.raises(StoreError, match="Read-only file system"),
        store.filling(planted(), LAYOUT),
    ):
        pytest.fail("a damaged entry was opened")


def test_an_entry_that_was_mended_meanwhile_is_read(store, monkeypatch):
    """Another process put a sound entry in the place of the damaged one before the lock is had."""
    fill(store)
    flip(folder_of(store) / ARRAY_FILE, 7)
    real = Store._locked

    def mended_before(self, *args, **keywords):
        flip(folder_of(store) / ARRAY_FILE, 7)
        return real(self, *args, **keywords)

    monkeypatch.setattr(Store, "_locked", mended_before)
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


def test_an_entry_that_cannot_be_read_now_is_not_removed(store, monkeypatch):
    fill(store)
    real = os.open

    def too_many(path, *args, **keywords):
        if Path(path).name == ARRAY_FILE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        with pytest.warns(StoreWarning, match=r"cannot be read \(Too many open files\)"):
            assert store.read(planted()) is None
        assert store.verify()[0].fault == "it cannot be read: Too many open files"
        with pytest.raises(StoreError, match="Too many open files"):
            fill(store)
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


def test_an_entry_that_vanishes_while_it_is_read_is_absent(store, monkeypatch):
    fill(store)
    real = os.open

    def pruned_before(path, *args, **keywords):
        if Path(path).name == ARRAY_FILE:
            monkeypatch.undo()
            assert len(store.prune(0)) == 1
        return real(path, *args, **keywords)

    monkeypatch.setattr(os, "open", pruned_before)
    assert store.read(planted()) is None


def test_a_map_outlives_its_entry(store):
    array = fill(store)
    assert len(store.prune(0)) == 1
    np.testing.assert_array_equal(array, ARRAY)


# A disk that says no


def test_a_full_disk_is_told_and_gets_its_space_back(store, monkeypatch):
    with store.filling(planted(), LAYOUT) as filling:
        filling.put([0], [ROWS[0]])
        monkeypatch.setattr(os, "pwrite", refusing(errno.ENOSPC))
        with pytest.raises(StoreError) as raised:
            filling.put([1], [ROWS[1]])
    message = str(raised.value)
    for part in (str(store.folder), os.strerror(errno.ENOSPC), "prune", "ACTOR_LENS_STORE"):
        assert part in message
    assert "\n" not in message
    assert store.entries() == []
    assert [path.name for path in store.folder.iterdir()] == ["locks"]


@pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "replace"])
def test_a_disk_that_fails_is_told_and_the_next_filling_works(store, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing(errno.EIO))
        with pytest.raises(StoreError, match="Input/output error"):
            fill(store)
    assert store.entries() == []
    np.testing.assert_array_equal(fill(store), ARRAY)


@contextlib.contextmanager
def no_room():
    """No file may grow beyond 10,000 bytes, as on a disk without room."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_no_room_is_told_before_any_work_is_done(store):
    fill(store, "small")
    with (
        no_room(),
        pytest.raises(StoreError, match="File too large"),
        store.filling(planted(), Layout(1, (0, 1), 10**6)),
    ):
        pytest.fail("the filling started")
    assert names(store.entries()) == ["small"]


def test_a_file_in_the_way_is_told_and_reading_finds_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "store"):
        store = Store(folder)
        assert store.read(planted()) is None
        assert store.entries() == store.verify() == store.prune(0) == []
        with (
            pytest.raises(StoreError, match=r"cannot be used \((File exists|Not a directory)\)"),
            store.filling(planted(), LAYOUT),
        ):
            pytest.fail("the filling started")


def test_a_folder_that_may_not_be_read_holds_nothing(store, monkeypatch):
    fill(store)
    monkeypatch.setattr(Path, "read_text", refusing(errno.EACCES))
    monkeypatch.setattr(Path, "iterdir", refusing(errno.EACCES))
    with pytest.warns(StoreWarning, match=r"cannot be read \(Permission denied\)"):
        assert store.read(planted()) is None
    assert store.entries() == store.verify() == store.prune(0) == []


def test_a_read_only_store_is_read(store, monkeypatch):
    fill(store)
    for name in ("utime", "replace", "mkdir", "write", "pwrite", "unlink"):
        monkeypatch.setattr(os, name, refusing(errno.EROFS))
    monkeypatch.setattr(filelock.FileLock, "acquire", refusing(errno.EROFS))
    np.testing.assert_array_equal(store.read(planted()), ARRAY)
    assert names(store.verify()) == ["a"]
    assert store.prune(0) == []
    with (
        pytest.raises(StoreError, match="Read-only file system"),
        store.filling(planted("b"), LAYOUT),
    ):
        pytest.fail("the filling started")


# Several at once

CHILD = """
import sys
import numpy as np
from actor_lens.activations.store import Store
from actor_lens.activations.store_files import Layout
array = np.arange(1, 41, dtype=np.uint8)
planes = array.reshape(2, 5, 4)
with Store(sys.argv[1]).filling({"kind": "planted", "name": "a"}, Layout(2, (0, 2, 5), 4)) as it:
    it.put([0], [planes[:, :2]])
    print("holds", flush=True)
    assert sys.stdin.readline() == "go on\\n"
    it.put([1], [planes[:, 2:]])
    assert np.array_equal(it.finish(), array)
"""


@pytest.fixture
def holder(store):
    """Another process that has put the first row and waits to be told to go on."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "holds\n"
        yield child
        child.kill()


def test_processes_that_fill_the_same_entry_take_turns(store, holder):
    told = []

    def on_wait(message):
        told.append(message)
        holder.stdin.write("go on\n")
        holder.stdin.flush()

    with store.filling(planted(), LAYOUT, on_wait=on_wait) as filling:
        assert len(told) == 1
        assert "another process" in told[0]
        assert filling.missing == ()
        np.testing.assert_array_equal(filling.finish(), ARRAY)
    assert holder.wait(timeout=20) == 0


def test_another_entry_waits_for_nobody(store, holder):
    np.testing.assert_array_equal(fill(store, "b"), ARRAY)
    assert holder.poll() is None


def test_a_killed_process_leaves_its_rows_and_no_lock(store, holder):
    holder.kill()
    holder.wait(timeout=20)
    with store.filling(planted(), LAYOUT, on_wait=pytest.fail) as filling:
        assert filling.missing == (1,)


def test_what_a_process_is_filling_is_not_pruned(store, holder):
    fill(store, "b")
    partial = store.folder / f"{store.key(planted())}.partial"
    age(partial / JOURNAL_FILE)
    assert names(store.prune(0)) == ["b"]
    assert [entry.complete for entry in store.entries()] == [False]
    holder.kill()
    holder.wait(timeout=20)
    assert names(store.prune(DEFAULT_LIMIT)) == ["a"]


@pytest.mark.usefixtures("holder")
def test_damage_that_a_process_holds_is_left_to_it(store):
    """The reader neither waits nor returns it."""
    fill(store, "b")
    folder_of(store, "b").rename(folder_of(store))
    with pytest.warns(StoreWarning, match="is damaged"):
        assert store.read(planted()) is None
    assert folder_of(store).exists()


def test_threads_that_fill_the_same_entry_take_turns(store):
    holds, go_on = threading.Event(), threading.Event()
    found = []

    def first():
        with store.filling(planted(), LAYOUT) as filling:
            filling.put([0], [ROWS[0]])
            holds.set()
            assert go_on.wait(20)
            filling.put([1], [ROWS[1]])
            found.append(filling.finish())

    thread = threading.Thread(target=first)
    thread.start()
    assert holds.wait(20)
    with store.filling(planted(), LAYOUT, on_wait=lambda _: go_on.set()) as filling:
        assert filling.missing == ()
        found.append(filling.finish())
    thread.join(20)
    assert len(found) == 2
    for array in found:
        np.testing.assert_array_equal(array, ARRAY)


def test_many_threads_fill_read_and_prune_at_once(store):
    """Whatever they do to each other, each gets the right bytes."""
    results = []

    def work(number):
        for turn in range(6):
            name = "ab"[(number + turn) % 2]
            results.append(fill(store, name))
            found = store.read(planted(name))
            results.append(ARRAY if found is None else found)
            if number == 0:
                store.prune(0)
                store.verify()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 4 * 6 * 2
    for array in results:
        np.testing.assert_array_equal(array, ARRAY)


# Making room


def test_entries_are_listed_by_their_last_use(store):
    for name in "abc":
        fill(store, name)
    begin(store, "d")
    age(store.folder / f"{store.key(planted('d'))}.partial" / JOURNAL_FILE)
    store.read(planted("a"))
    entries = store.entries()
    assert names(entries) == ["a", "c", "b", "d"]
    assert [entry.complete for entry in entries] == [True, True, True, False]
    assert {entry.kind for entry in entries} == {"planted"}
    assert all(entry.nbytes > LAYOUT.nbytes and not entry.fault for entry in entries)
    assert all(entry.used.utcoffset().total_seconds() == 0 for entry in entries)


def test_the_least_recently_used_make_room(store):
    for name in "abcd":
        fill(store, name)
    store.read(planted("a"))
    size = store.entries()[0].nbytes
    assert store.prune(4 * size) == []
    assert names(store.prune(2 * size)) == ["b", "c"]
    assert names(store.entries()) == ["a", "d"]
    assert names(store.prune(2 * size - 1)) == ["d"]
    assert names(store.prune(0)) == ["a"]
    assert [path.name for path in store.folder.iterdir()] == ["locks"]


def test_a_filling_makes_room_for_itself_and_never_removes_itself(store):
    fill(store, "a")
    size = store.entries()[0].nbytes
    limited = Store(store.folder, limit=2 * size)
    for name in "bc":
        np.testing.assert_array_equal(fill(limited, name), ARRAY)
    assert names(store.entries()) == ["c", "b"]
    tight = Store(store.folder, limit=LAYOUT.nbytes)  # with its manifest it is larger than that
    np.testing.assert_array_equal(fill(tight, "d"), ARRAY)
    assert names(store.entries()) == ["d"]


def test_fillings_within_each_other_do_not_remove_each_other(store):
    limited = Store(store.folder, limit=LAYOUT.nbytes)
    with limited.filling(planted("outer"), LAYOUT) as outer:
        outer.put([0, 1], ROWS)
        outer.finish()
        fill(limited, "inner")
        assert set(names(store.entries())) == {"outer", "inner"}
    assert names(store.entries()) == ["outer"]


def test_an_entry_beyond_the_limit_is_refused_at_once(store):
    limited = Store(store.folder, limit=LAYOUT.nbytes - 1)
    with (
        pytest.raises(StoreError, match=r"40 B exceeds .* \(39 B\); raise ACTOR_LENS_STORE_LIMIT"),
        limited.filling(planted(), LAYOUT),
    ):
        pytest.fail("the filling started")
    assert not store.folder.exists()


def test_what_is_unfinished_is_pruned_when_it_is_old(store):
    for name in ("old", "young"):
        begin(store, name)
    age(store.folder / f"{store.key(planted('old'))}.partial" / JOURNAL_FILE)
    assert names(store.prune(DEFAULT_LIMIT)) == ["old"]
    assert names(store.prune(0)) == ["young"]
    assert store.entries() == []


def test_what_is_damaged_is_pruned_when_it_is_old(store):
    for name in ("old", "young", "sound"):
        fill(store, name)
    for name in ("old", "young"):
        flip(folder_of(store, name) / MANIFEST_FILE, 30)
    age(folder_of(store, "old") / MANIFEST_FILE)
    removed = store.prune(DEFAULT_LIMIT)
    assert [entry.key for entry in removed] == [store.key(planted("old"))]
    assert removed[0].fault == "its manifest is damaged"
    assert removed[0].kind == "unknown"
    assert len(store.entries()) == 2
    assert len(store.prune(0)) == 2


def test_what_is_used_while_pruning_stays(store, monkeypatch):
    fill(store)
    real = Store._locked

    def used_before(self, *args, **keywords):
        monkeypatch.undo()
        store.read(planted())
        return real(self, *args, **keywords)

    monkeypatch.setattr(Store, "_locked", used_before)
    assert store.prune(0) == []
    np.testing.assert_array_equal(store.read(planted()), ARRAY)


def test_what_a_killed_prune_left_is_removed(store, monkeypatch):
    fill(store)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed between rename and removal
        assert names(store.prune(0)) == ["a"]
    assert len(list(store.folder.iterdir())) == 2
    assert store.entries() == []
    store.prune(DEFAULT_LIMIT)
    assert [path.name for path in store.folder.iterdir()] == ["locks"]


def test_files_of_others_in_the_folder_stay(store):
    fill(store)
    (store.folder / "notes.txt").write_text("kept")
    (store.folder / ("0" * 32)).write_text("kept")
    store.prune(0)
    assert (store.folder / "notes.txt").read_text() == "kept"
    assert (store.folder / ("0" * 32)).read_text() == "kept"


# Settings


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("1000", 1000),
        ("12B", 12),
        ("1kb", 1000),
        ("500MB", 500 * 10**6),
        (" 20 GB ", 20 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_read(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e3", "5 GiB", "5 apples", "1,5GB", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="is not a size; give a number of bytes, or one like 20GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (524_288_000, "524 MB"),
        (999_999_999, "1000 MB"),
        (1_540_000_000, "1.54 GB"),
        (20 * 10**9, "20 GB"),
        (12_345 * 10**12, "12345 TB"),
    ],
)
def test_sizes_are_written_for_people(nbytes, text):
    assert format_size(nbytes) == text


def test_the_default_store_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("ACTOR_LENS_STORE")
    monkeypatch.delenv("ACTOR_LENS_STORE_LIMIT", raising=False)
    store = default_store()
    assert store.folder == tmp_path / "actor-lens" / "store"
    assert store.limit == DEFAULT_LIMIT == 20 * 10**9


def test_the_environment_names_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTOR_LENS_STORE", str(tmp_path))
    monkeypatch.setenv("ACTOR_LENS_STORE_LIMIT", "50MB")
    store = default_store()
    assert (store.folder, store.limit) == (tmp_path, 50 * 10**6)
    monkeypatch.setenv("ACTOR_LENS_STORE", "~/store")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store().folder == tmp_path / "store"
    for off in ("off", "OFF"):
        monkeypatch.setenv("ACTOR_LENS_STORE", off)
        assert default_store() is None


def test_a_limit_that_is_no_size_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTOR_LENS_STORE", str(tmp_path))
    monkeypatch.setenv("ACTOR_LENS_STORE_LIMIT", "much")
    with pytest.raises(UserError, match="ACTOR_LENS_STORE_LIMIT: 'much' is not a size"):
        default_store()
