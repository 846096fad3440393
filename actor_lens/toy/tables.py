"""Word tables kept as text: rows of cells, which are easier to read and extend than tuples."""

from __future__ import annotations

import textwrap


def read_rows(table: str) -> list[list[str]]:
    """Split a table into rows of cells.

    Cells are parted by `|`. A line that is indented further than the first continues the row
    above it.
    """
    rows: list[str] = []
    for line in textwrap.dedent(table).strip("\n").splitlines():
        if line.startswith(" "):
            rows[-1] += f" {line.strip()}"
        elif line.strip():
            rows.append(line.strip())
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def read_items(text: str) -> tuple[str, ...]:
    """Split a list at its commas."""
    return tuple(" ".join(item.split()) for item in text.split(","))
