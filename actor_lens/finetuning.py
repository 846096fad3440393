"""The fine-tune of one block on cached block inputs, at the last token only.

Everything below the block is frozen, so what it receives is computed once. A step costs the keys
and values of one block at all tokens and the rest of it at the last token: no other block runs, no
reply is generated. The model itself is never altered: a float32 copy of the block is trained, and
``TrainingRun.applied_to`` puts it in place.

Source: Dabas et al. 2025 (arXiv 2507.04250), projection-calibrated refusal direction loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Real

from torch import Tensor, nn

from actor_lens.activations import collect_block_inputs
from actor_lens.block_trainer import BlockTrainer, DivergedError
from actor_lens.directions import check_origin
from actor_lens.errors import UserError
from actor_lens.judges import RefusalTokens
from actor_lens.models import ChatModel
from actor_lens.prompts import PromptSet, require_labels
from actor_lens.safety_floor import KeptWeights, ValidationChecks
from actor_lens.targets import SHIFTS, check_positive
from actor_lens.training_run import FinetuneConfig, TrainingRun, TrainingStep

ANCHORS = ("initial", "current")
REFRESHES = ("epoch", "step", "never")
_MIN_PROMPTS = 2
# The product of two such settings still fits into float32.
_LARGEST = 1e15


def finetune_layer(
    model: ChatModel,
    prompts: PromptSet,
    *,
    layer: int,
    alpha: float = FinetuneConfig.alpha,
    origin: str = FinetuneConfig.origin,
    anchor: str = FinetuneConfig.anchor,
    shift: str = FinetuneConfig.shift,
    refresh: str = FinetuneConfig.refresh,
    epochs: int = FinetuneConfig.epochs,
    lr: float = FinetuneConfig.lr,
    batch_size: int = FinetuneConfig.batch_size,
    weight_decay: float = FinetuneConfig.weight_decay,
    safety_floor: float | None = FinetuneConfig.safety_floor,
    seed: int = FinetuneConfig.seed,
    validation: PromptSet | None = None,
    tokens: RefusalTokens | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    resume: TrainingRun | None = None,
) -> TrainingRun:
    """Train one block so that each prompt's last-token activation reaches its just-enough target.

    The loss of a prompt is ``1 - cos(a, a_tgt)`` with the target detached. The model is left as
    it is; the returned run holds the trained block. Ctrl-C and ``should_stop`` end training with
    the run so far. With validation prompts, the share of them that begins a refusal is measured
    before training and after every epoch; with a safety floor as well, the run keeps the best
    weights (highest trade-off score) at which harmful refusals did not fall by more than the
    floor, which may be the untrained ones.

    Args:
        model: The model whose block is copied and trained.
        prompts: Training prompts, at least two of each label.
        layer: The block, from 0. This and the settings down to ``seed`` make up the
            ``FinetuneConfig`` of the run, where they are explained.
        alpha: How much of the way to the origin a target goes.
        origin: ``"benign_mean"``, ``"midpoint"`` or ``"zero"`` (the paper's formula).
        anchor: ``"initial"`` for fixed targets, ``"current"`` for moving ones as in the paper.
        shift: ``"projected"``, or ``"uniform"`` for the paper's ablation.
        refresh: ``"epoch"``, ``"step"`` or ``"never"``: how often R in moving targets is renewed.
        epochs: Passes over the prompts.
        lr: Learning rate of AdamW.
        batch_size: Prompts in a step.
        weight_decay: Of AdamW.
        safety_floor: Most by which refusals of harmful validation prompts may fall (a share).
        seed: Of the order of the prompts.
        validation: Prompts for the checks; needed for a safety floor.
        tokens: How the model begins refusals; found from the validation prompts unless given.
        on_step: Told of every step; it runs in the training thread and may draw or print.
        should_stop: Asked before every step.
        resume: A run with the same settings (``epochs`` may differ) to continue from where it
            stopped. The result equals that of a run that never stopped.

    Raises:
        UserError: If a setting is not allowed, a label has too few prompts, a safety floor is
            asked for without harmful validation prompts, or ``resume`` does not fit.
    """
    config = FinetuneConfig(
        layer=layer,
        alpha=alpha,
        origin=origin,
        anchor=anchor,
        shift=shift,
        refresh=refresh,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        weight_decay=weight_decay,
        safety_floor=safety_floor,
        seed=seed,
    )
    check_config(model, config, validation)
    config = _with_plain_numbers(config)
    require_labels(prompts, _MIN_PROMPTS)
    if resume is not None:
        check_resumable(model, prompts, config, resume)
    started = time.perf_counter()
    trainer = BlockTrainer(model, config, collect_block_inputs(model, prompts, layer))
    collected = time.perf_counter()
    checks = ValidationChecks.of(model, layer, validation, tokens)
    kept = KeptWeights(trainer, checks, config.safety_floor)
    history: list[TrainingStep] = []
    if resume is not None and resume.resume_state is not None:
        trainer.load_state(resume.resume_state)
        kept.take_over(trainer, checks, resume)
        history = [replace(step, total_steps=trainer.total_steps) for step in resume.history]
    status, message = _train(trainer, checks, kept, history, on_step, should_stop)
    block, best_step, note = kept.result(trainer)
    if status == "diverged":
        message += f" The weights of step {best_step} were kept; lower the learning rate."
    seconds = {"collect": collected - started, "train": time.perf_counter() - collected}
    if resume is not None:
        seconds = {name: value + resume.seconds.get(name, 0.0) for name, value in seconds.items()}
    return TrainingRun(
        config=config,
        state=_named_state(model, layer, block),
        history=tuple(history),
        status=status,
        message=" ".join(part for part in (message, note) if part),
        best_step=best_step,
        model_name=model.name,
        fingerprint=model.fingerprint,
        prompts_fingerprint=prompts.fingerprint,
        train_prompts=prompts.counts(),
        refused_before=kept.refused_before,
        seconds=seconds,
        prompts_name=prompts.name,
        chosen=resume.chosen if resume is not None else None,
        resume_state=None if status == "diverged" or trainer.torn else trainer.resume_state(),
    )


def check_config(model: ChatModel, config: FinetuneConfig, validation: PromptSet | None) -> None:
    """Check the settings of a fine-tune before any work is done.

    Raises:
        UserError: Naming the setting, what was found and what is allowed.
    """
    model.check_layer(config.layer)
    check_origin(config.origin)
    for name in ("alpha", "lr"):
        if check_positive(name, getattr(config, name)) > _LARGEST:
            raise UserError(f"{name} is {getattr(config, name)}; give at most {_LARGEST:g}")
    for name in ("epochs", "batch_size"):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} is {value!r}; give a whole number of at least 1")
    for name, allowed in (("anchor", ANCHORS), ("shift", SHIFTS), ("refresh", REFRESHES)):
        value = getattr(config, name)
        if value not in allowed:
            raise UserError(f"{name} '{value}' is not known; use one of {', '.join(allowed)}")
    if not _between(config.weight_decay, 0.0, _LARGEST):
        raise UserError(f"weight_decay is {config.weight_decay!r}; give a number of at least 0")
    if not isinstance(config.seed, int) or not _between(config.seed, 0.0, 2.0**32 - 1):
        raise UserError(f"seed is {config.seed!r}; give a whole number from 0 to 4294967295")
    if config.safety_floor is None:
        return
    if not _between(config.safety_floor, 0.0, 1.0):
        raise UserError(f"safety_floor is {config.safety_floor!r}; give a share from 0 to 1")
    if validation is None or not len(validation.where(label="harmful")):
        raise UserError("a safety floor needs validation prompts, harmful ones among them")


def _between(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return low <= float(value) <= high


def _with_plain_numbers(config: FinetuneConfig) -> FinetuneConfig:
    """NumPy's numbers as Python's own, so that the settings can be written to JSON."""
    floor = config.safety_floor
    return replace(
        config,
        alpha=float(config.alpha),
        lr=float(config.lr),
        weight_decay=float(config.weight_decay),
        safety_floor=None if floor is None else float(floor),
    )


def _train(
    trainer: BlockTrainer,
    checks: ValidationChecks | None,
    kept: KeptWeights,
    history: list[TrainingStep],
    on_step: Callable[[TrainingStep], None] | None,
    should_stop: Callable[[], bool] | None,
) -> tuple[str, str]:
    """Run the remaining steps; how it ended, and what to say about it."""
    started = time.perf_counter() - (history[-1].seconds if history else 0.0)
    record = partial(_record, trainer, checks, kept, started)
    interrupted = False
    try:
        try:
            while trainer.step < trainer.total_steps and not _asked(should_stop):
                trainer.take_step()
                history.append(record())
                if on_step is not None:
                    on_step(history[-1])
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


def _asked(should_stop: Callable[[], bool] | None) -> bool:
    return should_stop is not None and should_stop()


def _record(
    trainer: BlockTrainer, checks: ValidationChecks | None, kept: KeptWeights, started: float
) -> TrainingStep:
    """What the last step did; at the end of an epoch its weights are checked first."""
    refused: dict[str, float] = {}
    if trainer.step % trainer.steps_per_epoch == 0:
        trainer.check_sound()
        refused = checks.refused(trainer.block) if checks is not None else {}
        kept.consider(trainer.step, trainer.block, refused)
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
        refused=refused,
        seconds=time.perf_counter() - started,
    )


def check_resumable(
    model: ChatModel, prompts: PromptSet, config: FinetuneConfig, resume: TrainingRun
) -> None:
    """Check that a run can be continued with these prompts and settings, before any work is done.

    Raises:
        UserError: If it belongs to another model, was trained with other prompts or settings, has
            diverged, or has done more epochs already.
    """
    resume.check_belongs_to(model)
    if resume.resume_state is None:
        raise UserError(f"this run {resume.status} and cannot be continued; train it again")
    if resume.prompts_fingerprint != prompts.fingerprint:
        raise UserError("the run to continue was trained on other prompts; give the same ones")
    steps_per_epoch = math.ceil(len(prompts) / config.batch_size)
    if resume.resume_state.step > steps_per_epoch * config.epochs:
        raise UserError(
            f"the run to continue has done {resume.resume_state.step} steps, more than the "
            f"{steps_per_epoch * config.epochs} of epochs {config.epochs}; give more epochs"
        )
    theirs = replace(resume.config, epochs=config.epochs)
    if theirs != config:
        differing = [
            f"{name} {getattr(theirs, name)} against {getattr(config, name)}"
            for name in vars(config)
            if getattr(theirs, name) != getattr(config, name)
        ]
        raise UserError(
            f"the run to continue has other settings ({'; '.join(differing)}); give the same ones"
        )


def _named_state(model: ChatModel, layer: int, block: nn.Module) -> dict[str, Tensor]:
    prefix, tensors = model.block_prefix(layer), model.hf.state_dict()
    return {
        prefix + name: tensor.detach().to(device="cpu", dtype=tensors[prefix + name].dtype)
        for name, tensor in block.state_dict().items()
    }
