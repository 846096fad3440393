"""The activation store: arrays on disk, found by what they depend on, mapped into memory.

An entry is named by a hash of its identity: weights, prompts (as a hash of their tokens, never as
text), position, number format. It is filled batch by batch, may be cut short at any moment and is
resumed; once whole it never changes. Everything read is checked against its checksums, and what
does not fit them is removed, named and computed again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from actor_lens.activations.store_entries import PARTIAL, StoreEntry, read_entries, read_entry
from actor_lens.activations.store_files import (
    FORMAT,
    DamagedEntry,
    EntryFile,
    canonical,
    load_array,
    mark_used,
)
from actor_lens.activations.store_files import Layout as Layout
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.files.sizes import format_size, parse_size
from actor_lens.results import Result
from actor_lens.text import clip, plural

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_LIMIT = 20 * 10**9
_DOOMED = ".removed"
_A_DAY = 86_400.0


class StoreWarning(UserWarning):
    """The store could not be used as it should; results are right all the same."""


class StoreError(Exception):
    """The store cannot be used; the work can go on without it."""


class Filling:
    """An entry that is being filled; another process may have completed it meanwhile."""

    def __init__(
        self, store: Store, path: Path, file: EntryFile | None, array: np.memmap | None
    ) -> None:
        """Made by ``Store.filling``, with the array where the entry is complete, else a file."""
        self._store, self._path, self._file, self._array = store, path, file, array

    @property
    def missing(self) -> tuple[int, ...]:
        """Rows that still have to be put."""
        return () if self._file is None else self._file.missing

    def put(self, rows: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        """Write rows, each ``[plane, unit, ...]`` of any dtype and of the layout's size.

        Raises:
            ValueError: If a row does not fit the layout.
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
        if self._file is not None:
            try:
                self._array = self._file.finish(self._path)
            except OSError as error:
                self.discard()
                raise self._store.refused(error) from error
            self.close()
            self._file = None
        assert self._array is not None
        return self._array

    def close(self) -> None:
        """Leave off; what was put stays for the next time."""
        if self._file is not None:
            self._file.close()

    def discard(self) -> None:
        """Give back the space of what cannot be finished."""
        self.close()
        shutil.rmtree(self._path.with_name(self._path.name + PARTIAL), ignore_errors=True)


class Store(Result):
    """A folder of entries, safe to share between processes and threads."""

    _hint = "check: store.verify(); make room: store.prune(limit)"

    def __init__(self, folder: str | Path, *, limit: int | None = None) -> None:
        """Name a store; its folder is made with the first entry.

        Args:
            folder: Folder of the store.
            limit: Greatest size in bytes; the least recently used entries make room.
        """
        self.folder = user_path(folder)
        self.limit = limit

    def frame(self) -> pd.DataFrame:
        """One row an entry, the one used last first.

        Columns: ``key``, ``kind``, ``layer``, ``model``, ``prompts`` (their number), ``nbytes``,
        ``used`` (UTC), ``complete``, ``fault``.
        """
        import pandas as pd

        columns = [
            *("key", "kind", "layer", "model", "prompts", "nbytes", "used", "complete", "fault")
        ]
        rows = [
            (
                entry.key,
                entry.kind,
                entry.identity.get("layer"),
                entry.identity.get("model_name"),
                entry.identity.get("prompts"),
                entry.nbytes,
                entry.used,
                entry.complete,
                entry.fault,
            )
            for entry in self.entries()
        ]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> dict[str, Any]:
        """``folder``, ``limit`` and ``nbytes`` in bytes, and the number of ``entries``."""
        entries = self.entries()
        nbytes = sum(entry.nbytes for entry in entries)
        folder = str(self.folder)
        return {"folder": folder, "limit": self.limit, "entries": len(entries), "nbytes": nbytes}

    def _headline(self) -> str:
        summary = self.summary()
        limit = "no limit" if self.limit is None else f"limit {format_size(self.limit)}"
        size = format_size(summary["nbytes"])
        folder = clip(self.folder, 100)
        return f"Store: {plural(summary['entries'], 'entry', 'entries')}, {size}, {limit}; {folder}"

    @staticmethod
    def key(identity: Mapping[str, Any]) -> str:
        """Name of an entry: 32 hex digits."""
        text = canonical({"format": FORMAT, "identity": identity})
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, identity: Mapping[str, Any]) -> np.memmap | None:
        """The bytes of an entry, mapped copy on write, or None where there is no sound one.

        A damaged entry is removed and named in a ``StoreWarning``.
        """
        path = self.folder / self.key(identity)
        try:
            array = load_array(path, identity)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # no reason to remove it: too many open files, say
            self._warn(path, f"cannot be read ({error.strerror or error})")
            return None
        except DamagedEntry as damage:
            # Where it cannot be removed it is still never used: every reader finds the damage.
            with suppress(StoreError, OSError), self._locked(path.name, wait=False):
                return self._sound(path, identity)
            self._warn(path, f"is damaged ({damage})")
            return None
        mark_used(path)
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
            layout: Layout of its array; the identity determines it.
            on_wait: Function that is called once if another process is filling the same entry.

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
            path, file = self.folder / key, None
            try:
                array = self._sound(path, identity)
                if array is None:
                    file = self._partial(key, identity, layout)
            except OSError as error:
                raise self.refused(error) from error
            filling = Filling(self, path, file, array)
            try:
                yield filling
            finally:
                filling.close()
        if file is not None and self.limit is not None:
            self.prune(self.limit, keep=key)

    def entries(self) -> list[StoreEntry]:
        """All entries, the one used last first."""
        return sorted(read_entries(self.folder), key=lambda entry: -entry.stamp)

    def verify(self) -> list[StoreEntry]:
        """All entries, each with what is wrong with it; nothing is removed."""
        faults = [(entry, self._fault(entry)) for entry in self.entries()]
        return [replace(entry, fault=fault) for entry, fault in faults if fault is not None]

    def prune(self, limit: int, *, keep: str = "") -> list[StoreEntry]:
        """Remove the least recently used entries until the rest has at most ``limit`` bytes.

        Unfinished and damaged entries go first if they are older than a day, or with a limit of 0.
        Those that a process is filling stay, and so do those that are used meanwhile.

        Args:
            limit: Greatest size of what stays, in bytes.
            keep: Key of an entry that stays in any case.

        Returns:
            What was removed.
        """
        self._delete_leftovers()
        entries = [entry for entry in reversed(self.entries()) if entry.key != keep]
        size = sum(entry.nbytes for entry in self.entries())
        old = time.time() - _A_DAY
        useless = [e for e in entries if e.fault or not e.complete]
        stale = [e for e in useless if limit == 0 or e.stamp < old]
        removed = []
        for entry in [*stale, *(e for e in entries if e not in useless)]:
            if (entry in stale or size > limit) and self._remove(entry):
                removed.append(entry)
                size -= entry.nbytes
        return removed

    def refused(self, error: OSError) -> StoreError:
        """The error for a file system that refuses."""
        return StoreError(
            f"the activation store {self.folder} cannot be used ({error.strerror or error}); free "
            "some space ('actor-lens store prune --limit 5GB' removes old entries) or set "
            "ACTOR_LENS_STORE to another folder"
        )

    @contextmanager
    def _locked(
        self, key: str, on_wait: Callable[[str], None] | None = None, *, wait: bool = True
    ) -> Iterator[None]:
        locks = self.folder / "locks"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            locks.mkdir(exist_ok=True, mode=0o700)
            lock = FileLock(locks / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise
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

    def _sound(self, path: Path, identity: Mapping[str, Any]) -> np.memmap | None:
        """A complete entry, under its lock; a damaged one is removed."""
        try:
            array = load_array(path, identity)
        except FileNotFoundError:
            return None
        except DamagedEntry as damage:
            self._take_away(path)
            self._warn(path, f"is damaged ({damage})")
            return None
        mark_used(path)
        return array

    def _partial(self, key: str, identity: Mapping[str, Any], layout: Layout) -> EntryFile:
        path = self.folder / (key + PARTIAL)
        try:
            return EntryFile(path, identity, layout)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)  # gives back its space
            raise

    def _fault(self, entry: StoreEntry) -> str | None:
        """What is wrong with an entry, or None if it was removed meanwhile."""
        if not entry.complete or entry.fault:
            return entry.fault
        try:
            load_array(self.folder / entry.key, entry.identity)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"
        except DamagedEntry as damage:
            return str(damage)
        return "" if self.key(entry.identity) == entry.key else "it belongs to something else"

    def _warn(self, path: Path, fault: str) -> None:
        where = f"entry {path.name} of the activation store {self.folder}"
        warnings.warn(f"{where} {fault}; it is computed again", StoreWarning, stacklevel=4)

    def _remove(self, entry: StoreEntry) -> bool:
        """Remove an entry unless it is being filled or was used since; whether it is gone."""
        path = self.folder / entry.folder_name
        try:
            with self._locked(entry.key, wait=False):
                now = read_entry(path)
                if now is None or now.used != entry.used:
                    return False
                self._take_away(path)
        except (OSError, StoreError):
            return False
        return True

    def _take_away(self, path: Path) -> None:
        """Out of sight by one rename, then deleted: nobody sees half an entry."""
        os.replace(path, path.with_name(f"{secrets.token_hex(8)}{_DOOMED}"))
        self._delete_leftovers()

    def _delete_leftovers(self) -> None:
        """Also those of a process that was stopped while it deleted."""
        for leftover in self.folder.glob(f"*{_DOOMED}"):
            shutil.rmtree(leftover, ignore_errors=True)


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
    text = os.environ.get("ACTOR_LENS_STORE_LIMIT", "").strip()
    try:
        limit = parse_size(text) if text else DEFAULT_LIMIT
    except UserError as error:
        raise UserError(f"ACTOR_LENS_STORE_LIMIT: {error}") from None
    return Store(place or user_cache_path("actor-lens") / "store", limit=limit)
