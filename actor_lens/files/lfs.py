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
        UserError: If it is a pointer.
    """
    if content is None:
        with path.open("rb") as file:
            content = file.read(len(_BEGINNING))
    if content.startswith(_BEGINNING) and len(content) < _LONGEST:
        raise UserError(
            f"{path}: is a Git LFS pointer, not the file itself; fetch it: git lfs install, then "
            "git lfs pull in the folder that was cloned"
        )
