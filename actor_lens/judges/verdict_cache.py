"""Verdicts on disk, so that a run that was cut short pays for none of them twice.

One JSON line a verdict, appended and flushed to the disk as it comes. A line holds the hash of what
the verdict depends on and the verdict: neither prompts nor replies are in the file. Several
processes may share it. A last line that a crash cut short is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Lock

from filelock import FileLock

from actor_lens.errors import UserError
from actor_lens.judges.base import VERDICTS, Verdict


def verdict_key(*parts: str) -> str:
    """Hash of all that a verdict depends on; where one part ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class VerdictCache:
    """A file of verdicts."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read what is there.

        Args:
            path: Of the file; it and its folder are made when the first verdict comes.

        Raises:
            UserError: If it is there and cannot be read.
        """
        self.path = Path(path).expanduser()
        self._verdicts: dict[str, Verdict] = {}
        self._read_to = 0
        self._lock = Lock()
        self.refresh()

    def __len__(self) -> int:
        """Number of verdicts."""
        return len(self._verdicts)

    def get(self, key: str) -> Verdict | None:
        """The verdict of a key, or None."""
        return self._verdicts.get(key)

    def refresh(self) -> None:
        """Take in what other processes have added.

        Raises:
            UserError: If the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from error
        whole = added[: added.rfind(b"\n") + 1]  # the rest is still being written, or cut short
        self._read_to += len(whole)
        self._verdicts.update(_verdicts_in(whole))

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; it is on disk when this returns. Threads and processes may call at once.

        Raises:
            UserError: If it cannot be written.
        """
        line = json.dumps({"key": key, "verdict": verdict}).encode() + b"\n"
        try:
            with self._lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{self.path}.lock"):
                    _append(self.path, line)
                self._verdicts[key] = verdict
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"the verdict cache {self.path} cannot be used: {error.strerror or error}; name "
            "another file in ACTOR_LENS_VERDICTS"
        )


def default_cache() -> VerdictCache:
    """The cache in the file that ``ACTOR_LENS_VERDICTS`` names, else in the user's cache folder."""
    from platformdirs import user_cache_path

    place = os.environ.get("ACTOR_LENS_VERDICTS", "").strip()
    return VerdictCache(place or user_cache_path("actor-lens") / "verdicts.jsonl")


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END) and _last_byte(path) != b"\n":
            file.write(b"\n")  # ends a line that a crash cut short
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _verdicts_in(lines: bytes) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for line in lines.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        if isinstance(record, dict):
            found |= {
                str(record.get("key")): one for one in VERDICTS if record.get("verdict") == one
            }
    return found
