"""A gallery: one page that compares runs, made of linked pages, evaluations and what is drawn now.

What comes from a file is data like prompts are: it is cleaned when it is read and escaped when it
is written, and the page's own policy holds whatever the file said.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.files.sizes import format_size
from actor_lens.report.linked_page import ROWS, render_lenses, shares_of
from actor_lens.report.pages import write_page
from actor_lens.statistics.intervals import Estimate
from actor_lens.text import clean, one_line

MOST_BYTES = 6_000_000
# What the page asks of a lens, and the figures that are always there.
_NEEDED = {
    *("model", "about", "warnings", "layer", "notes", "words", "values", "origins", "after"),
    *("prompts", "hovers", "boxes", "tokens", "run", "rates", "replies", "layers", "scores"),
}
_STORED = re.compile(r'<script type="application/json" id="lens">(.*?)</script>', re.DOTALL)


def write_gallery(lenses: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write a table of runs and their linked panels as one HTML file that opens offline.

    What runs of one model on the same prompts share is stored once. All runs together keep as many
    replies as a single linked page.

    Args:
        lenses: Results of ``lens_of`` or ``read_lenses``, each with a ``name``.
        path: Path of the file; one that is there is replaced whole. Its folder must exist.

    Raises:
        UserError: If the page would be larger than 6 MB, or cannot be written; an old one survives.
    """
    rows = ROWS // max(1, len(lenses))
    text = render_lenses(
        [
            {**lens, "replies": lens["replies"][:rows]} if "replies" in lens else lens
            for lens in lenses
        ]
    )
    if (size := len(text.encode("utf-8", "replace"))) > MOST_BYTES:
        raise UserError(
            f"a gallery of these {len(lenses)} runs would be {format_size(size)}, more than "
            f"{format_size(MOST_BYTES)}: give fewer runs, or pages of fewer prompts"
        )
    return write_page(text, path)


def read_lenses(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a linked page or a gallery holds; from a gallery each run keeps its name.

    Args:
        path: A file that ``actor-lens lens`` or the dashboard wrote.

    Raises:
        UserError: If it is none, or was written by a version that stored less.
    """
    try:
        found = _STORED.search(user_path(path).read_text(encoding="utf-8"))
        # Numbers that JSON lacks are refused, as int does.
        stored = _cleaned(json.loads(found[1], parse_constant=int))["lenses"] if found else []
        if not stored:
            raise ValueError("it holds no run")
        return [_checked(_whole(lens, stored)) for lens in stored]
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError),
    ) as error:
        raise UserError(
            f"{path}: not a linked page ({type(error).__name__}: {one_line(error, 80)}); give one "
            "that 'actor-lens lens' wrote, or write it anew"
        ) from error


def lens_of_rates(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an evaluation, which has no panels.

    Args:
        record: The summary that ``actor-lens evaluate`` writes.
    """
    times = {time: shares_of(record[time]) for time in ("before", "after") if record[time]}
    return {"model": record["model"], "run": {"layer": record["layer"]}, "rates": times}


def _whole(lens: Mapping[str, Any], lenses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A lens with what it shares with an earlier one, as ``linked.js`` puts it together."""
    if "like" not in lens:
        return dict(lens)
    first = lenses[lens["like"]]
    drawn = {
        name: first["figures"][name] if figure is None else figure
        for name, figure in lens["figures"].items()
    }
    whole = {**first, **lens, "figures": drawn}
    del whole["like"]
    return whole


def _checked(lens: dict[str, Any]) -> dict[str, Any]:
    """A lens of which a page can be made: nothing is missing, and rates are numbers.

    Raises:
        KeyError: If something is missing.
        ValueError: If a rate is no number.
    """
    if "figures" in lens and (missing := _NEEDED - lens.keys() - lens["figures"].keys()):
        raise KeyError(*sorted(missing))
    lens["rates"] = {
        time: {
            name: Estimate(float(one[0]), float(one[1]), float(one[2]), int(one[3]))
            for name, one in shares.items()
        }
        for time, shares in lens["rates"].items()
    }
    return lens


def _cleaned(value: Any) -> Any:
    """What was read, its texts without what nobody sees."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): _cleaned(one) for name, one in value.items()}
    return value
