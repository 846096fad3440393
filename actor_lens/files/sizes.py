"""Sizes of files and memory, as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal

from actor_lens.errors import UserError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``20GB``, ``1.5 TB`` or ``1000``.

    Raises:
        UserError: If it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", text, flags=re.IGNORECASE)
    if match is None:
        raise UserError(f"'{text}' is not a size; give a number of bytes, or one like 20GB")
    return int(Decimal(match[1]) * _UNITS[(match[2] or "").upper()])


def format_size(nbytes: int) -> str:
    """A number of bytes for people: ``524 MB``."""
    for unit in ("TB", "GB", "MB", "KB"):
        if nbytes >= _UNITS[unit]:
            number = nbytes / _UNITS[unit]
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return f"{nbytes} B"
