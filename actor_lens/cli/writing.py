"""What commands write: the output folder, tables, and ``summary.json``."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class StoppedError(Exception):
    """The user interrupted; the message says what was saved and how to go on."""


def prepare_out(arguments: argparse.Namespace) -> Path | None:
    """Make the output folder and try it, before any work is done.

    Raises:
        UserError: If it is a file, holds files and ``--overwrite`` was not given, or cannot be
            written.
    """
    if arguments.out is None:
        return None
    out = Path(arguments.out).expanduser()
    try:
        if out.is_dir() and any(out.iterdir()) and not arguments.overwrite:
            raise UserError(f"--out {out} is not empty; give another folder or add --overwrite")
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; give a folder")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); give another folder"
        ) from error
    return out


def prepare_to_go_on(arguments: argparse.Namespace, *kept: str) -> Path | None:
    """Make the output folder; one that holds finished work goes on unless overwritten.

    Args:
        arguments: With ``out`` and ``overwrite``.
        kept: Names of the files and folders that hold finished work.

    Raises:
        UserError: As ``prepare_out``, or if what is to be overwritten cannot be removed.
    """
    if arguments.out is None:
        return None
    paths = [Path(arguments.out).expanduser() / name for name in kept]
    there = [path for path in paths if path.exists()]
    if arguments.overwrite:
        for path in there:
            _remove(path)
    if there:
        arguments.overwrite = True  # of the results, which are written anew
    return prepare_out(arguments)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise UserError(
            f"{path} cannot be removed ({error.strerror or error}); give another folder"
        ) from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as it is printed.

    Raises:
        UserError: If the file cannot be written; what was there survives.
    """
    from actor_lens.files.saving import replacing

    with replacing(path) as temporary:
        temporary.write_text(as_json(record) + "\n", encoding="utf-8")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table without its index.

    Raises:
        UserError: If the file cannot be written; what was there survives.
    """
    from actor_lens.files.saving import replacing

    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def as_json(record: dict[str, Any]) -> str:
    """A record as indented JSON.

    Raises:
        ValueError: If it holds NaN or infinity, which JSON does not have.
    """
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
