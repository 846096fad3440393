"""What commands write: the output folder, tables, and ``summary.json``.

The folder is made and tried before any work is done, so that hours of training do not end at a
disk that cannot be written. Every file is written beside its place and then moved there: a full
disk or Ctrl-C leaves what was there before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path

if TYPE_CHECKING:
    import pandas as pd


class StoppedError(Exception):
    """The user pressed Ctrl-C; the message says what was saved and how to go on.

    ``main`` prints the message in place of "interrupted" and ends with exit code 130.
    """


def prepare_out(arguments: argparse.Namespace) -> Path | None:
    """Make the output folder and try it, before any work is done.

    Args:
        arguments: ``out`` and ``overwrite`` are read.

    Returns:
        The folder; None without ``--out``.

    Raises:
        UserError: If it is a file, holds files and ``--overwrite`` was not given, or cannot be
            written.
    """
    if arguments.out is None:
        return None
    out = user_path(arguments.out)
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
        arguments: ``out`` and ``overwrite`` are read. ``overwrite`` is set where work goes on, as
            its results are written anew.
        kept: Names of the files and folders that hold finished work.

    Returns:
        The folder; None without ``--out``.

    Raises:
        UserError: As ``prepare_out``, or if what is to be overwritten cannot be removed.
    """
    if arguments.out is None:
        return None
    paths = [user_path(arguments.out) / name for name in kept]
    there = [path for path in paths if path.exists()]
    if arguments.overwrite:
        try:
            for path in there:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise UserError(
                f"{path} cannot be removed ({error.strerror or error}); give another folder"
            ) from error
    if there:
        arguments.overwrite = True
    return prepare_out(arguments)


def check_complete(complete: bool, out: Path | None) -> None:
    """End a command that Ctrl-C has cut short, once it has shown what was done.

    Raises:
        StoppedError: If work is missing; it says whether the same command goes on.
    """
    if not complete:
        kept = "the same command goes on" if out is not None else "nothing was kept without --out"
        raise StoppedError(f"stopped; what was done is shown, and {kept}")


def write_results(
    out: Path | None, record: dict[str, Any], tables: Mapping[str, Callable[[], pd.DataFrame]]
) -> None:
    """Write tables and ``summary.json``; the summary last, so that where it is, all else is."""
    if out is None:
        return
    from actor_lens.files.saving import replacing

    for name, table in tables.items():
        with replacing(out / name) as temporary:
            table().to_csv(temporary, index=False)
    write_json(out / "summary.json", record)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as it is printed, in UTF-8.

    Raises:
        UserError: If the file cannot be written; what was there survives.
    """
    from actor_lens.files.saving import replacing

    with replacing(path) as temporary:
        temporary.write_text(as_json(record) + "\n", encoding="utf-8")


def as_json(record: dict[str, Any], encoding: str = "utf-8") -> str:
    """A record as indented JSON.

    Args:
        record: Plain values.
        encoding: Encoding of where it goes; what that does not have is written as an escape.

    Raises:
        ValueError: If it holds NaN or infinity, which JSON does not have.
    """
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    if text.encode(encoding, "replace").decode(encoding) == text:
        return text
    return json.dumps(record, indent=2, allow_nan=False)
