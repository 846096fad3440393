"""Which public prompt set a file is, by its columns, the number of its rows and its name.

Files of these sets are passed around under any name, and several have a column `prompt`: without
a look at the rest, the rows of one would get the labels of another.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.prompts.files import read_table, unpacked
from actor_lens.prompts.public.catalogue import BenchmarkSet, catalogue
from actor_lens.prompts.rows import PromptWarning
from actor_lens.text import plural


def recognise(columns: Iterable[object], n_rows: int, file: str) -> BenchmarkSet | None:
    """The one set that a file is of; None where none, or not only one, can be told.

    It is one of those whose columns are there, the most of them; of several, that with so many
    rows, else that which the file is named after. Where no set has the columns it is one that has
    nothing of its own in its columns, if the file is named after it.

    Args:
        columns: Names of the columns.
        n_rows: Number of rows.
        file: Name of the file.
    """
    there = {str(column).strip().casefold() for column in columns}
    fitting = [
        one for one in catalogue() if one.signs and there >= {s.casefold() for s in one.signs}
    ]
    most = max((len(one.signs) for one in fitting), default=0)
    fitting = [one for one in fitting if len(one.signs) == most]
    if len(fitting) > 1:
        fitting = [one for one in fitting if one.rows == n_rows] or _pick_by_name(fitting, file)
    elif not fitting:
        fitting = _pick_by_name([one for one in catalogue() if not one.signs], file)
    return fitting[0] if len(fitting) == 1 else None


def recognise_file(path: Path) -> BenchmarkSet | None:
    """The set that a file holds; None where it is none or cannot be read."""
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = list(read_table(path))
    except UserError:
        return None
    return recognise(rows[0][1], len(rows), path.name) if rows else None


def check_no_stranger(
    source: BenchmarkSet, columns: Sequence[object], n_rows: int, name: str
) -> bool:
    """Refuse a file of another set.

    Args:
        source: The set that the file is said to be.
        columns: Names of its columns.
        n_rows: Number of its rows.
        name: Name of the file.

    Returns:
        Whether the file is known to be of that set; False where it cannot be told.

    Raises:
        UserError: If it is another set.
    """
    found = recognise(columns, n_rows, name)
    if found is not None and found is not source:
        raise UserError(
            f"{name}: is a file of {found.title} and not of {source.title} (columns "
            f"{', '.join(map(str, columns))[:100]}; {plural(n_rows, 'row')}); give it as "
            f"{found.name}=FILE"
        )
    return found is source


def warn_of_rows(source: BenchmarkSet, n_rows: int, name: str) -> None:
    """Warn of another number of rows than a set has. Arguments as in ``check_no_stranger``."""
    if source.rows not in (None, n_rows):
        alike = [one.title for one in catalogue() if one.rows == n_rows]
        hint = f", as many as {' and '.join(alike)}" if alike else ""
        warnings.warn(
            f"{name}: {plural(n_rows, 'row')}{hint}, and {source.title} has {source.rows:,}: "
            "check that it is that set, and the whole of it",
            PromptWarning,
            stacklevel=4,
        )


def own_command(path: Path, found: BenchmarkSet) -> str:
    """What to say where a set was given as a prompt file."""
    return (
        f"{path}: is a file of {found.title}, which has columns of its own; give it by its name: "
        f"--prompts {found.name}={path} (load_prompts('{found.name}={path}'))"
    )


def _pick_by_name(sets: Sequence[BenchmarkSet], file: str) -> list[BenchmarkSet]:
    """Those of the sets of which the file's name holds the longest name, as words of its own."""
    stem = unpacked(Path(file)).stem.casefold()
    lengths: dict[str, int] = {}
    for one in sets:
        # Of sets with the same columns another name may be that of the family.
        for name in (one.name, *(() if one.signs else one.other_names)):
            words = name.replace("-", "[-_ ]?")
            if re.search(f"(?<![a-z0-9]){words}(?![a-z0-9])", stem):
                lengths[one.name] = max(lengths.get(one.name, 0), len(name))
    longest = max(lengths.values(), default=0)
    return [one for one in sets if lengths.get(one.name) == longest and longest]
