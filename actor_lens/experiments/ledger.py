"""Finished parts of long work on disk, so that work that was cut short goes on where it was.

A ledger is a JSON-lines file: a header with all that the entries depend on, then one entry a line.
An entry is on disk before the work goes on; a line that a crash cut short is left out, and costs
that one entry.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from actor_lens.errors import UserError
from actor_lens.files.saving import replacing
from actor_lens.results import plain

FORMAT = 2
"""Format of new ledgers. Headers of format 1 are ``{"sweep": about}`` and have no number."""

Entry = TypeVar("Entry")
Record = Mapping[str, Any]


class Ledger(Generic[Entry]):
    """Entries of one piece of work, by their keys; of several with one key the last counts.

    Attributes:
        path: The file; None where entries are kept in memory alone.
        entries: All entries so far, those of earlier calls first.
    """

    def __init__(
        self,
        path: Path | None,
        about: Record,
        kind: type[Entry],
        key: Callable[[Entry], Hashable],
        *,
        work: str,
        older: Callable[[], Iterable[tuple[Record, Record]]] = tuple,
        upgrade: Callable[[Record], Record] = lambda record: record,
    ) -> None:
        """Read what is there.

        Args:
            path: The file; None keeps entries in memory alone.
            about: All that every entry depends on.
            kind: Dataclass of the entries.
            key: Function that gives what tells an entry from others.
            work: Name of the work for error messages, "sweep" say.
            older: Function that gives, from files of an older version, what each entry depends on
                and its record; called where there is no ledger yet. Other work is left out.
            upgrade: Function that gives a record of an older version the names of today.

        Raises:
            UserError: If the file is of other work, or cannot be read or written.
        """
        self.path, self._work, self._key = path, work, key
        self._kind, self._upgrade = kind, upgrade
        self._about = plain(about)
        self.entries: dict[Hashable, Entry] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                self._open(path)
            else:
                self._begin(path, list(older()))
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; give another folder") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be read as the ledger of a {self._work} ({error}), nor made of "
                "what an older version left beside it; remove that to begin again"
            ) from error

    def add(self, entry: Entry) -> None:
        """Keep an entry; it is on disk when this returns.

        Raises:
            UserError: If it cannot be written.
        """
        self.entries[self._key(entry)] = entry
        if self.path is None:
            return
        try:
            _append(self.path, _line(entry))
        except OSError as error:
            raise UserError(
                f"{self.path}: {error.strerror or error}; make room and give the same folder "
                "again: what was kept before is still there"
            ) from error

    def _open(self, path: Path) -> None:
        data = path.read_bytes()
        header, *lines = data.split(b"\n")
        first = json.loads(header)
        number = first.get("format", 1)
        about = first["sweep" if number == 1 else "about"]
        if number > FORMAT:
            raise ValueError(f"format {number}, written by a later version")
        self._check(path, about)
        for record in filter(None, map(_parse, lines)):
            self._keep(record)
        if not data.endswith(b"\n"):  # a crash cut the last line short
            _append(path, b"\n")

    def _begin(self, path: Path, older: list[tuple[Record, Record]]) -> None:
        same = [record for about, record in older if about == self._about]
        if older and not same:
            self._check(path.parent, older[0][0])
        for record in same:
            self._keep(record)
        header = json.dumps({"format": FORMAT, "about": self._about}).encode() + b"\n"
        with replacing(path) as temporary:
            temporary.write_bytes(header + b"".join(map(_line, self.entries.values())))

    def _keep(self, record: Record) -> None:
        entry = from_record(self._kind, self._upgrade(record))
        self.entries[self._key(entry)] = entry

    def _check(self, place: Path, about: Record) -> None:
        names = [name for name, value in self._about.items() if about.get(name) != value]
        if about != self._about:
            raise UserError(other_work(place, self._work, names or ["what is recorded"]))


def other_work(place: Path | None, work: str, names: Iterable[str]) -> str:
    """The message about finished work that does not belong to the work at hand.

    Args:
        place: File or folder.
        work: Name of the work at hand.
        names: Names of what differs.
    """
    differing = ", ".join(name.replace("_", " ") for name in names)
    return (
        f"{place}: belongs to another {work} (differs in: {differing}); give another folder, or "
        "overwrite this one"
    )


def from_record(kind: type[Entry], record: Record) -> Entry:
    """A dataclass from its plain values, as ``plain`` makes them.

    Raises:
        ValueError: If fields are missing or unknown.
    """
    hints = get_type_hints(kind)
    unknown = record.keys() - hints.keys()
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    return kind(**{name: _value(hints[name], value) for name, value in record.items()})


def _value(kind: Any, value: Any) -> Any:
    if kind is float:  # JSON has neither NaN, which is null there, nor infinity, which is a word
        return float("nan" if value is None else value)
    if get_origin(kind) is tuple:
        inside = get_args(kind)[:1]
        return tuple(_value(inside[0], one) for one in value) if inside else tuple(value)
    if dataclasses.is_dataclass(kind):
        return from_record(kind, value)  # type: ignore[arg-type]
    return value


def _line(entry: object) -> bytes:
    return json.dumps(plain(entry), allow_nan=False).encode() + b"\n"


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # cut short by a crash, or the empty line that ended such a one
        return None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
