"""The result of a fine-tune: one block's weights, how they came about, and how to use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten, tensor_digest
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.text import clip, one_line, percent, plural
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["completed", "stopped", "diverged"]
"""How a fine-tune ended: as planned, on request (Ctrl-C too), or because it lost its way."""

_NAN = float("nan")


@dataclass(frozen=True)
class TrainingStep:
    """What one step of a fine-tune reports.

    Attributes:
        step: Number of the step, from 1.
        total_steps: Number of steps of the whole run.
        epoch: Number of the epoch, from 1.
        loss: Mean of ``1 - cos(activation, target)`` over the batch.
        losses: Mean loss of each label of the batch.
        projections: Mean projection of each label on the direction of the start, each training
            prompt counted as it was last seen.
        direction_cosine: Cosine between R now, from the prompts as last seen, and R at the start.
        refused: Share of validation prompts of each label that begin a refusal, on steps at which
            that was checked, else empty.
        seconds: Time since training began.
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
        step: Number of steps that are done.
        tensors: Float32 weights, AdamW's moments, R of the moment and last seen activations.
    """

    step: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class TrainingRun(Result):
    """A fine-tuned block. The model itself stays as it was until ``applied_to``.

    Attributes:
        config: The settings.
        state: The block's tensors under their Hugging Face names, in the model's dtype.
        history: One record a step.
        status: ``"completed"``, ``"stopped"`` (on request) or ``"diverged"``.
        message: What a user should know about how it ended.
        best_step: The step whose weights ``state`` holds.
        model_name: Name that the model was loaded by.
        fingerprint: Fingerprint of the model's weights.
        prompts_fingerprint: Fingerprint of the training prompts.
        train_prompts: Number of training prompts of each label.
        refused_before: Share of validation prompts of each label that began a refusal before
            training, empty where there were none; the safety floor is measured from it.
        harmful_sources: For each known source of the harmful validation prompts ``n`` of them, the
            shares that began a refusal ``before`` and ``after`` training, with ``state``, and
            whether it was ``trained_on``; empty where ``state`` was not checked.
        seconds: Time of collecting the block inputs and of the training steps.
        prompts_name: Name that the training prompts were loaded by.
        chosen: How the layer was chosen (the fields of ``LayerChoice``), None where it was named.
        load_settings: Settings that the model was loaded with (``ChatModel.load_settings``):
            ``load_model(run.model_name, **run.load_settings)`` loads it again.
        origin_place: Place of a fitted origin, 0 at the benign mean and 1 at the harmful mean;
            None where the origin was not fitted.
        resume_state: State from which training can go on; None on runs that diverged.
        anchors: Prompts that R was made of; None where they were the training prompts.
    """

    config: FinetuneConfig
    state: Mapping[str, Tensor]
    history: tuple[TrainingStep, ...]
    status: Status
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
    origin_place: float | None = None
    resume_state: ResumeState | None = None
    harmful_sources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    anchors: PromptSet | None = None

    _figure = "training_curves"
    _hint = "weights: with run.applied_to(model)"

    @property
    def layer(self) -> int:
        """The trained block."""
        return self.config.layer

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run, whether they were taken or not."""
        return self.history[-1].total_steps if self.history else 0

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters: those of one block."""
        return sum(tensor.numel() for tensor in self.state.values())

    @property
    def worst_source(self) -> str:
        """The source whose harmful validation prompts lost most refusals, in words; "" for none."""
        fall = {name: one["before"] - one["after"] for name, one in self.harmful_sources.items()}
        if not fall or max(fall.values()) <= 0:
            return ""
        name = max(fall, key=fall.__getitem__)
        of = self.harmful_sources[name]
        shares = f"{percent(of['before'])} to {percent(of['after'])} of {of['n']} refused"
        return f"harmful prompts of {clip(one_line(name), 40)} lost most: {shares}"

    def frame(self) -> pd.DataFrame:
        """One row a step.

        Columns: ``step``, ``epoch``, ``loss``, ``loss_<label>``, ``projection_<label>`` (training
        prompts), ``held_out_projection_<label>`` (validation prompts), ``direction_cosine``,
        ``refused_<label>``, ``seconds``; NaN where nothing was measured.
        """
        return history_frame(self.history)

    def summary(self) -> dict[str, Any]:
        """Settings, prompts and how training ended, without weights and steps."""
        left_out = ("state", "history", "resume_state", "anchors")
        names = [entry.name for entry in fields(self) if entry.name not in left_out]
        return {
            **{name: plain(getattr(self, name)) for name in names},
            **({} if self.anchors is None else {"anchors": self.anchors.summary()}),
            "total_steps": self.total_steps,
            "trained_parameters": self.trained_parameters,
        }

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
                shape = tuple(tensors[name].shape) if name in tensors else "no such tensor"
                raise UserError(
                    f"this run was trained on '{self.model_name}' and does not fit '{model.name}' "
                    f"({name}: {tuple(tensor.shape)} against {shape}); load the model it "
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

        Args:
            folder: Where to write; made if it is not there.

        Raises:
            UserError: If the folder cannot be written; a run that was there survives.
        """
        from actor_lens.training.run_files import save_run

        return save_run(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingRun:
        """Read a run that ``save`` wrote.

        Args:
            folder: The folder that was given to ``save``.

        Raises:
            UserError: If the folder holds no complete run.
        """
        from actor_lens.training.run_files import load_run

        return load_run(folder)

    def _headline(self) -> str:
        ended = f"{self.status} after {plural(len(self.history), 'step')}"
        loss = f", loss {self.history[-1].loss:.3g}" if self.history else ""
        kept = f"weights of step {self.best_step}"
        about = f"TrainingRun: layer {self.layer} of {self.model_name}, {ended}{loss}, {kept}"
        return "; ".join(part for part in (about, self.worst_source) if part)


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
        model: The model as it is now.
        layer: The block that may differ.
        before: Hashes of its tensors from earlier, made by ``tensor_digests``.
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
