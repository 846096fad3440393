"""The entries of the activation store as they lie on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from actor_lens.activations.store_files import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    DamagedEntry,
    read_manifest,
)

PARTIAL = ".partial"
"""How the name of an unfinished entry's folder ends."""


@dataclass(frozen=True)
class StoreEntry:
    """An entry as it lies on disk.

    Attributes:
        key: Name of the entry.
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

    @property
    def folder_name(self) -> str:
        """Name of its folder."""
        return self.key if self.complete else self.key + PARTIAL

    @property
    def stamp(self) -> float:
        """When it was last used, in seconds since 1970."""
        return self.used.timestamp()


def read_entries(folder: Path) -> list[StoreEntry]:
    """All entries of a store, in no order; none where there is no store."""
    pattern = re.compile(rf"[0-9a-f]{{32}}({re.escape(PARTIAL)})?")
    try:
        paths = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []
    return [entry for path in paths if (entry := read_entry(path)) is not None]


def read_entry(path: Path) -> StoreEntry | None:
    """An entry by its folder, or None if it was removed meanwhile."""
    complete = not path.name.endswith(PARTIAL)
    identity, fault = ({}, "") if complete else (_journal_identity(path), "")
    try:
        nbytes = sum(file.stat().st_size for file in path.iterdir())
        stamp = path / (MANIFEST_FILE if complete else JOURNAL_FILE)
        used = (stamp if stamp.exists() else path).stat().st_mtime
        if complete:
            identity = read_manifest(path)["identity"]
    except DamagedEntry as damage:
        fault = str(damage)
    except OSError:
        return None
    return StoreEntry(
        key=path.name.removesuffix(PARTIAL),
        identity=identity,
        nbytes=nbytes,
        used=datetime.fromtimestamp(used, tz=timezone.utc),
        complete=complete,
        fault=fault,
    )


def _journal_identity(path: Path) -> Mapping[str, Any]:
    """What an unfinished entry depends on, as far as that can be read."""
    try:
        with (path / JOURNAL_FILE).open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
