"""The rows of a public prompt set from a file or a folder of the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from actor_lens.errors import UserError, require
from actor_lens.prompts.files import TABLE_TYPES, read_table, table_type, unpacked
from actor_lens.prompts.public.catalogue import BenchmarkSet
from actor_lens.prompts.public.rows import Row
from actor_lens.text import one_line

# Notes beside the data, and what a saved model or data set says of itself, hold no rows.
_NOT_DATA = ("README", "LICENSE", "LICENCE", "requirements", "dataset_info", "dataset_infos")


def rows_of(path: Path, benchmark: BenchmarkSet) -> list[Row]:
    """All rows of a file, or of a folder that was downloaded or saved by `datasets`.

    Raises:
        UserError: If there is nothing to read, or a file is broken.
    """
    if not os.path.exists(path):  # Path.exists raises on names too long for a file
        raise UserError(
            f"{path}: no such file or folder; download {benchmark.title} from {benchmark.page} and "
            f"give {benchmark.name}=PATH"
        )
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return list(_saved_rows(path))
    files = [path] if path.is_file() else _files_in(path, benchmark)
    return [row for file in files for row in _file_rows(file, benchmark.header)]


def _file_rows(path: Path, header: bool) -> Iterator[Row]:
    unit = "row" if table_type(path) == ".parquet" else "line"
    for number, values in read_table(path, header=header):
        yield Row(values, unpacked(path).stem, f"{path}, {unit} {number}")


def _files_in(folder: Path, benchmark: BenchmarkSet) -> list[Path]:
    """The files of the first pattern that fits, or all files there are; sorted."""
    readable = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and table_type(file) in TABLE_TYPES
        and not file.name.startswith(_NOT_DATA)
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    by_pattern = [[f for f in readable if _fits(f, folder, p)] for p in benchmark.files]
    if len(by_pattern) == len(benchmark.splits) > 1:  # one file for each split: all of them
        chosen = [file for files in by_pattern for file in files]
    else:
        chosen = next(filter(None, by_pattern), readable)
    if not chosen:
        raise UserError(
            f"{folder}: no {', '.join(TABLE_TYPES)} file in it; give the folder or file downloaded "
            f"from {benchmark.page}"
        )
    return chosen


def _fits(file: Path, folder: Path, pattern: str) -> bool:
    relative = Path(file.relative_to(folder).as_posix().casefold())
    return relative.match(pattern.casefold())


def _saved_rows(folder: Path) -> Iterator[Row]:
    """The rows of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    datasets = require("datasets", "hub", f"{folder}: reading a folder of the library datasets")
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of datasets, pyarrow or the file system, as it comes
        short = one_line(error, 100)
        raise UserError(f"{folder}: cannot be read ({short}); save it again") from error
    parts = {folder.name: saved} if isinstance(saved, datasets.Dataset) else dict(saved)
    for part, rows in parts.items():
        for number, values in enumerate(rows, start=1):
            yield Row(values, part, f"{folder}, {part} row {number}")
