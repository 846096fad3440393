"""What an entry hands over is what was put into it, byte for byte, or it is called damaged.

The order of rows and batches does not matter. A process that is killed at any system call leaves
an entry that the next one goes on filling, and that ends with the same bytes. A byte that changed
anywhere is found.
"""

import os
import subprocess
import sys
import tempfile
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor_lens.activations import store_files
from actor_lens.activations.store_files import (
    ARRAY_FILE,
    JOURNAL_FILE,
    MANIFEST_FILE,
    DamagedEntry,
    EntryFile,
    Layout,
    load_array,
    read_manifest,
)

IDENTITY = {"kind": "planted", "layers": [1, 2], "scale": 0.5}
LAYOUT = Layout(planes=2, starts=(0, 3, 3, 4, 8), width=5)  # row 1 is empty


def planted(layout):
    """Rows of distinct bytes, and the array that they make up."""
    array = np.random.default_rng(0).integers(1, 256, layout.nbytes).astype(np.uint8)
    planes = array.reshape(layout.planes, layout.n_units, layout.width)
    starts = layout.starts
    return [planes[:, starts[row] : starts[row + 1]] for row in range(layout.n_rows)], array


ROWS, ARRAY = planted(LAYOUT)


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "entry.partial"


@pytest.fixture
def whole(tmp_path, partial):
    """The folder of a whole entry."""
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.put(range(4), ROWS)
    file.finish(tmp_path / "entry")
    file.close()
    return tmp_path / "entry"


def opened_again(partial, identity=IDENTITY, layout=LAYOUT):
    file = EntryFile(partial, identity, layout)
    file.close()
    return file


def filled(partial, *batches):
    """A folder where some batches of rows were put, closed."""
    file = EntryFile(partial, IDENTITY, LAYOUT)
    for batch in batches:
        file.put(batch, [ROWS[row] for row in batch])
    file.close()
    return file


@st.composite
def fillings(draw):
    """A layout's planes, starts and width, and all its rows in batches in any order."""
    lengths = draw(st.lists(st.integers(0, 4), max_size=6))
    sizes = draw(st.integers(1, 3)), (0, *accumulate(lengths)), draw(st.integers(1, 5))
    rows = draw(st.permutations(range(len(lengths))))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    edges = [0, *cuts, len(rows)]
    return sizes, [rows[a:b] for a, b in pairwise(edges)]


@given(fillings())
@settings(max_examples=40)
def test_any_order_of_rows_and_batches_gives_the_same_array(case):
    sizes, batches = case
    layout = Layout(*sizes)
    rows, expected = planted(layout)
    with tempfile.TemporaryDirectory() as folder:
        partial, target = Path(folder, "a.partial"), Path(folder, "a")
        for batch in batches:  # each by a process of its own, as it were
            file = EntryFile(partial, IDENTITY, layout)
            assert set(batch) <= set(file.missing)
            file.put(batch, [rows[row] for row in batch])
            file.close()
        file = EntryFile(partial, IDENTITY, layout)
        assert file.missing == ()
        np.testing.assert_array_equal(file.finish(target), expected)
        file.close()
        np.testing.assert_array_equal(load_array(target, IDENTITY), expected)
        assert sorted(path.name for path in target.iterdir()) == [ARRAY_FILE, MANIFEST_FILE]
        assert (target / ARRAY_FILE).read_bytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_rows_of_any_dtype_and_memory_order_are_stored(tmp_path, partial, dtype):
    values = np.arange(12).astype(dtype).reshape(2, 3, 2)
    file = EntryFile(partial, IDENTITY, Layout(2, (0, 3), 2 * values.itemsize))
    file.put([0], [np.asfortranarray(values)])
    found = file.finish(tmp_path / "entry").view(dtype).reshape(values.shape)
    file.close()
    np.testing.assert_array_equal(found, values)


def test_many_rows_are_taken_up_again(tmp_path, partial):
    layout = Layout(1, tuple(range(20_001)), 3)
    rows, expected = planted(layout)
    file = EntryFile(partial, IDENTITY, layout)
    file.put(range(12_000), rows[:12_000])
    file.close()
    file = EntryFile(partial, IDENTITY, layout)
    assert file.missing == tuple(range(12_000, 20_000))
    file.put(file.missing, rows[12_000:])
    np.testing.assert_array_equal(file.finish(tmp_path / "entry"), expected)
    file.close()


def test_an_array_larger_than_memory_can_be_mapped(tmp_path):
    nbytes = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "sparse").open("w+b") as file:
        file.truncate(nbytes)
        array = store_files._map(file.fileno(), nbytes)
    array[-1] = 1
    assert len(array) == nbytes
    assert array[-2:].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "arrays", "message"),
    [
        ([0, 3], [ROWS[0], ROWS[0]], "row 3 has 30 bytes instead of 40"),
        ([0, 4], [ROWS[0], ROWS[0]], "there is no row 4 among 4"),
        ([0, -1], [ROWS[0], ROWS[3]], "there is no row -1 among 4"),
        ([0, 2], [ROWS[0]], "shorter"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(
    partial, rows, arrays, message
):
    file = EntryFile(partial, IDENTITY, LAYOUT)
    with pytest.raises(ValueError, match=message):
        file.put(rows, arrays)
    assert file.missing == (0, 1, 2, 3)
    file.close()
    assert set((partial / ARRAY_FILE).read_bytes()) == {0}


def test_missing_rows_cannot_be_passed_over(tmp_path, partial):
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.put([0, 1, 3], [ROWS[0], ROWS[1], ROWS[3]])
    with pytest.raises(ValueError, match="1 rows are missing"):
        file.finish(tmp_path / "entry")
    file.close()
    assert not (tmp_path / "entry").exists()


def test_a_closed_entry_is_not_touched_any_more(tmp_path, partial):
    file = filled(partial, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="closed"):
        file.put([0], [ROWS[0]])
    with pytest.raises(ValueError, match="closed"):
        file.finish(tmp_path / "entry")
    assert opened_again(partial).missing == ()


def test_a_row_that_is_written_anew_is_missing_until_it_is_whole(partial, monkeypatch):
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.put(range(4), ROWS)
    real, calls = os.pwrite, []

    def fails_at_the_second_plane(descriptor, data, offset):
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fails_at_the_second_plane)
    with pytest.raises(OSError, match="Input/output"):
        file.put([0], [np.zeros_like(ROWS[0])])
    assert file.missing == (0,)
    file.close()
    assert 0 in opened_again(partial).missing


def test_short_writes_are_carried_on(tmp_path, partial, monkeypatch):
    pwrite, write = os.pwrite, os.write
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:2], at))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.put([0, 1], ROWS[:2])
    file.close()
    file = EntryFile(partial, IDENTITY, LAYOUT)
    assert file.missing == (2, 3)
    file.put([2, 3], ROWS[2:])
    np.testing.assert_array_equal(file.finish(tmp_path / "entry"), ARRAY)
    file.close()


# Being cut short


def test_a_journal_cut_at_any_byte_never_vouches_for_wrong_rows(partial):
    filled(partial, [3], [0, 1], [2])
    journal = (partial / JOURNAL_FILE).read_bytes()
    ends = [place + 1 for place, byte in enumerate(journal) if byte == ord("\n")]
    batches = [[], [3], [0, 1], [2]]
    for cut in range(len(journal)):
        (partial / JOURNAL_FILE).write_bytes(journal[:cut])
        # A line without its newline is as good as one with it.
        whole_lines = sum(end - 1 <= cut for end in ends)
        if whole_lines == 0:
            continue  # without its first line it starts anew: another test
        noted = {row for batch in batches[:whole_lines] for row in batch}
        assert set(opened_again(partial).missing) == {0, 1, 2, 3} - noted
        file = filled(partial, [0])  # what is written after a torn line counts
        assert 0 not in opened_again(partial).missing, cut
        assert file.missing == opened_again(partial).missing


@pytest.mark.parametrize("journal", [b"", b'{"format": 1, "iden', b"\x00" * 50, b"\xff\n[]\n{}\n3"])
def test_an_unreadable_journal_starts_anew(partial, journal):
    filled(partial, [0, 1, 2, 3])
    (partial / JOURNAL_FILE).write_bytes(journal)
    assert opened_again(partial).missing == (0, 1, 2, 3)


def test_noise_after_good_lines_is_passed_over(partial):
    filled(partial, [0, 1])
    with (partial / JOURNAL_FILE).open("ab") as file:
        file.write(b'\xff\xfe\x00{\n{"rows": [99], "xxh3": ""}\n{"rows": 1, "xxh3": 2}\n{"rows')
    filled(partial, [2])
    assert opened_again(partial).missing == (3,)


@pytest.mark.parametrize("place", range(LAYOUT.nbytes))
def test_a_row_whose_bytes_changed_is_put_again(partial, place):
    filled(partial, [0], [1], [2], [3])
    flip(partial / ARRAY_FILE, place, 1)
    starts = np.array(LAYOUT.starts) * LAYOUT.width
    row = int(np.searchsorted(starts, place % starts[-1], side="right")) - 1
    assert opened_again(partial).missing == (row,)


def test_the_latest_note_of_a_row_counts(partial):
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.put([0], [np.zeros_like(ROWS[0])])
    file.put([0], [ROWS[0]])
    file.close()
    assert opened_again(partial).missing == (1, 2, 3)
    (partial / ARRAY_FILE).write_bytes(bytes(LAYOUT.nbytes))  # what the first line tells of
    assert opened_again(partial).missing == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("identity", "layout"),
    [
        ({**IDENTITY, "scale": 0.25}, LAYOUT),
        (IDENTITY, Layout(2, (0, 2, 3, 4, 8), 5)),
        (IDENTITY, Layout(4, (0, 1, 2, 3, 4), 5)),
        (IDENTITY, Layout(1, (0, 1), 1)),
    ],
)
def test_another_identity_or_layout_starts_anew(partial, identity, layout):
    filled(partial, [0, 1, 2, 3])
    assert opened_again(partial, identity, layout).missing == tuple(range(layout.n_rows))
    assert (partial / ARRAY_FILE).stat().st_size == layout.nbytes


@pytest.mark.parametrize("size", [0, LAYOUT.nbytes - 1, LAYOUT.nbytes + 1])
def test_an_array_of_the_wrong_size_starts_anew(partial, size):
    filled(partial, [0, 1, 2, 3])
    os.truncate(partial / ARRAY_FILE, size)
    assert opened_again(partial).missing == (0, 1, 2, 3)


def test_the_same_identity_is_known_however_it_is_written(partial):
    filled(partial, [0])
    same = {"scale": 0.5, "layers": (1, 2), "kind": "planted"}
    assert opened_again(partial, same).missing == (1, 2, 3)


# Runs in a process of its own, without threads: it forks, and each child is killed at the n-th of
# the calls that change files. A call that writes has written one half by then.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
import numpy as np
from actor_lens.activations.store_files import EntryFile, Layout, load_array

layout = Layout(2, (0, 3, 3, 4, 8), 5)
array = np.random.default_rng(0).integers(1, 256, layout.nbytes).astype(np.uint8)
planes = array.reshape(2, 8, 5)
rows = [planes[:, a:b] for a, b in zip(layout.starts, layout.starts[1:])]
CALLS = "open mkdir chmod write pwrite replace ftruncate posix_fallocate fsync utime unlink close"

def kill_at(n):
    count = itertools.count()
    def killed(name, real):
        def call(*args, **keywords):
            if next(count) == n:
                if "write" in name:
                    data = args[1]
                    real(args[0], data[: len(data) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **keywords)
        return call
    for name in filter(lambda name: hasattr(os, name), CALLS.split()):
        setattr(os, name, killed(name, getattr(os, name)))

def fill(folder, note):
    if (folder / "entry").exists():
        return load_array(folder / "entry", {"kind": "planted"})
    file = EntryFile(folder / "entry.partial", {"kind": "planted"}, layout)
    for row in file.missing:
        file.put([row], [rows[row]])
        note(row)
    found = file.finish(folder / "entry")
    file.close()
    return found

for n in itertools.count():
    folder = Path(sys.argv[1], str(n))
    folder.mkdir()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    child = os.fork()
    if child == 0:
        write = os.write
        kill_at(n)
        fill(folder, lambda row: write(log, bytes([row])))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    done, again = list((folder / "log").read_bytes()), []
    assert np.array_equal(fill(folder, again.append), array), n
    assert np.array_equal(load_array(folder / "entry", {"kind": "planted"}), array), n
    assert not set(done) & set(again), (n, done, again)
    os.close(log)
    if status == 0:
        assert done == [0, 1, 2, 3] and not again
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, (n, status)
print(n)
"""


def test_killed_at_any_system_call_the_next_process_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # At least: a folder, two files opened, space taken, six writes of parts, four journal lines,
    # fsync, rename.
    assert int(done.stdout) > 15


# Damage


def flip(path, place, mask):
    """Change a byte; size and time of the file stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x29, 0x80])  # 0x29: a space becomes a tabulator
@pytest.mark.parametrize("name", [ARRAY_FILE, MANIFEST_FILE])
def test_a_byte_that_changed_anywhere_is_found(whole, name, mask):
    for place in range((whole / name).stat().st_size):
        flip(whole / name, place, mask)
        with pytest.raises(DamagedEntry, match=r"chunk 0|manifest is damaged"):
            load_array(whole, IDENTITY)
        flip(whole / name, place, mask)
    np.testing.assert_array_equal(load_array(whole, IDENTITY), ARRAY)


def test_the_damaged_chunk_is_named(tmp_path, partial, monkeypatch):
    monkeypatch.setattr(store_files, "_CHUNK", 16)
    monkeypatch.setattr(store_files, "_PART", 7)
    file = filled(partial, [0, 1, 2, 3])
    file = EntryFile(partial, IDENTITY, LAYOUT)
    file.finish(tmp_path / "entry")
    file.close()
    assert len(read_manifest(tmp_path / "entry")["chunks"]) == LAYOUT.nbytes // 16
    flip(tmp_path / "entry" / ARRAY_FILE, 66, 4)
    with pytest.raises(DamagedEntry, match="chunk 4 of its array differs from its checksum"):
        load_array(tmp_path / "entry", IDENTITY)


@pytest.mark.parametrize("size", [0, LAYOUT.nbytes - 1, LAYOUT.nbytes + 1])
def test_an_array_of_another_size_is_damage(whole, size):
    os.truncate(whole / ARRAY_FILE, size)
    with pytest.raises(DamagedEntry, match=f"has {size} bytes instead of {LAYOUT.nbytes}"):
        load_array(whole, IDENTITY)


@pytest.mark.parametrize(
    ("name", "message"), [(ARRAY_FILE, "array is missing"), (MANIFEST_FILE, "manifest is missing")]
)
def test_a_missing_file_is_damage(whole, name, message):
    (whole / name).unlink()
    with pytest.raises(DamagedEntry, match=message):
        load_array(whole, IDENTITY)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"format": 1}', "[" * 10, "null"])
def test_a_manifest_that_is_none_is_damage(whole, text):
    (whole / MANIFEST_FILE).write_text(text)
    with pytest.raises(DamagedEntry, match="manifest is damaged"):
        load_array(whole, IDENTITY)


def test_an_entry_of_something_else_is_damage(whole):
    with pytest.raises(DamagedEntry, match="belongs to something else"):
        load_array(whole, {**IDENTITY, "scale": 0.25})


def test_a_bad_sector_is_damage(whole, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(DamagedEntry, match="Input/output error"):
        load_array(whole, IDENTITY)


def test_no_entry_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "entry", IDENTITY)


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize(("owner", "method"), [(os, "open"), (Path, "read_text")])
def test_an_entry_that_vanishes_while_it_is_read_is_no_damage(
    whole, monkeypatch, owner, method, returns
):
    real = getattr(owner, method)

    def vanishes(path, *args, **keywords):
        whole.rename(whole.with_name("removed"))
        if returns:  # another one takes its name
            whole.mkdir()
        return real(path, *args, **keywords)

    monkeypatch.setattr(owner, method, vanishes)
    with pytest.raises(FileNotFoundError):
        load_array(whole, IDENTITY)


def test_an_entry_that_vanishes_after_it_was_read_stays_mapped(whole):
    array = load_array(whole, IDENTITY)
    for path in whole.iterdir():
        path.unlink()
    np.testing.assert_array_equal(array, ARRAY)


def test_what_users_write_into_the_map_stays_theirs(whole):
    array = load_array(whole, IDENTITY)
    array[:] = 0
    assert array.sum() == 0
    np.testing.assert_array_equal(load_array(whole, IDENTITY), ARRAY)


# The disk


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_space_is_taken_when_filling_starts(partial):
    layout = Layout(1, (0, 1), 10**6)
    opened_again(partial, layout=layout)
    status = (partial / ARRAY_FILE).stat()
    assert status.st_size == layout.nbytes
    assert status.st_blocks * 512 >= layout.nbytes


def test_a_file_system_that_cannot_reserve_space_is_used_all_the_same(
    tmp_path, partial, monkeypatch
):
    def unsupported(*_):
        raise OSError(store_files.errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    filled(partial, [0, 1, 2, 3])
    file = EntryFile(partial, IDENTITY, LAYOUT)
    np.testing.assert_array_equal(file.finish(tmp_path / "entry"), ARRAY)
    file.close()
