"""The loop of a fine-tune: step after step on cached block inputs, until it ends in a run.

However it ends (all steps done, a request, Ctrl-C, divergence), what it hands back is sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from actor_lens import progress
from actor_lens.activations.residuals import BlockInputs
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import NotFiniteError
from actor_lens.training.block_trainer import BlockTrainer, DivergedError
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import Status, TrainingRun, TrainingStep
from actor_lens.training.safety_floor import KeptWeights, Refusals, ValidationChecks

CHECKPOINT_SECONDS = 10.0
"""Least time between two checkpoints: saving takes a moment, and a short run loses little."""


def train_block(
    model: ChatModel,
    inputs: BlockInputs,
    config: FinetuneConfig,
    *,
    checks: ValidationChecks | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    resume: TrainingRun | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    vector: Float[Tensor, " d_model"] | None = None,
    place: float | None = None,
    anchors: BlockInputs | None = None,
) -> TrainingRun:
    """Train one block on its cached inputs, with settings that were checked already.

    Args:
        model: The model, which is left as it is.
        inputs: Inputs of the block for the training prompts.
        config: Settings; the layer is that of the inputs.
        checks: Checks on validation prompts, made before training and after every epoch.
        on_step: Function called after every step.
        should_stop: Function called before every step; a true answer ends training.
        resume: A run to continue, which fits.
        on_checkpoint: Function called with the run so far at the end of an epoch, for instance to
            save it.
        checkpoint_seconds: Least time between two checkpoints; 0 hands one out after every epoch
            but the last.
        vector: A vector in the place of R in fixed targets, for controls; None for R.
        place: Place of the origin where it is fitted, from ``fitted_place``.
        anchors: Inputs of the block for the prompts that R is made of; None for the training
            prompts.

    Raises:
        UserError: If activations are not finite or R is zero.
    """
    started = time.perf_counter()
    trainer = BlockTrainer(model, config, inputs, vector, place, anchors)
    trained_sources = {one.source for one in inputs.prompts.where(label="harmful")}
    kept = KeptWeights(trainer, checks, config.safety_floor, trained_sources)
    history: list[TrainingStep] = []
    if resume is not None and resume.resume_state is not None:
        trainer.load_state(resume.resume_state)
        kept.take_over(trainer, checks, resume)
        history = [replace(step, total_steps=trainer.total_steps) for step in resume.history]

    def run_so_far(status: Status, message: str) -> TrainingRun:
        block, best_step, note = kept.result(trainer)
        if status == "diverged":
            message += f" The weights of step {best_step} were kept; lower the learning rate."
        return TrainingRun(
            config=config,
            state=_named_state(model, config.layer, block),
            history=tuple(history),
            status=status,
            message=" ".join(part for part in (message, note) if part),
            best_step=best_step,
            model_name=model.name,
            fingerprint=model.fingerprint,
            prompts_fingerprint=inputs.prompts.fingerprint,
            train_prompts=inputs.prompts.counts(),
            refused_before=kept.refused_before,
            harmful_sources=kept.sources(best_step),
            seconds={"train": time.perf_counter() - started},
            prompts_name=inputs.prompts.name,
            chosen=resume.chosen if resume is not None else None,
            load_settings=model.load_settings,
            origin_place=place,
            anchors=None if anchors is None else anchors.prompts,
            resume_state=None if status == "diverged" or trainer.torn else trainer.resume_state(),
        )

    checkpoints = _Checkpoints(trainer, run_so_far, on_checkpoint, checkpoint_seconds)
    return run_so_far(*_train(trainer, checks, kept, history, on_step, should_stop, checkpoints))


@dataclass
class _Checkpoints:
    """Hands out the run so far from time to time, at the end of an epoch."""

    trainer: BlockTrainer
    run_so_far: Callable[[Status, str], TrainingRun]
    on_checkpoint: Callable[[TrainingRun], None] | None
    seconds: float

    def __post_init__(self) -> None:
        self._last = time.perf_counter()

    def hand_out_if_due(self) -> None:
        """Hand out a run that ``resume`` can continue, unless one was a moment ago."""
        trainer = self.trainer
        at_end_of_epoch = trainer.step % trainer.steps_per_epoch == 0
        if self.on_checkpoint is None or not at_end_of_epoch:
            return
        due = time.perf_counter() - self._last >= self.seconds
        if due and trainer.step < trainer.total_steps:
            message = f"Cut short; saved after step {trainer.step}."
            self.on_checkpoint(self.run_so_far("stopped", message))
            self._last = time.perf_counter()


def _train(
    trainer: BlockTrainer,
    checks: ValidationChecks | None,
    kept: KeptWeights,
    history: list[TrainingStep],
    on_step: Callable[[TrainingStep], None] | None,
    should_stop: Callable[[], bool] | None,
    checkpoints: _Checkpoints,
) -> tuple[Status, str]:
    """Take the remaining steps; return how training ended, and what to say about it."""
    started = time.perf_counter() - (history[-1].seconds if history else 0.0)
    record = partial(_record, trainer, checks, kept, started)
    interrupted = False
    try:
        try:
            while trainer.step < trainer.total_steps:
                if should_stop is not None and should_stop():
                    break
                trainer.take_step()
                history.append(record())
                progress.step(history[-1])
                if on_step is not None:
                    on_step(history[-1])
                checkpoints.hand_out_if_due()
        except KeyboardInterrupt:
            interrupted = True
            if trainer.torn:
                kept.fall_back(trainer)
            elif len(history) < trainer.step:
                history.append(record())
        if trainer.step % trainer.steps_per_epoch:  # at the end of an epoch it was checked
            trainer.check_sound()
    except DivergedError as error:
        kept.fall_back(trainer)
        return "diverged", str(error)
    if interrupted:
        return "stopped", f"Interrupted after step {trainer.step}."
    if trainer.step < trainer.total_steps:
        return "stopped", f"Stopped on request after step {trainer.step}."
    return "completed", ""


def _record(
    trainer: BlockTrainer, checks: ValidationChecks | None, kept: KeptWeights, started: float
) -> TrainingStep:
    """Describe the last step; at the end of an epoch its weights are checked first."""
    refusals: Refusals | None = None
    held_out: dict[str, float] = {}
    if trainer.step % trainer.steps_per_epoch == 0:
        trainer.check_sound()
        if checks is not None:
            try:
                refusals = checks.refusals(trainer.block)
            except NotFiniteError as error:  # the model's dtype holds less than training's float32
                raise DivergedError(f"Step {trainer.step} diverged ({error}).") from error
            held_out = checks.projections(trainer.block, trainer.unit)
        kept.consider(trainer.step, trainer.block, refusals)
    loss, losses = trainer.last_losses()
    projections, cosine = trainer.drift()
    return TrainingStep(
        step=trainer.step,
        total_steps=trainer.total_steps,
        epoch=(trainer.step - 1) // trainer.steps_per_epoch + 1,
        loss=loss,
        losses=losses,
        projections=projections,
        direction_cosine=cosine,
        refused={} if refusals is None else refusals.shares(),
        seconds=time.perf_counter() - started,
        held_out_projections=held_out,
    )


def _named_state(model: ChatModel, layer: int, block: nn.Module) -> dict[str, Tensor]:
    prefix, tensors = model.block_prefix(layer), model.hf.state_dict()
    return {
        prefix + name: tensor.detach().to(device="cpu", dtype=tensors[prefix + name].dtype)
        for name, tensor in block.state_dict().items()
    }
