"""A gallery: one page that compares runs, made of linked pages, evaluations and what is drawn now.

What comes from a file is data like prompts are: it is cleaned when it is read and escaped when it
is written, and the page's own policy holds whatever the file said.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.report.linked_page import ROWS, GalleryRow, Lens, render_lenses, shares_of
from actor_lens.report.pages import write_page
from actor_lens.statistics.intervals import Estimate
from actor_lens.text import clean, one_line

_DRAWN = {"layers", "prompts", "scores"}
_STORED = re.compile(r'<script type="application/json" id="lens">(.*?)</script>', re.DOTALL)


def write_gallery(lenses: Sequence[GalleryRow], path: str | os.PathLike[str]) -> Path:
    """Write a table of runs and their linked panels as one HTML file that opens offline.

    What runs of one model on the same prompts share is stored once. All runs together keep as many
    replies as a single linked page, which is what one run alone is written as.

    Args:
        lenses: What to show, each of several with a ``name``.
        path: Path of the file; one that is there is replaced whole. Its folder must exist.

    Raises:
        UserError: If there is one evaluation and nothing else, or the page cannot be written; an
            old one survives.
    """
    if len(lenses) == 1 and not isinstance(lenses[0], Lens):
        raise UserError(
            f"{lenses[0].name}: one evaluation is rates without panels; give runs, linked pages "
            "or further evaluations beside it"
        )
    rows = ROWS // max(1, len(lenses))
    shown = [
        replace(lens, replies=lens.replies[:rows]) if isinstance(lens, Lens) else lens
        for lens in lenses
    ]
    return write_page(render_lenses(shown), path)


def read_lenses(path: str | os.PathLike[str]) -> list[GalleryRow]:
    """What a linked page or a gallery holds; from a gallery each run keeps its name.

    Args:
        path: A file that ``actor-lens lens`` or the dashboard wrote.

    Raises:
        UserError: If it is none, or was written by a version that stored less.
    """
    with _user_errors(path, "a linked page", "one that 'actor-lens lens' wrote"):
        found = _STORED.search(user_path(path).read_text(encoding="utf-8"))
        stored = _clean(json.loads(found[1]))["lenses"] if found else []
        if not stored:
            raise ValueError("it holds no run")
        return [_check(_whole(lens, stored)) for lens in stored]


def row_of_rates(record: Mapping[str, Any], path: str | os.PathLike[str]) -> GalleryRow:
    """The row of an evaluation, which has no panels.

    Args:
        record: The summary that ``actor-lens evaluate`` writes.
        path: Where it was read, for the error.

    Raises:
        UserError: If something is missing or is no number.
    """
    with _user_errors(path, "an evaluation", "a folder that 'actor-lens evaluate --out' wrote"):
        times = {time: shares_of(record[time]) for time in ("before", "after") if record[time]}
        run = {"layer": record["layer"]}
        return _check(_clean({"model": record["model"], "run": run, "rates": times}))


@contextmanager
def _user_errors(path: str | os.PathLike[str], kind: str, wanted: str) -> Iterator[None]:
    """Say in one line what is wrong with a file that somebody sent, whatever it is.

    Raises:
        UserError: In place of any error that reading data raises.
    """
    try:
        yield
    except (
        *(OSError, ValueError, TypeError, LookupError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise UserError(
            f"{path}: not {kind} ({type(error).__name__}: {one_line(error, 80)}); give {wanted}, "
            "or write it anew"
        ) from error


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


def _check(lens: Mapping[str, Any]) -> GalleryRow:
    """What a page asks of a lens, and nothing else: all of it is there, and rates are numbers.

    Raises:
        KeyError: If something is missing.
        TypeError: If something is of another kind, such as a rate that is no number.
    """
    kind = Lens if "figures" in lens else GalleryRow
    kept = {field.name: lens[field.name] for field in fields(kind) if field.name != "name"}
    for name, hint in get_type_hints(kind).items():
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        allowed = tuple(get_origin(one) or one for one in kinds)
        if name in kept and not isinstance(kept[name], allowed):
            raise TypeError(f"its {name} cannot be {type(kept[name]).__name__}")
    if "figures" in kept:
        drawn = kept["figures"]
        asked = {"layer", "steps"} if "training" in drawn else set()
        if missing := _DRAWN - drawn.keys() | asked - (kept["run"] or {}).keys():
            raise KeyError(*sorted(missing))
        if not all(isinstance(figure, dict) for figure in drawn.values()):
            raise TypeError("a figure is none")
    kept["rates"] = {
        time: {
            # The word "nan" has no sum, as no word has.
            name: Estimate._make([*(0.0 + end for end in one[:3]), int(one[3])])
            for name, one in shares.items()
        }
        for time, shares in kept["rates"].items()
    }
    title = lens.get("name")
    return kind(**kept, name=title if isinstance(title, str) else None)


def _clean(value: Any) -> Any:
    """What was read, its texts without what nobody sees.

    Raises:
        ValueError: If it holds a number that JSON lacks, which Python reads all the same.
        OverflowError: If it holds one that no float holds.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): _clean(one) for name, one in value.items()}
    if isinstance(value, (int, float)) and not math.isfinite(value):
        raise ValueError(f"{value} is no number that JSON has")
    return value
