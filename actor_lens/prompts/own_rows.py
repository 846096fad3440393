"""Rows of prompts that are in memory already: a data frame, a list of dicts, a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from actor_lens.errors import UserError
from actor_lens.prompts.rows import Prompt

_GIVE = (
    'give a name, a file, a pandas DataFrame, or a list of dicts like {"prompt": "...", "label": '
    '"benign"}'
)
# By which tables that are no pandas DataFrame hand out their rows as dicts (polars, Arrow).
_ROW_METHODS = ("to_dicts", "to_pylist")


def own_rows(source: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row with its place, counted from 0; what is missing in it is None.

    Raises:
        UserError: If something else was given, a row is none, or a column name appears twice.
    """
    import pandas as pd

    rows: Any = source
    if isinstance(source, pd.DataFrame):
        if not source.columns.is_unique:
            twice = source.columns[source.columns.duplicated()][0]
            raise UserError(f"the data frame has two columns named {twice!r}; rename one")
        rows = source.astype(object).to_dict("records")
    for method in _ROW_METHODS:
        if hasattr(source, method):
            rows = getattr(source, method)()
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise UserError(f"prompts are a {type(source).__name__}; {_GIVE}")
    for index, row in enumerate(rows):
        if isinstance(row, Prompt):
            row = asdict(row)
        if not isinstance(row, Mapping):
            raise UserError(f"row {index} of the prompts is a {type(row).__name__}; {_GIVE}")
        values = {
            str(key): None if pd.api.types.is_scalar(value) and pd.isna(value) else value
            for key, value in row.items()
        }
        yield f"row {index}", values
