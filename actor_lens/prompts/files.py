"""Prompts from files, and rows from files of any format, with the line that each starts on."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError, require
from actor_lens.files.bundled import bundled
from actor_lens.files.lfs import check_no_pointer
from actor_lens.prompts.rows import drop_repeats, have_splits, parse_row
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts
from actor_lens.prompts.spreadsheets import NumberedRow, csv_rows, first_cells
from actor_lens.text import one_line

_PROMPT_TYPES = (".jsonl", ".csv")
_PROMPT_ROW = 'each line is one object like {"prompt": "...", "label": "benign"}'
_TABLE_ROW = 'each row is one object like {"prompt": "..."}; if it is not, download the file again'
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
# Byte-order marks of encodings in which spreadsheets and shells save text; the longer ones first.
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_bundled(name: str) -> PromptSet:
    """Prompts that come with the package.

    Raises:
        UserError: If the installation lacks them.
    """
    return read_prompt_file(bundled(f"prompts/{name}.jsonl"), name)


def read_prompt_file(path: Path, name: str, *, seed: int = 0, split: bool = True) -> PromptSet:
    """The prompts of a .jsonl or .csv file; one without splits is split, unless asked not to.

    Raises:
        UserError: If the file cannot be used; the message names the line.
    """
    rows = ((f"line {line}", row) for line, row in read_rows(path))
    return prompts_of(path, rows, name, seed=seed, split=split)


def prompts_of(
    source: object,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    name: str,
    *,
    seed: int = 0,
    split: bool = True,
) -> PromptSet:
    """The prompts of rows, without repeats; split if none has a split, unless asked not to.

    Args:
        source: What the rows are of, for messages.
        rows: Each with its place in the source, such as "line 3".
        name: Name of the set.
        seed: Seed of the split.
        split: Whether to split them.

    Raises:
        UserError: If a row cannot be used, or they cannot be split; the message names the place.
    """
    placed = [(place, parse_row(source, place, row)) for place, row in rows]
    placed = drop_repeats(source, placed)
    prompts = PromptSet(tuple(prompt for _, prompt in placed), name=name)
    if have_splits(source, placed) or not split:
        return prompts
    try:
        return split_prompts(prompts, seed=seed)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def read_rows(path: Path) -> list[NumberedRow]:
    """Every row of a prompt file as (line number from 1, its keys and values).

    A byte-order mark is skipped, and so are empty lines.

    Raises:
        UserError: If the file is missing, a folder, unreadable, of another type, empty, in no
            Unicode, or broken at some line.
    """
    types = " or ".join(_PROMPT_TYPES)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give one {types} file")
    kind = path.suffix.lower()
    if kind not in _PROMPT_TYPES:
        sheet = "; save the sheet as CSV UTF-8" if kind in _SHEETS else ""
        given = f'not "{path.suffix}"' if kind else "and this name has no ending"
        raise UserError(f"{path}: prompts come from {types} files, {given}{sheet}")
    text = read_text(path)
    if kind == ".csv":
        rows = list(csv_rows(path, text, needed=("prompt", "label")))
    else:
        rows = [
            (line, _object(value, f"{path}, line {line}", _PROMPT_ROW))
            for line, value in _json_lines(path, text, _PROMPT_ROW)
        ]
    if not rows:
        raise UserError(f'{path}: is empty; it needs rows with at least "prompt" and "label"')
    return rows


def read_table(path: Path, *, header: bool = True) -> Iterator[NumberedRow]:
    """Every row of a file that a public prompt set comes in, whichever its type.

    A row that is a bare text becomes ``{"prompt": text}``.

    Args:
        path: The file, perhaps packed (``.gz``).
        header: Whether a CSV file begins with the names of its columns; where it does not, the
            first cell of each row is the prompt.

    Raises:
        UserError: If the file is of another type, unreadable, not UTF-8, or broken at some line.
    """
    kind = table_type(path)
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind not in TABLE_TYPES:
        types = ", ".join(TABLE_TYPES)
        raise UserError(f"{path}: prompt sets come from {types} files or a folder of them")
    text = read_text(path)
    if kind in _READERS:
        return _READERS[kind](path, text)
    return csv_rows(path, text) if header else first_cells(path, text)


def table_type(path: Path) -> str:
    """The type of a file: ".jsonl" of "a/b.jsonl" and of "a/b.jsonl.gz"."""
    return unpacked(path).suffix.lower()


def unpacked(path: Path) -> Path:
    """The path of a file without the ending that says that it is packed."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def read_text(path: Path) -> str:
    """The text of a file, unpacked, without a byte-order mark.

    It is in UTF-8, or in the UTF-16 or UTF-32 that its byte-order mark tells.

    Raises:
        UserError: If the file is missing, unreadable, the pointer of Git LFS to another, or in
            another encoding at some line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}); download it again") from error
    check_no_pointer(path, content)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "UTF-8")
    try:
        return content.decode("utf-8-sig" if encoding == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        # "utf-8-sig" counts from behind the byte-order mark, the user from the start.
        offset = error.start + len(content) - len(error.object)
        line = content.count(b"\n", 0, offset) + 1
        raise UserError(
            f"{path}, line {line}: not {encoding} at byte {offset}; save the file as UTF-8 (in a "
            "spreadsheet: CSV UTF-8)"
        ) from error


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028 inside a prompt.
    return ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())


def _json_lines(path: Path, text: str, hint: str) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(text):
        yield number, _parse(line, f"{path}, line {number}", hint)


def _parse(text: str, place: str, hint: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: broken JSON ({error}); {hint}") from error


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key appears twice")
    return row


def _object(value: object, place: str, hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: a JSON {type(value).__name__}, not an object; {hint}")
    return value


def _object_or_prompt(value: object, place: str) -> dict[str, Any]:
    return {"prompt": value} if isinstance(value, str) else _object(value, place, _TABLE_ROW)


def _jsonl_rows(path: Path, text: str) -> Iterator[NumberedRow]:
    for line, value in _json_lines(path, text, _TABLE_ROW):
        yield line, _object_or_prompt(value, f"{path}, line {line}")


def _json_rows(path: Path, text: str) -> Iterator[NumberedRow]:
    first, _, rest = text.strip().partition("\n")
    if rest and first.startswith("{") and first.rstrip().endswith("}"):  # JSON lines by that name
        yield from _jsonl_rows(path, text)
        return
    rows = _parse(text, str(path), "download the file again")
    if isinstance(rows, dict):  # one list under a name, such as {"train": [...]}
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a JSON list of rows; give a list of objects")
    for number, value in enumerate(rows, start=1):
        yield number, _object_or_prompt(value, f"{path}, row {number}")


def _text_rows(_path: Path, text: str) -> Iterator[NumberedRow]:
    return ((number, {"prompt": line}) for number, line in _lines(text))


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    purpose = f"{path}: reading Parquet"
    parquet = require("pyarrow.parquet", "hub", purpose)
    ArrowException = require("pyarrow", "hub", purpose).ArrowException
    try:
        rows: Iterable[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        short = one_line(error, 100)
        raise UserError(f"{path}: broken Parquet ({short}); download the file again") from error
    return enumerate(rows, start=1)


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".txt": _text_rows}
TABLE_TYPES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
