"""Writing a file whole or not at all: a failing write leaves the old file as it was."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actor_lens.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place on success.

    On any exception, also Ctrl-C, the temporary file is removed and `path` stays untouched.

    Raises:
        UserError: If the file system refuses (folder missing, not writable, disk full).
    """
    # A link keeps pointing where it did: the file behind it is the one replaced.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); nothing there was changed; "
            "give a path in a folder that exists, is writable and has room"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    # Without this a crash right after the rename can leave an empty file under the final name.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
