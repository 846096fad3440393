"""The files of one entry of the activation store: an array, its journal, its manifest.

An entry is filled in a folder ``<key>.partial`` and renamed to ``<key>`` when it is whole. Until
then the journal says which rows are there, each line with a hash of their bytes: a line counts only
where the bytes still have that hash, so a crash at any moment leaves nothing wrong behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

ARRAY_FILE = "array.bin"
JOURNAL_FILE = "journal.jsonl"
MANIFEST_FILE = "manifest.json"
FORMAT = 1
_CHUNK = 32 * 2**20


@dataclass(frozen=True)
class Layout:
    """How rows lie in an entry: an array ``[plane, unit, width]`` of bytes.

    Attributes:
        planes: For instance layers.
        starts: Row ``r`` is the units ``starts[r]`` to ``starts[r + 1]`` of every plane.
        width: Bytes of a unit.
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
        fresh = not lines or lines[0] != self._header or not self._has_right_size()
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
            ValueError: If an array has another size than its row.
        """
        digest = xxhash.xxh3_128()
        for row, array in zip(rows, arrays, strict=True):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            places = self._layout.places(row)
            if len(data) != sum(size for _, size in places):
                raise ValueError(f"row {row} has {len(data)} bytes, not those of its layout")
            digest.update(data)
            for offset, size in places:
                _write_at(self._array, data[:size], offset)
                data = data[size:]
        line = json.dumps({"rows": list(rows), "xxh3": digest.hexdigest()}) + "\n"
        _write(self._journal, line.encode())
        self._present.update(rows)

    def finish(self, target: Path) -> None:
        """Write the manifest and give the whole entry its final name.

        Raises:
            ValueError: If rows are missing.
        """
        if self.missing:
            raise ValueError(f"{len(self.missing)} rows are missing")
        os.fsync(self._array)
        manifest = {
            **self._header,
            "nbytes": self._layout.nbytes,
            "chunks": chunk_hashes(map_array(self._folder, self._layout.nbytes)),
        }
        manifest["xxh3"] = xxhash.xxh3_128_hexdigest(json.dumps(manifest).encode())
        path = self._folder / MANIFEST_FILE
        with path.open("w", encoding="utf-8") as file:
            json.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        (self._folder / JOURNAL_FILE).unlink(missing_ok=True)
        os.replace(self._folder, target)

    def close(self) -> None:
        """Close the files; what was put stays for the next time."""
        for name in ("_array", "_journal"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

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
            text = (self._folder / JOURNAL_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
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
        digest = xxhash.xxh3_128()
        for row in rows:
            for offset, size in self._layout.places(row):
                digest.update(_read_at(self._array, size, offset))
        return digest.hexdigest()


@dataclass(frozen=True)
class EntryFolder:
    """A folder that should hold a whole entry."""

    path: Path

    @cached_property
    def manifest(self) -> Mapping[str, Any] | None:
        """The manifest, or None where it is missing or not what was written."""
        try:
            manifest = json.loads((self.path / MANIFEST_FILE).read_text(encoding="utf-8"))
            expected = manifest.pop("xxh3")
            intact = xxhash.xxh3_128_hexdigest(json.dumps(manifest).encode()) == expected
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return manifest if intact else None

    def checked(self) -> tuple[np.memmap | None, str]:
        """The array if it is what was written, else None and what is wrong."""
        if self.manifest is None:
            return None, "the manifest is missing or damaged"
        nbytes = int(self.manifest["nbytes"])
        try:
            size = (self.path / ARRAY_FILE).stat().st_size
            if size != nbytes:
                return None, f"the array has {size} bytes instead of {nbytes}"
            array = map_array(self.path, nbytes)
        except OSError as error:
            return None, f"the array cannot be read ({error.strerror or error})"
        pairs = zip(chunk_hashes(array), self.manifest["chunks"], strict=True)
        for number, (found, expected) in enumerate(pairs):
            if found != expected:
                return None, f"chunk {number} of the array differs from its checksum"
        return array, ""


def map_array(folder: Path, nbytes: int) -> np.memmap:
    """The array, copy on write: changes stay in memory and torch takes it without a warning."""
    return np.memmap(folder / ARRAY_FILE, dtype=np.uint8, mode="c", shape=(nbytes,))


def chunk_hashes(array: np.ndarray) -> list[str]:
    """Hashes of the parts of an array of bytes, by two threads (xxhash gives up the lock)."""
    starts = range(0, len(array), _CHUNK)
    with ThreadPoolExecutor(2) as pool:
        parts = (array[start : start + _CHUNK].data for start in starts)
        return list(pool.map(xxhash.xxh3_128_hexdigest, parts))


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


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


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
