"""Verdicts on disk, so that a run that was cut short pays for none of them twice.

A row of an SQLite database holds the hash of what a verdict depends on and the verdict: neither
prompts nor replies are in the file. Threads and processes may share it. Earlier versions wrote JSON
lines; those are taken over when the database is made, and their file stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator
from contextlib import closing, contextmanager

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.judges.base import VERDICTS, Verdict

# Seconds to wait for other processes that are writing.
_PATIENCE = 60.0


def verdict_key(*parts: str) -> str:
    """Hash of all that a verdict depends on; where one part ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class VerdictCache:
    """A file of verdicts."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Check what is there.

        Args:
            path: Place of the file; it and its folder are made when they are first needed. It
                always ends in ``.sqlite``: another ending is that of JSON lines beside it.

        Raises:
            UserError: If the file is there and cannot be read.
        """
        path = user_path(path)
        self.path = path if path.is_dir() else path.with_suffix(".sqlite")
        self._older = path.with_suffix(".jsonl") if path == self.path else path
        if self.path.exists():
            len(self)

    def __len__(self) -> int:
        """Number of verdicts."""
        with self._database() as database:
            return int(database.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def known(self, keys: Iterable[str], answers: Container[str] = VERDICTS) -> dict[str, str]:
        """Those of some keys that have a verdict, with it.

        Args:
            keys: Keys, from ``verdict_key``.
            answers: What may be read; anything else counts as not known.

        Raises:
            UserError: If the file cannot be read.
        """
        query = "SELECT verdict FROM verdicts WHERE key = ?"
        with self._database() as database:
            rows = {key: database.execute(query, (key,)).fetchone() for key in keys}
        return {key: row[0] for key, row in rows.items() if row and row[0] in answers}

    def put(self, key: str, verdict: str) -> None:
        """Keep a verdict or a rating; it is on disk when this returns.

        Raises:
            UserError: If it cannot be written.
        """
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, verdict))

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use, which is what makes threads and processes safe."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as database, database:
                if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    self._fill(database)
                yield database
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"the verdict cache {self.path} cannot be used: "
                f"{getattr(error, 'strerror', None) or error}; name another file in "
                "ACTOR_LENS_VERDICTS"
            ) from error

    def _fill(self, database: sqlite3.Connection) -> None:
        """Make the table and take over older verdicts, both or neither."""
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)"
        )
        lines = self._older.read_bytes().splitlines() if self._older.is_file() else []
        older = dict(_verdicts_in(lines)).items()
        database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", older)
        database.commit()


def default_cache() -> VerdictCache:
    """The cache in the file that ``ACTOR_LENS_VERDICTS`` names, else in the user's cache folder."""
    from platformdirs import user_cache_path

    place = os.environ.get("ACTOR_LENS_VERDICTS", "").strip()
    return VerdictCache(place or user_cache_path("actor-lens") / "verdicts.sqlite")


def _verdicts_in(lines: Iterable[bytes]) -> Iterator[tuple[str, Verdict]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        if isinstance(record, dict) and record.get("verdict") in VERDICTS:
            yield str(record.get("key")), record["verdict"]
