"""Paths as users write them: one rule for every door that reads or writes."""

import os
from pathlib import Path

from actor_lens.errors import UserError


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path in which a leading ``~`` is the home folder, and ``~NAME`` a user's, as in a shell.

    Args:
        path: Path of a file or folder, as the user gave it.

    Raises:
        UserError: If there is no such user, nor a file or folder of that very name.
    """
    expanded = os.path.expanduser(path)
    first = Path(expanded).parts[:1]
    if expanded.startswith("~") and not os.path.lexists(first[0]):
        raise UserError(
            f"'{os.fspath(path)}': there is no user {first[0][1:] or 'with a home folder'} here; "
            f"give another path, or ./{first[0]} for a name that begins so"
        )
    return Path(expanded)
