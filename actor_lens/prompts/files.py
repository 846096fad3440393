"""Reading rows from prompt files: JSON lines and CSV, with the line each row starts on."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path) -> list[Row]:
    """Every row of a .jsonl or .csv file as (line number from 1, its keys and values).

    A byte-order mark is skipped, and so are empty lines.

    Raises:
        UserError: If the file is missing, a folder, unreadable, of another type, empty, not
            UTF-8, or broken at some line.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give one {_TYPES} file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f'{path}: prompts come from {_TYPES} files, not "{path.suffix}"')
    rows = list(reader(path, read_text(path)))
    if not rows:
        raise UserError(f'{path}: is empty; it needs rows with at least "prompt" and "label"')
    return rows


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Raises:
        UserError: If the file is missing, unreadable, or not UTF-8 at some line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # "utf-8-sig" counts from behind the byte-order mark, the user from the start.
        offset = error.start + len(content) - len(error.object)
        line = content.count(b"\n", 0, offset) + 1
        encoding = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(
            f"{path}, line {line}: not UTF-8 at byte {offset}{encoding}; save the file as UTF-8"
        ) from error


def _jsonl_rows(path: Path, text: str) -> Iterator[Row]:
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028 inside a prompt.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repeated_keys)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: broken JSON ({error}); each line is one object like "
                '{"prompt": "...", "label": "benign"}'
            ) from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise UserError(
                f"{path}, line {number}: a JSON {kind}, not an object; each line is one object "
                'like {"prompt": "...", "label": "benign"}'
            )
        yield number, row


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key appears twice")
    return row


def csv_cells(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The cells of every row that is not empty, with the line that the row starts on.

    Raises:
        UserError: If quotes are broken.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if cells:
                yield start, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: broken CSV ({error}); check the quotes") from error


def named_cells(path: Path, line: int, names: list[str], cells: list[str]) -> dict[str, Any]:
    """The cells of a row by the names of their columns.

    Raises:
        UserError: If there are more or fewer of them.
    """
    if len(cells) != len(names):
        raise UserError(
            f"{path}, line {line}: {len(cells)} cells where the header has {len(names)}; put cells "
            "that hold commas, quotes or newlines in double quotes"
        )
    return dict(zip(names, cells, strict=True))


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in csv_cells(path, text):
        if header is None:
            header = _checked_header(path, line, cells)
        else:
            yield line, named_cells(path, line, header, cells)


def _checked_header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    missing = [name for name in ("prompt", "label") if name not in names]
    if missing:
        raise UserError(
            f"{path}, line {line}: no column {' or '.join(map(json.dumps, missing))} (found: "
            f"{json.dumps(', '.join(names)[:100])}); the first line names the columns, "
            "separated by commas"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}, line {line}: a column name appears twice; rename one")
    return names


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
}
_TYPES = " or ".join(_READERS)
