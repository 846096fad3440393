"""The rows of a public prompt set from a file or a folder, in any format such sets come in."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.prompts.files import csv_cells, named_cells, read_text
from actor_lens.prompts.public.catalogue import BenchmarkSet
from actor_lens.prompts.public.rows import Row
from actor_lens.text import one_line

Values = Mapping[str, Any]
HUB_EXTRA = "pip install 'actor-lens[hub]'"
# What the first cell of a file without a header would say if it had one after all.
_HEADERS = ("prompt", "instruction", "text", "goal")


def rows_of(path: Path, benchmark: BenchmarkSet) -> list[Row]:
    """All rows of a file, or of a folder that was downloaded or saved by `datasets`.

    Raises:
        UserError: If there is nothing to read, or a file is broken.
    """
    if not os.path.exists(path):  # Path.exists raises on names too long for a file
        raise UserError(f"{path}: no such file or folder; download {benchmark.title} from "
                        f"{benchmark.page} and give {benchmark.name}=PATH")  # fmt: skip
    if path.is_dir() and _saved_by_datasets(path):
        return list(_saved_rows(path))
    files = [path] if path.is_file() else _files_in(path, benchmark)
    return [row for file in files for row in _file_rows(file, benchmark.header)]


def _file_rows(path: Path, header: bool) -> Iterator[Row]:
    part, kind = _part_and_kind(path)
    if kind not in _READERS:
        raise UserError(f"{path}: prompt sets come from {_TYPES} files or a folder of them")
    read = _READERS[kind]
    for number, values in read(path, header):
        yield Row(values, part, f"{path}, {'row' if kind == '.parquet' else 'line'} {number}")


def _part_and_kind(path: Path) -> tuple[str, str]:
    """A file's name without its endings, and its type: "a/b.jsonl.gz" is ("b", ".jsonl")."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.stem, plain.suffix.lower()


def _files_in(folder: Path, benchmark: BenchmarkSet) -> list[Path]:
    """The files of the first pattern that fits, or all files there are; sorted."""
    readable = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and _part_and_kind(file)[1] in _READERS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    # Notes beside the data, and what a saved model or data set says of itself, hold no rows.
    readable = [file for file in readable if not file.name.startswith(_NOT_DATA)]
    patterns = [p.casefold() for p in benchmark.files]
    if benchmark.splits and len(patterns) == len(benchmark.splits) > 1:
        # One file for each split: all of them.
        chosen = [f for p in patterns for f in readable if _fits(f, folder, p)]
    else:
        found = ([f for f in readable if _fits(f, folder, p)] for p in patterns)
        chosen = next((files for files in found if files), readable)
    if not chosen:
        raise UserError(f"{folder}: no {_TYPES} file in it; give the folder or file downloaded "
                        f"from {benchmark.page}")  # fmt: skip
    return chosen


def _fits(file: Path, folder: Path, pattern: str) -> bool:
    relative = Path(file.relative_to(folder).as_posix().casefold())
    return relative.match(pattern)


def _csv_rows(path: Path, header: bool) -> Iterator[tuple[int, Values]]:
    delimiter = "\t" if _part_and_kind(path)[1] == ".tsv" else ","
    names: list[str] | None = None
    for line, cells in csv_cells(path, _text(path), delimiter):
        if not header:
            if line > 1 or cells[0].strip().casefold() not in _HEADERS:
                yield line, {"prompt": cells[0]}
        elif names is None:
            names = [cell.strip() for cell in cells]
        else:
            yield line, named_cells(path, line, names, cells)


def _jsonl_rows(path: Path, _header: bool) -> Iterator[tuple[int, Values]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield number, _as_values(_parsed(line, f"{path}, line {number}"), path, number)


def _json_rows(path: Path, header: bool) -> Iterator[tuple[int, Values]]:
    text = _text(path)
    first, _, rest = text.strip().partition("\n")
    if rest and first.startswith("{") and first.rstrip().endswith("}"):  # JSON lines by that name
        yield from _jsonl_rows(path, header)
        return
    found = _parsed(text, str(path))
    if isinstance(found, dict):  # one list under a name, such as {"train": [...]}
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        raise UserError(f"{path}: not a JSON list of rows; give a list of objects")
    for number, each in enumerate(found, start=1):
        yield number, _as_values(each, path, number)


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: broken JSON ({error}); download the file again") from error


def _as_values(row: object, path: Path, number: int) -> Values:
    if isinstance(row, str):
        return {"prompt": row}
    if not isinstance(row, dict):
        raise UserError(
            f"{path}, row {number}: a JSON {type(row).__name__}, not an object with columns; each "
            'row is one like {"prompt": "..."}, or a prompt in quotes'
        )
    return row


def _text_rows(path: Path, _header: bool) -> Iterator[tuple[int, Values]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield number, {"prompt": line}


def _parquet_rows(path: Path, _header: bool) -> Iterator[tuple[int, Values]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet needs pyarrow; {HUB_EXTRA}") from error
    try:
        rows: Iterable[Values] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        short = one_line(error, 100)
        raise UserError(f"{path}: broken Parquet ({short}); download the file again") from error
    yield from enumerate(rows, start=1)


def _text(path: Path) -> str:
    if path.suffix.lower() != ".gz":
        return read_text(path)
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); download it again") from error


def _saved_by_datasets(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved_rows(folder: Path) -> Iterator[Row]:
    """The rows of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise UserError(f"{folder}: was saved by the library datasets; {HUB_EXTRA}") from error
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # of datasets, pyarrow or the file system, as it comes
        short = one_line(error, 100)
        raise UserError(f"{folder}: cannot be read ({short}); save it again") from error
    parts = {folder.name: saved} if isinstance(saved, Dataset) else dict(saved)
    for part, rows in parts.items():
        for number, values in enumerate(rows, start=1):
            yield Row(values, part, f"{folder}, {part} row {number}")


_READERS: dict[str, Callable[[Path, bool], Iterator[tuple[int, Values]]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}
_TYPES = ", ".join(_READERS)
_NOT_DATA = ("README", "LICENSE", "LICENCE", "requirements", "dataset_info", "dataset_infos")
