"""Finished work as earlier versions kept it, read into the ledgers of today.

A comparison had one JSON file for each method and seed. Their outcomes are copied when a ledger is
begun; the old files stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError

OUTCOMES_FOLDER = "outcomes"
_METHODS = "actor_lens.methods."
# An ablation was called a study, and these two differed by one letter.
_FACTORS = {"anchors": "harmful-prompts"}

Record = Mapping[str, Any]


def comparison_outcomes(out: Path) -> Iterator[tuple[Record, Record]]:
    """What each outcome depends on, and its record.

    Raises:
        UserError: If a file cannot be read.
    """
    for path in sorted((out / OUTCOMES_FOLDER).glob("*.json")):
        record = _read(path, "about", "outcome")
        about = dict(record["about"])
        settings = about.pop("method_settings", {})
        for name in ("method", "seed"):
            about.pop(name, None)
        # A method's class was written with its module, which has moved.
        kind = str(settings.get("class"))
        if kind.startswith(_METHODS):
            settings = {**settings, "class": kind.rpartition(".")[2]}
        yield about, {"method_settings": settings, "outcome": record["outcome"]}


def ablation_outcome(record: Record) -> Record:
    """The record of an ablation's outcome with the names of today."""
    cell = dict(record["cell"])
    if "study" in cell:
        cell["factor"] = factor_of(cell.pop("study"))
    return {**record, "cell": cell}


def factor_of(name: str) -> str:
    """The name of today of what an ablation varies."""
    return _FACTORS.get(name, name)


def _read(path: Path, *names: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in names if name not in record]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to run that again") from error
    if missing:
        raise UserError(f"{path}: holds no '{missing[0]}'; remove it to run that again")
    return dict(record)
