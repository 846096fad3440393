"""Pointers of Git LFS: what a clone without ``git lfs`` holds in the place of a large file."""

from pathlib import Path

from actor_lens.errors import UserError

_BEGINNING = b"version https://git-lfs.github.com/spec/"
_LONGEST = 1024  # bytes, by the specification


def check_no_pointer(path: Path, content: bytes | None = None) -> None:
    """Refuse a file that is only the pointer to another.

    Args:
        path: The file.
        content: Its bytes, where they are read already.

    Raises:
        UserError: If it is a pointer, or cannot be read.
    """
    content = beginning(path, _LONGEST) if content is None else content
    if content.startswith(_BEGINNING) and len(content) < _LONGEST:
        raise UserError(
            f"{path}: is a Git LFS pointer, not the file itself; fetch it: git lfs install, then "
            "git lfs pull in the folder that was cloned"
        )


def beginning(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
