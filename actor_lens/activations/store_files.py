"""The files of one entry of the activation store: an array, its journal, its manifest.

An entry is filled in a folder ``<key>.partial`` and renamed to ``<key>`` when it is whole. Until
then the journal says which rows are there, each line with a hash of their bytes: a line counts only
where the bytes still have that hash, so a crash at any moment leaves nothing wrong behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

ARRAY_FILE = "array.bin"
JOURNAL_FILE = "journal.jsonl"
MANIFEST_FILE = "manifest.json"
FORMAT = 1
_CHUNK = 32 * 2**20
_PART = 2**20  # read at once: small enough for a processor's cache
# An entry may be larger than memory: Linux refuses to map it for private writes unless told that
# nothing has to be set aside for them. Python names the flag from 3.13 on.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class DamagedEntry(Exception):
    """An entry is not what was written; the message says in what."""


@dataclass(frozen=True)
class Layout:
    """How rows lie in an entry: an array ``[plane, unit, width]`` of bytes.

    Attributes:
        planes: Number of planes, for instance layers.
        starts: First unit of each row and the number of all units: row ``r`` is the units
            ``starts[r]`` to ``starts[r + 1]`` of every plane.
        width: Size of a unit in bytes.
    """

    planes: int
    starts: tuple[int, ...]
    width: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    @property
    def n_units(self) -> int:
        """Units of one plane."""
        return self.starts[-1]

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return self.planes * self.n_units * self.width

    def places(self, row: int) -> list[tuple[int, int]]:
        """Offset and size of a row's bytes, plane by plane."""
        size = (self.starts[row + 1] - self.starts[row]) * self.width
        first = self.starts[row] * self.width
        plane = self.n_units * self.width
        return [(index * plane + first, size) for index in range(self.planes)]


class EntryFile:
    """An entry that is being filled; every method may raise ``OSError``."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], layout: Layout) -> None:
        """Open a folder: what is sound there is kept, anything else starts anew."""
        self._folder, self._identity, self._layout = folder, dict(identity), layout
        shape = {**asdict(layout), "starts": list(layout.starts)}
        self._header = {"format": FORMAT, "identity": self._identity, "layout": shape}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = self._journal_lines()
        known = bool(lines) and canonical(lines[0]) == canonical(self._header)
        fresh = not known or not self._has_right_size()
        self._array = os.open(folder / ARRAY_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        self._journal = -1
        try:
            if fresh:
                self._start()
            self._journal = os.open(folder / JOURNAL_FILE, os.O_WRONLY | os.O_APPEND, 0o600)
            if not fresh:
                os.write(self._journal, b"\n")  # ends a line that a crash cut short
            self._present = set() if fresh else self._sound_rows(lines[1:])
        except BaseException:
            self.close()
            raise

    @property
    def missing(self) -> tuple[int, ...]:
        """Rows that still have to be put."""
        return tuple(row for row in range(self._layout.n_rows) if row not in self._present)

    def put(self, rows: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        """Write some rows, each ``[plane, unit, ...]``, then note that they are there.

        Raises:
            ValueError: If there is no such row, or an array has another size than its row (nothing
                is written then), or the entry is closed.
        """
        self._check_is_open()
        parts = [self._bytes_of(row, array) for row, array in zip(rows, arrays, strict=True)]
        self._present.difference_update(rows)  # until all of it is written again
        digest = xxhash.xxh3_128()
        for row, data in zip(rows, parts, strict=True):
            digest.update(data)
            for offset, size in self._layout.places(row):
                _write_at(self._array, data[:size], offset)
                data = data[size:]
        line = json.dumps({"rows": list(rows), "xxh3": digest.hexdigest()}) + "\n"
        _write(self._journal, line.encode())
        self._present.update(rows)

    def _bytes_of(self, row: int, array: np.ndarray) -> memoryview:
        if not 0 <= row < self._layout.n_rows:
            raise ValueError(f"there is no row {row} among {self._layout.n_rows}")
        expected = sum(size for _, size in self._layout.places(row))
        if array.nbytes != expected:
            raise ValueError(f"row {row} has {array.nbytes} bytes instead of {expected}")
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def finish(self, target: Path) -> np.memmap:
        """Write the manifest and give the whole entry its final name; the array, mapped.

        Raises:
            ValueError: If rows are missing.
        """
        self._check_is_open()
        if self.missing:
            raise ValueError(f"{len(self.missing)} rows are missing")
        os.fsync(self._array)
        nbytes = self._layout.nbytes
        manifest = {**self._header, "nbytes": nbytes, "chunks": _chunk_hashes(self._array, nbytes)}
        manifest["xxh3"] = _own_hash(manifest)
        path = self._folder / MANIFEST_FILE
        with path.open("w", encoding="utf-8") as file:
            json.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        mark_used(self._folder)
        os.replace(self._folder, target)
        # Only now: cut short before, the rows would not be known any more.
        with contextlib.suppress(OSError):
            (target / JOURNAL_FILE).unlink()
        return _map(self._array, nbytes)

    def close(self) -> None:
        """Close the files; what was put stays for the next time."""
        for name in ("_array", "_journal"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def _check_is_open(self) -> None:
        if self._journal < 0:  # another process may be filling it now
            raise ValueError("the entry is closed")

    def _has_right_size(self) -> bool:
        with contextlib.suppress(OSError):
            return (self._folder / ARRAY_FILE).stat().st_size == self._layout.nbytes
        return False

    def _start(self) -> None:
        os.ftruncate(self._array, 0)
        _reserve(self._array, self._layout.nbytes)
        header = json.dumps(self._header) + "\n"
        (self._folder / JOURNAL_FILE).write_text(header, encoding="utf-8")
        (self._folder / JOURNAL_FILE).chmod(0o600)

    def _journal_lines(self) -> list[Any]:
        try:
            text = (self._folder / JOURNAL_FILE).read_text(encoding="ascii", errors="replace")
        except OSError:
            return []
        return [line for line in map(_parsed, text.splitlines()) if line is not None]

    def _sound_rows(self, lines: Sequence[Any]) -> set[int]:
        """Rows of those lines whose bytes are still the ones that were written."""
        latest: dict[int, int] = {}
        for number, line in enumerate(lines):
            latest |= dict.fromkeys(_rows_of(line, self._layout.n_rows), number)
        sound: set[int] = set()
        for number, line in enumerate(lines):
            rows = _rows_of(line, self._layout.n_rows)
            if any(latest[row] == number for row in rows) and self._digest(rows) == line["xxh3"]:
                sound.update(row for row in rows if latest[row] == number)
        return sound

    def _digest(self, rows: Sequence[int]) -> str:
        return _digest(self._array, [place for row in rows for place in self._layout.places(row)])


def canonical(values: Any) -> str:
    """The same text for the same values, also after a way through a file."""
    return json.dumps(values, sort_keys=True)


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a whole entry.

    Raises:
        DamagedEntry: If it is missing or not what was written.
        OSError: If it cannot be read, ``FileNotFoundError`` if there is no entry.
    """
    inode = folder.stat().st_ino
    try:
        text = (folder / MANIFEST_FILE).read_text(encoding="ascii")
        manifest = json.loads(text)
        # The text too: any byte that differs is damage, also one that JSON takes for the same.
        intact = json.dumps(manifest) == text and manifest.pop("xxh3") == _own_hash(manifest)
    except FileNotFoundError:
        _check_stayed(folder, inode)
        raise DamagedEntry("its manifest is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact or manifest.get("format") != FORMAT:
        raise DamagedEntry("its manifest is damaged")
    return dict(manifest)


def load_array(folder: Path, identity: Mapping[str, Any]) -> np.memmap:
    """The array of a whole entry, after a look at every byte, mapped copy on write.

    Raises:
        DamagedEntry: If it is not what was written, or belongs to another identity.
        OSError: If it cannot be read, ``FileNotFoundError`` if there is no entry.
    """
    inode = folder.stat().st_ino
    manifest = read_manifest(folder)
    if canonical(manifest["identity"]) != canonical(identity):
        raise DamagedEntry("it belongs to something else")
    try:
        descriptor = os.open(folder / ARRAY_FILE, os.O_RDONLY)
    except FileNotFoundError:
        _check_stayed(folder, inode)
        raise DamagedEntry("its array is missing") from None
    try:  # the checked file is the mapped one, whatever takes its name meanwhile
        _check_array(descriptor, manifest)
        return _map(descriptor, manifest["nbytes"])
    finally:
        os.close(descriptor)


def mark_used(folder: Path) -> None:
    """Note that a whole entry was used now; no error where that cannot be written."""
    now = time.time_ns()  # the file system's own clock is some milliseconds coarse
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST_FILE, ns=(now, now))


def _check_stayed(folder: Path, inode: int) -> None:
    """Tell an entry with a missing file from one that was removed meanwhile."""
    if folder.stat().st_ino != inode:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _check_array(descriptor: int, manifest: Mapping[str, Any]) -> None:
    size, nbytes = os.fstat(descriptor).st_size, manifest["nbytes"]
    if size != nbytes:
        raise DamagedEntry(f"its array has {size} bytes instead of {nbytes}")
    try:
        hashes = _chunk_hashes(descriptor, nbytes)
    except OSError as error:
        raise DamagedEntry(f"its array cannot be read: {error.strerror or error}") from error
    for number, (actual, expected) in enumerate(zip(hashes, manifest["chunks"], strict=True)):
        if actual != expected:
            raise DamagedEntry(f"chunk {number} of its array differs from its checksum")


def _map(descriptor: int, nbytes: int) -> np.memmap:
    """Copy on write: changes stay in memory and torch takes the array without a warning."""
    if nbytes == 0:  # nothing cannot be mapped
        return np.empty(0, dtype=np.uint8).view(np.memmap)
    flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(descriptor, nbytes, flags=flags, prot=access)
    return np.frombuffer(mapped, dtype=np.uint8).view(np.memmap)


def _own_hash(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest).encode())


def _chunk_hashes(descriptor: int, nbytes: int) -> list[str]:
    """Hashes of the parts of an array, by two threads (xxhash gives up the lock)."""
    starts = range(0, nbytes, _CHUNK)
    chunks = [[(start, min(_CHUNK, nbytes - start))] for start in starts]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda chunk: _digest(descriptor, chunk), chunks))


def _reserve(descriptor: int, nbytes: int) -> None:
    """Take the space now: a full disk is told before the work is done."""
    if nbytes and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, nbytes)


# Never through a memory map: a full disk then kills the process instead of raising an error.
def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# Nor is anything checked through one: a bad sector kills the process likewise.
def _digest(descriptor: int, places: Sequence[tuple[int, int]]) -> str:
    """Hash of the bytes at some offsets, of some sizes; a file that ends earlier gives another."""
    digest = xxhash.xxh3_128()
    for offset, size in places:
        end = offset + size
        while offset < end and (part := os.pread(descriptor, min(_PART, end - offset), offset)):
            digest.update(part)
            offset += len(part)
    return digest.hexdigest()


def _parsed(line: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(line)
    return None


def _rows_of(line: Any, n_rows: int) -> list[int]:
    """Rows that a line of the journal names; none where it is no such line."""
    rows = line.get("rows") if isinstance(line, dict) and "xxh3" in line else None
    if not isinstance(rows, list):
        return []
    fits = all(isinstance(row, int) and 0 <= row < n_rows for row in rows)
    return rows if fits else []
