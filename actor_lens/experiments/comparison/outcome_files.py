"""Finished outcomes of a comparison on disk: one file each, whole or not there at all.

A comparison that was cut short, by Ctrl-C or by a machine that stopped, goes on from them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.experiments.comparison.trial import MethodOutcome, without_module
from actor_lens.files.saving import replacing

FOLDER = "outcomes"
FORMAT = 2
"""Of the files. Format 1 had no number and wrote a method's class with its module."""
_TUPLES = ("verdicts", "replies", "chosen")
_MEASURED = ("kl", "token_cost", "perplexity")


class OutcomeFolder:
    """The files of one comparison."""

    def __init__(self, out: Path) -> None:
        """Make the folder.

        Raises:
            UserError: If it cannot be made.
        """
        self._folder = out / FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self._folder}: {error.strerror or error}; give another folder"
            ) from error

    def find(self, about: Mapping[str, Any]) -> MethodOutcome | None:
        """The outcome of a method and seed, if it is there.

        Args:
            about: All that the outcome depends on, ``method`` and ``seed`` among it.

        Raises:
            UserError: If the file there is of another comparison, or cannot be read.
        """
        path = self._path(about)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            noted, outcome = _about(record), _outcome(record["outcome"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be read as an outcome of a comparison ({error}); remove it to "
                "run this method again"
            ) from error
        wanted = json.loads(json.dumps(_finite(about)))
        if noted != wanted:
            differ = ", ".join(_differing(noted, wanted))
            raise UserError(
                f"{path}: belongs to another comparison (differs in: {differ}); give another "
                "folder, or overwrite this one"
            )
        return outcome

    def add(self, about: Mapping[str, Any], outcome: MethodOutcome) -> None:
        """Keep an outcome; it is on disk when this returns.

        Raises:
            UserError: If it cannot be written.
        """
        record = _finite({"format": FORMAT, "about": about, "outcome": asdict(outcome)})
        text = json.dumps(record, ensure_ascii=True, allow_nan=False)
        with replacing(self._path(about)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _path(self, about: Mapping[str, Any]) -> Path:
        return self._folder / f"{file_name(about['method'])}-seed-{about['seed']}.json"


def file_name(method: str) -> str:
    """A method's name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", method).strip("-.") or "method"


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an outcome depends on, from a file of any format so far."""
    about: dict[str, Any] = record["about"]
    number = record.get("format", 1)
    if number == 1:
        return {**about, "method_settings": without_module(about["method_settings"])}
    if number != FORMAT:
        raise ValueError(f"format {number}, written by a later version")
    return about


def _outcome(values: Mapping[str, Any]) -> MethodOutcome:
    known = {one.name for one in fields(MethodOutcome)}
    if set(values) != known:
        raise ValueError(f"fields {sorted(set(values) ^ known)} are missing or too many")
    numbers = {name: float("nan" if values[name] is None else values[name]) for name in _MEASURED}
    lists = {name: tuple(values[name]) for name in _TUPLES}
    return MethodOutcome(**{**values, **numbers, **lists})


def _finite(value: Any) -> Any:
    """The same without what JSON does not have: NaN is null, infinity a word."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _differing(noted: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = [name for name in wanted if noted.get(name) != wanted[name]]
    return [name.replace("_", " ") for name in names] or ["what is recorded"]
