"""The activation store: arrays on disk, found by what they depend on, mapped into memory.

An entry is named by a hash of its identity: weights, prompts (as a hash of their tokens, never as
text), position, number format. It is filled batch by batch, may be cut short at any moment and is
resumed; once whole it never changes. Everything read is checked against its checksums, and what
does not fit them is removed, named and computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from actor_lens.errors import UserError
from actor_lens.store_files import FORMAT, JOURNAL_FILE, MANIFEST_FILE, EntryFile, EntryFolder
from actor_lens.store_files import Layout as Layout

DEFAULT_LIMIT = 20 * 10**9
_PARTIAL = ".partial"
_DOOMED = ".removed"
_A_DAY = 86_400.0
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class StoreWarning(UserWarning):
    """The store could not be used as it should; results are right all the same."""


class StoreError(Exception):
    """The store cannot be used; the work can go on without it."""


@dataclass(frozen=True)
class StoreEntry:
    """An entry as it lies on disk.

    Attributes:
        key: Its name.
        identity: What it depends on; empty where that cannot be read.
        nbytes: Size on disk.
        used: When it was last written or read (UTC).
        complete: Whether it is whole.
        fault: What is wrong with it, or empty.
    """

    key: str
    identity: Mapping[str, Any]
    nbytes: int
    used: datetime
    complete: bool
    fault: str = ""

    @property
    def kind(self) -> str:
        """What it holds: ``"residuals"`` or ``"block_inputs"``."""
        return str(self.identity.get("kind", "unknown"))


class Filling:
    """An entry that is being filled; another process may have completed it meanwhile."""

    def __init__(self, store: Store, key: str, file: EntryFile | None) -> None:
        """Made by ``Store.filling``."""
        self._store, self._key, self._file = store, key, file

    @property
    def missing(self) -> tuple[int, ...]:
        """Rows that still have to be put."""
        return () if self._file is None else self._file.missing

    def put(self, rows: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        """Write rows, each ``[plane, unit, ...]`` of any dtype and of the layout's size.

        Raises:
            StoreError: If the file system refuses.
        """
        if self._file is None:
            return
        try:
            self._file.put(rows, arrays)
        except OSError as error:
            self.discard()
            raise self._store.refused(error) from error

    def finish(self) -> np.memmap:
        """The whole array as bytes, mapped copy on write.

        Raises:
            ValueError: If rows are missing.
            StoreError: If the file system refuses.
        """
        folder = self._store.folder / self._key
        try:
            if self._file is not None:
                shutil.rmtree(folder, ignore_errors=True)  # a damaged one that came back
                self._file.finish(folder)
                self._file.close()
                self._file = None
        except OSError as error:
            self.discard()
            raise self._store.refused(error) from error
        array, fault = EntryFolder(folder).checked()
        if array is None:
            raise StoreError(f"entry {self._key} in {self._store.folder} is not sound: {fault}")
        return array

    def close(self) -> None:
        """Leave off; what was put stays for the next time."""
        if self._file is not None:
            self._file.close()

    def discard(self) -> None:
        """Give back the space of what cannot be finished."""
        self.close()
        shutil.rmtree(self._store.folder / (self._key + _PARTIAL), ignore_errors=True)


class Store:
    """A folder of entries, safe to share between processes and threads."""

    def __init__(self, folder: str | Path, *, limit: int | None = None) -> None:
        """Nothing is made on disk before the first entry.

        Args:
            folder: Of the store.
            limit: Most bytes that it should hold; the least recently used entries make room.
        """
        self.folder = Path(folder).expanduser()
        self.limit = limit

    @staticmethod
    def key(identity: Mapping[str, Any]) -> str:
        """The name of an entry: 32 hex digits."""
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, identity: Mapping[str, Any]) -> np.memmap | None:
        """The bytes of an entry, mapped copy on write, or None where there is no sound one.

        A damaged entry is removed and named in a ``StoreWarning``.
        """
        key = self.key(identity)
        entry = EntryFolder(self.folder / key)
        if not entry.path.is_dir():
            return None
        array, fault = entry.checked()
        if array is not None and dict(entry.manifest or {}).get("identity") != dict(identity):
            array, fault = None, "it belongs to something else"
        if array is None:
            if entry.path.is_dir():  # not just removed by another process
                self._remove_damaged(key, fault)
            return None
        with suppress(OSError):  # a store that cannot be written can be read all the same
            os.utime(entry.path / MANIFEST_FILE)
        return array

    @contextmanager
    def filling(
        self,
        identity: Mapping[str, Any],
        layout: Layout,
        *,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[Filling]:
        """Fill an entry, or go on filling one that was cut short; others wait meanwhile.

        Args:
            identity: What the entry depends on.
            layout: Of its array.
            on_wait: Told, once, that another process is filling the same entry.

        Raises:
            StoreError: If the store cannot be used.
        """
        key = self.key(identity)
        if self.limit is not None and layout.nbytes > self.limit:
            raise StoreError(
                f"an entry of {format_size(layout.nbytes)} exceeds the limit of the activation "
                f"store ({format_size(self.limit)}); raise ACTOR_LENS_STORE_LIMIT to keep it"
            )
        with self._locked(key, on_wait):
            file = None
            if not EntryFolder(self.folder / key).path.is_dir():
                try:
                    file = EntryFile(self.folder / (key + _PARTIAL), identity, layout)
                except OSError as error:
                    shutil.rmtree(self.folder / (key + _PARTIAL), ignore_errors=True)
                    raise self.refused(error) from error
            filling = Filling(self, key, file)
            try:
                yield filling
            finally:
                filling.close()
        if file is not None and self.limit is not None:
            self.prune(self.limit, keep=key)

    def entries(self) -> list[StoreEntry]:
        """All entries, the one used last first."""
        found = [_entry(path) for path in self._folders()]
        return sorted((entry for entry in found if entry), key=lambda entry: -_stamp(entry))

    def verify(self) -> list[StoreEntry]:
        """All entries, each with what is wrong with it; nothing is removed."""
        return [
            StoreEntry(**{**vars(entry), "fault": self._fault(entry)}) for entry in self.entries()
        ]

    def prune(self, limit: int, *, keep: str = "") -> list[StoreEntry]:
        """Remove the least recently used entries until the rest has at most ``limit`` bytes.

        Unfinished entries go first if they are older than a day, or with a limit of 0. Those that
        a process is filling stay.

        Args:
            limit: Bytes.
            keep: Key of an entry that stays in any case.

        Returns:
            What was removed.
        """
        entries = self.entries()
        total = sum(entry.nbytes for entry in entries)
        old = time.time() - _A_DAY
        stale = [e for e in entries if not e.complete and (limit == 0 or _stamp(e) < old)]
        removed = []
        for entry in [*stale, *reversed([entry for entry in entries if entry.complete])]:
            wanted = not entry.complete or total > limit
            if wanted and entry.key != keep and self._remove(entry):
                removed.append(entry)
                total -= entry.nbytes
        return removed

    def refused(self, error: OSError) -> StoreError:
        """What to tell when the file system says no."""
        return StoreError(
            f"the activation store {self.folder} cannot be used ({error.strerror or error}); free "
            "some space ('actor-lens store prune --limit 5GB' removes old entries) or set "
            "ACTOR_LENS_STORE to another folder"
        )

    @contextmanager
    def _locked(self, key: str, on_wait: Callable[[str], None] | None) -> Iterator[None]:
        locks = self.folder / "locks"
        try:
            locks.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(locks / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if on_wait is not None:
                    on_wait("another process is collecting the same activations: waiting for it")
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # some file systems have no locks
            refusal = error if isinstance(error, OSError) else OSError(str(error))
            raise self.refused(refusal) from error
        try:
            yield
        finally:
            lock.release()

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        pattern = re.compile(rf"[0-9a-f]{{32}}({re.escape(_PARTIAL)})?")
        return [path for path in self.folder.iterdir() if pattern.fullmatch(path.name)]

    def _fault(self, entry: StoreEntry) -> str:
        if not entry.complete:
            return ""
        folder = EntryFolder(self.folder / entry.key)
        fault = folder.checked()[1]
        if not fault and self.key(entry.identity) != entry.key:
            return "it belongs to something else"
        return fault

    def _remove_damaged(self, key: str, fault: str) -> None:
        warnings.warn(
            f"entry {key} of the activation store {self.folder} is damaged ({fault}); it is "
            "computed again",
            StoreWarning,
            stacklevel=3,
        )
        # Where it cannot be removed it is still never used: the next reader finds the damage too.
        with suppress(StoreError), self._locked(key, None):
            if EntryFolder(self.folder / key).checked()[0] is None:
                self._take_away(self.folder / key)

    def _remove(self, entry: StoreEntry) -> bool:
        """Remove an entry unless somebody is filling it; whether it is gone."""
        path = self.folder / (entry.key if entry.complete else entry.key + _PARTIAL)
        try:
            with FileLock(self.folder / "locks" / f"{entry.key}.lock").acquire(timeout=0):
                return self._take_away(path)
        except (OSError, Timeout):
            return False

    def _take_away(self, path: Path) -> bool:
        """Out of sight by one rename, then deleted: nobody sees half an entry."""
        doomed = path.with_name(f"{secrets.token_hex(8)}{_DOOMED}")
        with suppress(OSError):
            os.replace(path, doomed)
        for leftover in self.folder.glob(f"*{_DOOMED}"):
            shutil.rmtree(leftover, ignore_errors=True)
        return not path.exists()


def default_store() -> Store | None:
    """The store that ``ACTOR_LENS_STORE`` names, else one in the user's cache folder.

    ``ACTOR_LENS_STORE=off`` means none. ``ACTOR_LENS_STORE_LIMIT`` is the most that it should
    hold, for instance ``50GB``.

    Raises:
        UserError: If the limit is not a size.
    """
    from platformdirs import user_cache_path

    place = os.environ.get("ACTOR_LENS_STORE", "").strip()
    if place.lower() == "off":
        return None
    limit = os.environ.get("ACTOR_LENS_STORE_LIMIT", "").strip()
    return Store(
        place or user_cache_path("actor-lens") / "store",
        limit=parse_size(limit) if limit else DEFAULT_LIMIT,
    )


def parse_size(text: str) -> int:
    """Bytes of a size such as ``20GB``, ``1.5 TB`` or ``1000``.

    Raises:
        UserError: If it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", text, flags=re.IGNORECASE)
    if match is None:
        raise UserError(f"'{text}' is not a size; give a number of bytes, or one like 20GB")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def format_size(nbytes: int) -> str:
    """A number of bytes for people: ``524 MB``."""
    for unit in ("TB", "GB", "MB", "KB"):
        if nbytes >= _UNITS[unit]:
            return f"{nbytes / _UNITS[unit]:.3g} {unit}"
    return f"{nbytes} B"


def _entry(path: Path) -> StoreEntry | None:
    complete = not path.name.endswith(_PARTIAL)
    try:
        nbytes = sum(file.stat().st_size for file in path.iterdir())
        stamp = path / (MANIFEST_FILE if complete else JOURNAL_FILE)
        used = (stamp if stamp.exists() else path).stat().st_mtime
    except OSError:  # just removed by another process
        return None
    manifest = EntryFolder(path).manifest if complete else None
    return StoreEntry(
        key=path.name.removesuffix(_PARTIAL),
        identity=_identity(path) if manifest is None else manifest["identity"],
        nbytes=nbytes,
        used=datetime.fromtimestamp(used, tz=timezone.utc),
        complete=complete,
    )


def _identity(path: Path) -> Mapping[str, Any]:
    """What an unfinished entry depends on, as far as that can be read."""
    try:
        with (path / JOURNAL_FILE).open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _stamp(entry: StoreEntry) -> float:
    return entry.used.timestamp()
