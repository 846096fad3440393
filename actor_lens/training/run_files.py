"""A run on disk: the block's tensors, a record, the table of steps, and what resuming needs.

Weights are safetensors, the rest is JSON and CSV: reading a run executes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.files.saving import finish_replacing, replacing_together
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import plain
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import ResumeState, TrainingRun, TrainingStep

BLOCK_FILE = "block.safetensors"
RESUME_FILE = "resume.safetensors"
RUN_FILE = "run.json"
HISTORY_FILE = "history.csv"

_NOT_PLAIN = ("config", "state", "history", "resume_state", "anchors")
_PLAIN_FIELDS = [field.name for field in fields(TrainingRun) if field.name not in _NOT_PLAIN]


def save_run(run: TrainingRun, folder: str | Path) -> Path:
    """Write a run, as ``TrainingRun.save`` says, and return the folder.

    Args:
        run: The run to write.
        folder: Where to write; made if it is not there.

    Raises:
        UserError: If the folder cannot be written; a run that was there survives.
    """
    folder = user_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror or error}); give another folder"
        ) from error
    with replacing_together(folder) as staging:
        _write_tensors(staging / BLOCK_FILE, run.state)
        if run.resume_state is not None:
            _write_tensors(staging / RESUME_FILE, run.resume_state.tensors)
        run.frame().to_csv(staging / HISTORY_FILE, index=False)
        record = json.dumps(_record(run, staging), indent=2, default=plain)
        (staging / RUN_FILE).write_text(record + "\n", encoding="utf-8")
    if run.resume_state is None:
        with suppress(OSError):  # of an earlier run; run.json no longer names it
            (folder / RESUME_FILE).unlink()
    return folder


def load_run(folder: str | Path) -> TrainingRun:
    """Read a run that ``save_run`` wrote.

    Args:
        folder: The folder that it was written to.

    Raises:
        UserError: If the folder holds no complete run.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = user_path(folder)
    finish_replacing(folder)
    record = _read_record(folder)
    try:
        return TrainingRun(
            config=FinetuneConfig(**record["config"]),
            state=load_file(folder / BLOCK_FILE),
            history=_read_history(folder / HISTORY_FILE, record["total_steps"]),
            resume_state=_read_resume_state(folder, record),
            anchors=_read_anchors(record.get("anchors")),
            **{name: record[name] for name in _PLAIN_FIELDS if name in record},
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: not a complete run ({type(error).__name__}: {error}); train it again"
        ) from error


def _record(run: TrainingRun, folder: Path) -> dict[str, Any]:
    return {
        "config": asdict(run.config),
        **{name: getattr(run, name) for name in _PLAIN_FIELDS},
        "anchors": run.anchors and asdict(run.anchors),
        "total_steps": run.total_steps,
        "trained_parameters": run.trained_parameters,
        "resume_step": run.resume_state.step if run.resume_state else None,
        "sha256": {path.name: _file_hash(path) for path in sorted(folder.iterdir())},
    }


def _read_anchors(record: Mapping[str, Any] | None) -> PromptSet | None:
    """Anchors; None where the run has none, or was saved before there were any."""
    if record is None:
        return None
    return PromptSet(tuple(Prompt(**one) for one in record["prompts"]), name=record["name"])


def _read_history(path: Path, total_steps: int) -> tuple[TrainingStep, ...]:
    def group(row: Mapping[str, str], prefix: str) -> dict[str, float]:
        # Runs that were saved before a column existed are read all the same.
        cells = {label: row.get(f"{prefix}_{label}") for label in LABELS}
        return {label: float(cell) for label, cell in cells.items() if cell}

    # Not with pandas: its parser rounds, and deprecates the option not to.
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            TrainingStep(
                step=int(row["step"]),
                total_steps=total_steps,
                epoch=int(row["epoch"]),
                loss=float(row["loss"]),
                losses=group(row, "loss"),
                projections=group(row, "projection"),
                direction_cosine=float(row["direction_cosine"]),
                refused=group(row, "refused"),
                seconds=float(row["seconds"]),
                held_out_projections=group(row, "held_out_projection"),
            )
            for row in csv.DictReader(file)
        )


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        differing = [
            name
            for name, sha256 in record["sha256"].items()
            if not _may_be_missing(folder / name) and _file_hash(folder / name) != sha256
        ]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no {Path(error.filename).name} there; give a folder that "
            "'actor-lens train --out' or run.save wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / RUN_FILE}: cannot be read ({type(error).__name__}: {error}); train it again"
        ) from error
    if differing:
        raise UserError(
            f"{folder / differing[0]}: not what run.json says was saved; train it again"
        )
    return dict(record)


def _may_be_missing(path: Path) -> bool:
    """Whether this is the large file that only resuming needs, and it was deleted."""
    return path.name == RESUME_FILE and not path.exists()


def _read_resume_state(folder: Path, record: Mapping[str, Any]) -> ResumeState | None:
    from safetensors.torch import load_file

    if record["resume_step"] is None or _may_be_missing(folder / RESUME_FILE):
        return None
    return ResumeState(record["resume_step"], load_file(folder / RESUME_FILE))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # a full disk comes as this
        raise OSError(str(error)) from error


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, 1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
