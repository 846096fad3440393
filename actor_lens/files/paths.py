"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path in which a leading ``~`` is the home folder, as in a shell.

    Args:
        path: Path of a file or folder, as the user gave it.
    """
    return Path(os.path.expanduser(path))  # Path's own raises where there is no such user
