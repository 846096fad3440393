"""Writing files or a whole folder completely or not at all: a failing write changes nothing."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path

# Holds files that are complete and only wait to be moved to their places.
_COMPLETE = ".complete"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place on success.

    On any exception, also Ctrl-C, the temporary file is removed and `path` stays untouched.

    Raises:
        UserError: If the file system refuses (folder missing, not writable, disk full).
    """
    # A link keeps pointing where it did: the file behind it is the one replaced.
    target = Path(os.path.realpath(user_path(path)))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder; on success the files written there move into `folder`, all or none.

    They replace files of the same names, other files stay. On any exception, also Ctrl-C, nothing
    in `folder` changes. What is cut short while the files move (the machine stops, say) is no
    loss: `finish_replacing` moves the rest, and readers call it first.

    Raises:
        UserError: If the file system refuses (folder missing, not writable, disk full).
    """
    folder = user_path(folder)
    finish_replacing(folder)
    staging = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        staging.mkdir()
        yield staging
        _settle(staging)
        os.replace(staging, folder / _COMPLETE)  # from here on the new files count
    except OSError as error:
        raise _write_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    finish_replacing(folder)


@contextmanager
def replacing_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder; on success it takes the place of `folder` and of all that is in it.

    On any exception, also Ctrl-C, `folder` stays untouched. It never holds half of the new files;
    where the machine stops just between the two renames, the old folder is beside it under a name
    that begins with a dot and ends in `.old`.

    Raises:
        UserError: If the file system refuses (folder above missing, not writable, disk full).
    """
    target = Path(os.path.realpath(user_path(folder)))
    token = secrets.token_hex(8)
    staging, old = (target.with_name(f".{token}.{end}") for end in ("tmp", "old"))
    try:
        staging.mkdir()
        yield staging
        _settle(staging)
        _exchange(staging, target, old)
    except OSError as error:
        raise _write_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Put a folder in the place of another; where that fails, the old one is back."""
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        if not new.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            os.replace(old, target)


def finish_replacing(folder: str | os.PathLike[str]) -> None:
    """Move files that `replacing_together` had complete but not yet in their places.

    Raises:
        UserError: If the file system refuses; the files then keep waiting.
    """
    folder = user_path(folder)
    complete = folder / _COMPLETE
    try:
        if not complete.is_dir():
            return
        for path in sorted(complete.iterdir()):
            os.replace(path, folder / path.name)
        complete.rmdir()
    except FileNotFoundError:
        return  # another process was quicker
    except OSError as error:
        raise UserError(
            f"{folder}: new files are complete in {complete} but cannot be put in their places "
            f"({error.strerror or error}); make the folder writable and use it again"
        ) from error


def _write_error(path: str | os.PathLike[str], error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}); nothing there was changed; "
        "give a path in a folder that exists, is writable and has room"
    )


def _settle(staging: Path) -> None:
    """Flush all files of a folder to the disk, as readable as a plain ``open`` makes them.

    safetensors makes its own readable to their owner alone, whatever the umask says.
    """
    plain = staging.stat().st_mode & 0o666  # mkdir follows the umask, as open does
    for path in staging.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):  # not every file system has modes
                path.chmod(path.stat().st_mode | plain)
            _flush_to_disk(path)


def _flush_to_disk(path: Path) -> None:
    # Without this a crash right after the rename can leave an empty file under the final name.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
