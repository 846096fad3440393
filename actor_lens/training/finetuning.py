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
from numbers import Real

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.activations.store import Store
from actor_lens.directions.refusal_directions import check_origin
from actor_lens.directions.targets import SHIFTS, check_positive
from actor_lens.errors import UserError
from actor_lens.judges.judges import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.training.loop import CHECKPOINT_SECONDS, train_block
from actor_lens.training.run import FinetuneConfig, TrainingRun, TrainingStep
from actor_lens.training.safety_floor import ValidationChecks

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
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    store: Store | bool = True,
) -> TrainingRun:
    """Train one block so that each prompt's last-token activation reaches its just-enough target.

    The loss of a prompt is ``1 - cos(a, a_tgt)`` with the target detached. The model is left as
    it is; the returned run holds the trained block. Ctrl-C and ``should_stop`` end training with
    the run so far. With validation prompts, the share of them that begins a refusal is measured
    before training and after every epoch, and then their mean projections too; with a safety floor
    as well, the run keeps the best weights (highest trade-off score) at which harmful refusals did
    not fall by more than the floor, which may be the untrained ones.

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
        on_checkpoint: Told the run so far now and then, at the end of an epoch: what is saved of
            it, ``resume`` can continue after a crash.
        checkpoint_seconds: Least time between two checkpoints; 0 hands one out after every epoch
            but the last, whose run is returned.
        store: Where block inputs are kept for the next time: True is the default store, False
            none.

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
    if not _between(checkpoint_seconds, 0.0, math.inf):
        raise UserError(
            f"checkpoint_seconds is {checkpoint_seconds!r}; give a number of at least 0"
        )
    config = _with_plain_numbers(config)
    require_labels(prompts, _MIN_PROMPTS)
    if resume is not None:
        check_resumable(model, prompts, config, resume)
    started = time.perf_counter()
    inputs = collect_block_inputs(model, prompts, layer, store=store)
    collected = time.perf_counter()
    checks = ValidationChecks.of(model, layer, validation, tokens, store=store)
    run = train_block(
        model,
        inputs,
        config,
        checks=checks,
        on_step=on_step,
        should_stop=should_stop,
        resume=resume,
        on_checkpoint=on_checkpoint,
        checkpoint_seconds=checkpoint_seconds,
    )
    seconds = {"collect": collected - started, "train": time.perf_counter() - collected}
    if resume is not None:
        seconds = {name: value + resume.seconds.get(name, 0.0) for name, value in seconds.items()}
    return replace(run, seconds=seconds)


def check_config(model: ChatModel, config: FinetuneConfig, validation: PromptSet | None) -> None:
    """Check the settings of a fine-tune before any work is done.

    Raises:
        UserError: Naming the setting, what was found and what is allowed; if the model is
            quantised.
    """
    model.check_full_precision()
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
