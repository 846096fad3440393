"""The result of a fine-tune: one block's weights, how they came about, and how to use them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.files.saving import finish_replacing, replacing_together
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten, tensor_digest
from actor_lens.prompts.rows import LABELS
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    import pandas as pd

BLOCK_FILE = "block.safetensors"
RESUME_FILE = "resume.safetensors"
RUN_FILE = "run.json"
HISTORY_FILE = "history.csv"
_NAN = float("nan")


@dataclass(frozen=True)
class TrainingStep:
    """What one step of a fine-tune reports.

    Attributes:
        step: From 1.
        total_steps: Of the whole run.
        epoch: From 1.
        loss: Mean of ``1 - cos(activation, target)`` over the batch.
        losses: The same for each label of the batch.
        projections: Mean projection of each label on the direction of the start, each training
            prompt counted as it was last seen.
        direction_cosine: Cosine between R now, from the prompts as last seen, and R at the start.
        refused: Share of validation prompts of each label that begin a refusal, on steps at which
            that was checked, else empty.
        seconds: Since training began.
        held_out_projections: Mean projection of each label's validation prompts on the direction
            of the start, with the weights after this step, where ``refused`` was checked, else
            empty. Unlike ``projections`` they show prompts that nothing was trained on.
    """

    step: int
    total_steps: int
    epoch: int
    loss: float
    losses: Mapping[str, float]
    projections: Mapping[str, float]
    direction_cosine: float
    refused: Mapping[str, float]
    seconds: float
    held_out_projections: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ResumeState:
    """What continuing a run needs beyond its weights.

    Attributes:
        step: Steps done.
        tensors: Float32 weights, AdamW's moments, R of the moment and last seen activations.
    """

    step: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A fine-tuned block. The model itself stays as it was until ``applied_to``.

    Attributes:
        config: The settings.
        state: The block's tensors under their Hugging Face names, in the model's dtype.
        history: One record a step.
        status: ``"completed"``, ``"stopped"`` (on request) or ``"diverged"``.
        message: What a user should know about how it ended.
        best_step: The step whose weights ``state`` holds.
        model_name: The model.
        fingerprint: Of the model's weights.
        prompts_fingerprint: Of the training prompts.
        train_prompts: Number of training prompts of each label.
        refused_before: Share of validation prompts of each label that began a refusal before
            training, empty where there were none; the safety floor is measured from it.
        seconds: Time of collecting the block inputs and of the training steps.
        prompts_name: What the training prompts were loaded by.
        chosen: How the layer was chosen (the fields of ``LayerChoice``), None where it was named.
        load_settings: What the model was loaded with (``ChatModel.load_settings``):
            ``load_model(run.model_name, **run.load_settings)`` loads it again.
        resume_state: For continuing, None on runs that diverged.
    """

    config: FinetuneConfig
    state: Mapping[str, Tensor]
    history: tuple[TrainingStep, ...]
    status: str
    message: str
    best_step: int
    model_name: str
    fingerprint: str
    prompts_fingerprint: str
    train_prompts: Mapping[str, int]
    refused_before: Mapping[str, float]
    seconds: Mapping[str, float]
    prompts_name: str = ""
    chosen: Mapping[str, Any] | None = None
    load_settings: Mapping[str, str] = field(default_factory=dict)
    resume_state: ResumeState | None = field(default=None, repr=False)

    @property
    def layer(self) -> int:
        """The trained block."""
        return self.config.layer

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters: those of one block."""
        return sum(tensor.numel() for tensor in self.state.values())

    def frame(self) -> pd.DataFrame:
        """One row a step.

        Columns: ``step``, ``epoch``, ``loss``, ``loss_<label>``, ``projection_<label>`` (training
        prompts), ``held_out_projection_<label>`` (validation prompts), ``direction_cosine``,
        ``refused_<label>``, ``seconds``; NaN where nothing was measured.
        """
        return history_frame(self.history)

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """Put the trained block into a model for the time of a ``with`` statement.

        The tensors are overwritten in place, so that the TransformerLens twin sees them too, and
        restored bit for bit on any exit.

        Raises:
            UserError: If the run belongs to another model.
        """
        self.check_belongs_to(model)
        with overwritten(model.hf, self.state):
            yield model

    def check_belongs_to(self, model: ChatModel) -> None:
        """Check that the trained block fits a model and was trained from its weights.

        Raises:
            UserError: If the model is quantised, or names, shapes or the fingerprint differ.
        """
        model.check_full_precision()
        tensors = model.hf.state_dict()
        for name, tensor in self.state.items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
                raise UserError(
                    f"this run was trained on '{self.model_name}' and does not fit '{model.name}' "
                    f"({name}: {tuple(tensor.shape)} against {found}); load the model it "
                    "was trained on"
                )
        if model.fingerprint != self.fingerprint:
            raise UserError(self._how_it_differs(model))

    def _how_it_differs(self, model: ChatModel) -> str:
        """Why the fingerprint of a model is not that of the run, and which option to give."""
        theirs, own = model.load_settings, self.load_settings
        differing = "system prompt"
        if model.fingerprint.partition("-")[0] != self.fingerprint.partition("-")[0]:
            # One hash holds weights and template, so only what was given as an option is certain.
            differing = "chat template"
            if theirs.get("chat_template") == own.get("chat_template"):
                return (
                    "this run was trained on other weights, or with another chat template, than "
                    f"those of '{model.name}' (fingerprint {self.fingerprint[:12]} against "
                    f"{model.fingerprint[:12]}); load the model it was trained on"
                )
        option = differing.replace(" ", "-")
        return (
            f"this run was trained on '{self.model_name}' with another {differing}; load the model "
            f"with the same one (without --{option} it is that of the run; "
            f"load_model(..., {option.replace('-', '_')}=...))"
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``block.safetensors``, ``run.json``, ``history.csv`` and what resuming needs.

        All of them replace what is there or none does: a folder never holds parts of two runs.
        ``run.json`` names the hashes of the others: a folder with other hashes is not a run.

        Raises:
            UserError: If the folder cannot be written; a run that was there survives.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be made ({error.strerror or error}); give another folder"
            ) from error
        with replacing_together(folder) as staging:
            _write_tensors(staging / BLOCK_FILE, self.state)
            if self.resume_state is not None:
                _write_tensors(staging / RESUME_FILE, self.resume_state.tensors)
            self.frame().to_csv(staging / HISTORY_FILE, index=False)
            record = json.dumps(self._record(staging), indent=2)
            (staging / RUN_FILE).write_text(record + "\n", encoding="utf-8")
        if self.resume_state is None:
            with suppress(OSError):  # of an earlier run; run.json no longer names it
                (folder / RESUME_FILE).unlink()
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> TrainingRun:
        """Read a run that ``save`` wrote.

        Raises:
            UserError: If the folder holds no complete run.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        finish_replacing(folder)
        record = _read_record(folder)
        try:
            names = [field.name for field in dataclasses.fields(cls) if field.name in record]
            return cls(
                **{
                    **{name: record[name] for name in names},
                    "config": FinetuneConfig(**record["config"]),
                    "state": load_file(folder / BLOCK_FILE),
                    "history": _history(folder / HISTORY_FILE, record["total_steps"]),
                    "resume_state": _load_resume_state(folder, record),
                }
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder}: not a complete run ({type(error).__name__}: {error}); train it again"
            ) from error

    def _record(self, folder: Path) -> dict[str, Any]:
        plain = (
            "status message best_step model_name fingerprint prompts_fingerprint train_prompts "
            "refused_before seconds prompts_name chosen load_settings"
        )
        return {
            "config": asdict(self.config),
            **{name: getattr(self, name) for name in plain.split()},
            "total_steps": self.history[-1].total_steps if self.history else 0,
            "trained_parameters": self.trained_parameters,
            "resume_step": self.resume_state.step if self.resume_state else None,
            "sha256": {path.name: _file_hash(path) for path in sorted(folder.iterdir())},
        }


def history_frame(history: Sequence[TrainingStep]) -> pd.DataFrame:
    """One row a step, as in ``TrainingRun.frame``, also of a run in progress."""
    import pandas as pd

    names = ["step", "epoch", "loss"]
    for group in ("loss", "projection", "held_out_projection"):
        names += [f"{group}_{label}" for label in LABELS]
    names += ["direction_cosine", *(f"refused_{label}" for label in LABELS), "seconds"]
    return pd.DataFrame([_row(step) for step in history], columns=names)


def tensor_digests(model: ChatModel) -> dict[str, str]:
    """A hash of every tensor of a model, by its Hugging Face name."""
    return {name: tensor_digest(tensor) for name, tensor in model.hf.state_dict().items()}


def parameters_changed_outside(model: ChatModel, layer: int, before: Mapping[str, str]) -> int:
    """Number of parameters outside one block in tensors that are not bit for bit as before.

    Args:
        model: As it is now.
        layer: The block that may differ.
        before: From ``tensor_digests`` earlier.
    """
    prefix = model.block_prefix(layer)
    now = tensor_digests(model)
    changed = [
        name for name in now if now[name] != before.get(name) and not name.startswith(prefix)
    ]
    tensors = model.hf.state_dict()
    # By address: a tied embedding has two names and counts once.
    return sum({tensors[name].data_ptr(): tensors[name].numel() for name in changed}.values())


def _row(step: TrainingStep) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(step, name) for name in ("step", "epoch", "loss", "direction_cosine")
    }
    for label in LABELS:
        row[f"loss_{label}"] = step.losses.get(label, _NAN)
        row[f"projection_{label}"] = step.projections.get(label, _NAN)
        row[f"held_out_projection_{label}"] = step.held_out_projections.get(label, _NAN)
        row[f"refused_{label}"] = step.refused.get(label, _NAN)
    return {**row, "seconds": step.seconds}


def _history(path: Path, total_steps: int) -> tuple[TrainingStep, ...]:
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


def _load_resume_state(folder: Path, record: Mapping[str, Any]) -> ResumeState | None:
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
