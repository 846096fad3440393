"""A write is whole or not at all.

On success the new content is there and nothing else is; on any failure or interrupt every file is
bit for bit what it was and no temporary file stays behind. Files that are written together are
never seen half new and half old, not even when the machine stops while they move. A whole folder
is replaced with all that was in it.
"""

import contextlib
import os
import resource
import subprocess
import sys

import pytest

from actor_lens.errors import UserError
from actor_lens.files.saving import (
    finish_replacing,
    replacing,
    replacing_folder,
    replacing_together,
)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 1000 bytes, as on a disk without room."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def write_one(folder, text):
    with replacing(folder / "a.txt") as path:
        path.write_text(text)


def write_two(folder, text):
    with replacing_together(folder) as staging:
        (staging / "a.txt").write_text(text)
        (staging / "b.txt").write_text(text)


def write_folder(folder, text):
    with replacing_folder(folder / "model") as staging:
        (staging / "a.txt").write_text(text)
        (staging / "below").mkdir()
        (staging / "below" / "b.txt").write_text(text)


BESIDE = pytest.mark.parametrize("write", [write_one, write_two])
WRITERS = pytest.mark.parametrize("write", [write_one, write_two, write_folder])


@BESIDE
def test_new_content_replaces_old_and_leaves_other_files(tmp_path, write):
    (tmp_path / "other.txt").write_text("kept")
    write(tmp_path, "first")
    write(tmp_path, "second")
    written = {"a.txt"} if write is write_one else {"a.txt", "b.txt"}
    expected = dict.fromkeys(written, b"second")
    assert contents(tmp_path) == {**expected, "other.txt": b"kept"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("replacing_files", [replacing_together, replacing_folder])
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_are_as_readable_as_the_umask_lets_them_be(tmp_path, replacing_files, umask):
    old = os.umask(umask)
    try:
        with replacing_files(tmp_path) as staging:
            (staging / "private").write_text("")
            (staging / "private").chmod(0o600)  # as safetensors and tempfile leave theirs
            (staging / "program").write_text("")
            (staging / "program").chmod(0o700)
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"private": 0o666 & ~umask, "program": 0o700 | (0o666 & ~umask)}


@WRITERS
def test_disk_full_keeps_the_old(tmp_path, write):
    write(tmp_path, "old")
    before = contents(tmp_path)
    with full_disk(), pytest.raises(UserError, match=r"File too large.*nothing there was changed"):
        write(tmp_path, "x" * 100_000)
    assert contents(tmp_path) == before


@WRITERS
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_interruption_keeps_the_old(tmp_path, monkeypatch, write, interruption):
    write(tmp_path, "old")
    before = contents(tmp_path)

    def interrupted(*_):
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(interruption):
        write(tmp_path, "new")
    assert contents(tmp_path) == before


@WRITERS
def test_failing_rename_keeps_the_old(tmp_path, monkeypatch, write):
    write(tmp_path, "old")
    before = contents(tmp_path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write(tmp_path, "new")
    assert contents(tmp_path) == before


@WRITERS
def test_missing_folder_is_told_in_one_line(tmp_path, write):
    with pytest.raises(UserError, match="No such file or directory") as told:
        write(tmp_path / "missing", "new")
    assert "\n" not in str(told.value)


# ---- A whole folder ----


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    write_folder(tmp_path, "old")
    (tmp_path / "model" / "stale.txt").write_text("old")
    (tmp_path / "other.txt").write_text("kept")
    write_folder(tmp_path, "new")
    assert contents(tmp_path) == {"a.txt": b"new", "b.txt": b"new", "other.txt": b"kept"}
    assert sorted(os.listdir(tmp_path)) == ["model", "other.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    write_folder(tmp_path, "new")
    assert contents(tmp_path) == {"a.txt": b"new", "b.txt": b"new"}


def test_nothing_is_under_the_name_until_all_is_there(tmp_path):
    with replacing_folder(tmp_path / "model") as staging:
        (staging / "a.txt").write_text("new")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("there_before", [True, False])
def test_a_rename_of_folders_that_fails_keeps_the_old(
    tmp_path, monkeypatch, renames, error, there_before
):
    if there_before:
        write_folder(tmp_path, "old")
    before, names = contents(tmp_path), os.listdir(tmp_path)
    really, left = os.replace, [renames]

    def failing(source, target):
        left[0] -= 1
        if left[0] == -1:
            raise error
        really(source, target)

    monkeypatch.setattr(os, "replace", failing)
    if renames == 1 and not there_before:  # there is only one rename
        write_folder(tmp_path, "new")
        assert contents(tmp_path) == {"a.txt": b"new", "b.txt": b"new"}
        return
    with pytest.raises((UserError, KeyboardInterrupt)):
        write_folder(tmp_path, "new")
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == names


KILLED_FOLDER = """
import os, sys
from pathlib import Path
from actor_lens.files.saving import replacing_folder
left, really = int(sys.argv[2]), os.replace
def dying(source, target):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    really(source, target)
os.replace = dying
with replacing_folder(Path(sys.argv[1]) / "model") as staging:
    (staging / "a.txt").write_text("new")
    (staging / "b.txt").write_text("new")
"""


@pytest.mark.parametrize("renames", range(3))
def test_a_killed_process_leaves_no_half_folder_and_the_old_files(tmp_path, renames):
    write_folder(tmp_path, "old")
    command = [sys.executable, "-c", KILLED_FOLDER, str(tmp_path), str(renames)]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert ended.returncode == (0 if renames == 2 else 9), ended.stderr
    old, new = {"a.txt": b"old", "b.txt": b"old"}, {"a.txt": b"new", "b.txt": b"new"}
    assert contents(tmp_path / "model") == [old, {}, new][renames]
    if renames == 1:  # just between the two renames
        [aside] = tmp_path.glob(".*.old")
        assert contents(aside) == old


# ---- Links, and moves that are cut short ----


def test_a_link_keeps_pointing_at_the_folder_that_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    write_folder(tmp_path / "disk", "old")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    write_folder(tmp_path, "new")
    assert (tmp_path / "model").is_symlink()
    assert contents(tmp_path / "disk") == {"a.txt": b"new", "b.txt": b"new"}


def test_link_keeps_pointing_at_the_file_that_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_one(tmp_path, "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("moved", [0, 1])
def test_moves_that_are_cut_short_are_finished_later(tmp_path, monkeypatch, moved):
    """The first rename makes the new files count, the others can wait."""
    write_two(tmp_path, "old")
    really, left = os.replace, [1 + moved]

    def some(source, target):
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        really(source, target)

    monkeypatch.setattr(os, "replace", some)
    with pytest.raises(UserError, match=r"complete in .*Input/output error"):
        write_two(tmp_path, "new")
    monkeypatch.undo()
    finish_replacing(tmp_path)
    assert contents(tmp_path) == {"a.txt": b"new", "b.txt": b"new"}
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_next_write_comes_after_one_that_was_cut_short(tmp_path):
    write_two(tmp_path, "old")
    (tmp_path / ".complete").mkdir()
    (tmp_path / ".complete" / "b.txt").write_text("newer")
    with replacing_together(tmp_path) as staging:
        (staging / "a.txt").write_text("newest")
    assert contents(tmp_path) == {"a.txt": b"newest", "b.txt": b"newer"}


def test_finishing_does_nothing_where_nothing_waits(tmp_path):
    finish_replacing(tmp_path)
    finish_replacing(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from actor_lens.files.saving import replacing_together
left, really = int(sys.argv[2]), os.replace
def dying(source, target):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    really(source, target)
os.replace = dying
with replacing_together(sys.argv[1]) as staging:
    for name in ("a.txt", "b.txt"):
        (staging / name).write_text("new")
"""


@pytest.mark.parametrize("renames", range(4))
def test_killed_process_leaves_all_old_or_all_new(tmp_path, renames):
    write_two(tmp_path, "old")
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(renames)]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert ended.returncode == (0 if renames == 3 else 9), ended.stderr
    finish_replacing(tmp_path)
    expected = "old" if renames == 0 else "new"
    assert (tmp_path / "a.txt").read_text() == expected
    assert (tmp_path / "b.txt").read_text() == expected
