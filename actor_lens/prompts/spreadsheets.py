"""Rows of CSV files, also as spreadsheets export them.

A spreadsheet in a country with decimal commas puts semicolons between cells, some put tabs; many
leave empty columns and rows behind the table, and some begin with a line that names the separator.
What is left out of a table is said in a warning.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.prompts.rows import PromptWarning
from actor_lens.text import plural

NumberedRow = tuple[int, dict[str, Any]]
"""The line from 1 that a row starts on, and its values by column."""

_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r"sep=([,;\t|])\r?\n")
# What the first cell of a file without a header would say if it had one after all.
_HEADERS = ("prompt", "instruction", "text", "goal")


def csv_rows(path: Path, text: str, *, needed: Sequence[str] = ()) -> Iterator[NumberedRow]:
    """Every row that is not empty, below a header that names the columns.

    Columns without a name are left out, and rows without text, both with a warning.

    Args:
        path: The file, for messages.
        text: Its content.
        needed: Columns that must be there; with any, no name may appear twice.

    Raises:
        UserError: If such a column is missing, a row has another number of cells than the header,
            or the file is broken at some line.
    """
    names: list[str] = []
    empty_rows, unnamed_text = 0, 0
    for line, cells in _cells(path, text):
        place = f"{path}, line {line}"
        filled = [cell.strip() for cell in cells]
        if not any(filled):
            empty_rows += len(cells) > 1
        elif not names:
            names = filled
            _check_header(place, names, needed)
        else:
            if len(cells) > len(names) and not any(filled[len(names) :]):
                cells = cells[: len(names)]
            if len(cells) != len(names):
                raise UserError(
                    f"{place}: {len(cells)} cells where the header has {len(names)}; put cells "
                    "that hold commas, quotes or newlines in double quotes"
                )
            unnamed = [cell for name, cell in zip(names, filled, strict=False) if not name]
            unnamed_text += any(unnamed)
            yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    _tell(path, names.count(""), unnamed_text, empty_rows)


def first_cells(path: Path, text: str) -> Iterator[NumberedRow]:
    """The first cell of every row of a file without a header; should there be one, it is left."""
    for line, (first, *_) in _cells(path, text, ","):
        if line > 1 or first.strip().casefold() not in _HEADERS:
            yield line, {"prompt": first}


def _cells(path: Path, text: str, separator: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row that is not empty, with the line that the row starts on."""
    named = _SEPARATOR_LINE.match(text)
    if named:
        separator, text = named[1], "\n" + text[named.end() :]  # lines keep their numbers
    separator = separator or _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if cells:
                yield start, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: broken CSV ({error}); check the quotes") from error


def _separator(text: str) -> str:
    """What stands between cells: that of which the header has most, a comma where none has more."""
    header = text.lstrip().partition("\n")[0]
    return max(_SEPARATORS, key=header.count)


def _check_header(place: str, names: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(
            f"{place}: no column {' or '.join(map(json.dumps, missing))} (found: "
            f"{json.dumps(', '.join(filter(None, names))[:100])}); the first line names the "
            "columns, separated by commas, semicolons or tabs"
        )
    twice = [name for name in names if name and names.count(name) > 1]
    if needed and twice:
        raise UserError(
            f"{place}: a column name appears twice ({json.dumps(twice[0])}); rename one"
        )


def _tell(path: Path, unnamed: int, unnamed_text: int, empty_rows: int) -> None:
    """Warn of what was left out of a table."""
    left_out = []
    if unnamed:
        rows = f" (with text in {plural(unnamed_text, 'row')})" if unnamed_text else " (empty)"
        left_out.append(f"{plural(unnamed, 'column')} without a name{rows}")
    if empty_rows:
        left_out.append(plural(empty_rows, "empty row"))
    if left_out:
        message = f"{path}: {' and '.join(left_out)} left out"
        warnings.warn(message, PromptWarning, stacklevel=2)
