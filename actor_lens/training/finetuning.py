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
from typing import Any

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.activations.store import Store
from actor_lens.directions.just_enough_shift import JustEnoughShift, fitted_place
from actor_lens.errors import UserError, check_number
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import template_warnings
from actor_lens.progress import stage, warn
from actor_lens.prompts.checks import source_warnings
from actor_lens.prompts.sets import PromptSet, check_anchors, require_labels
from actor_lens.training.config import FinetuneConfig, config_with
from actor_lens.training.loop import CHECKPOINT_SECONDS, train_block
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.training.safety_floor import ValidationChecks

_MIN_PROMPTS = 2


def finetune_layer(
    model: ChatModel,
    prompts: PromptSet,
    config: FinetuneConfig | None = None,
    *,
    anchors: PromptSet | None = None,
    validation: PromptSet | None = None,
    tokens: RefusalTokens | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    resume: TrainingRun | None = None,
    enough: JustEnoughShift | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    store: Store | bool = True,
    **settings: Any,
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
        config: Every setting of the fine-tune; None for the defaults.
        anchors: Harmful and benign prompts that R and the origin are made of, as in the paper; with
            moving targets they are run again as often as ``refresh`` says. None for the training
            prompts; a run that is continued keeps its own.
        validation: Prompts for the checks; needed for a safety floor.
        tokens: How the model begins refusals; found from the validation prompts unless given.
        on_step: Function called after every step, in the training thread; it may draw or print.
        should_stop: Function called before every step; a true answer ends training.
        resume: A run with the same settings (``epochs`` may differ) to continue from where it
            stopped. The result equals that of a run that never stopped.
        enough: Where the origin is fitted, shifts that were measured at the layer; the training
            prompts are measured unless given.
        on_checkpoint: Function called with the run so far now and then, at the end of an epoch.
            If it saves the run, ``resume`` can continue it after a crash.
        checkpoint_seconds: Least time between two checkpoints. 0 hands one out after every epoch
            but the last, whose run is returned; infinity hands out none.
        store: Where block inputs are kept for the next time: True is the default store, False
            none.
        settings: Fields of ``FinetuneConfig`` that differ from those of ``config``, such as
            ``layer=4, alpha=0.5``.

    Raises:
        UserError: If a setting is not allowed, a label has too few prompts or no anchor, a safety
            floor is asked for without harmful validation prompts, ``resume`` does not fit, or an
            origin cannot be fitted.
    """
    config = config_with(config, **settings)
    check_config(model, config, validation)
    if checkpoint_seconds != math.inf:  # which is never
        check_number("checkpoint_seconds", checkpoint_seconds, 0.0)
    require_labels(prompts, _MIN_PROMPTS)
    if resume is not None:
        anchors = resume.anchors if anchors is None else anchors
        check_resumable(model, prompts, config, resume, anchors)
    check_anchored(anchors, config)
    for warning in (*template_warnings(model.tokenizer), *source_warnings(prompts)):
        warn(warning)
    started = time.perf_counter()
    place = None if resume is None else resume.origin_place
    if resume is None:
        place = fitted_place(config.origin, model, prompts, config.layer, enough, store=store)
    with stage("block inputs"):
        inputs = collect_block_inputs(model, prompts, config.layer, store=store)
        anchored = None
        if anchors is not None:
            anchored = collect_block_inputs(model, anchors, config.layer, store=store)
        collected = time.perf_counter()
        checks = ValidationChecks.of(model, config.layer, validation, tokens, store=store)
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
        place=place,
        anchors=anchored,
    )
    seconds = {"collect": collected - started, "train": time.perf_counter() - collected}
    if resume is not None:
        seconds = {name: value + resume.seconds.get(name, 0.0) for name, value in seconds.items()}
    return replace(run, seconds=seconds)


def check_config(model: ChatModel, config: FinetuneConfig, validation: PromptSet | None) -> None:
    """Check that a model can be trained with these settings, before any work is done.

    Raises:
        UserError: If the model is quantised or lacks the layer, or a safety floor is asked for
            without harmful validation prompts.
    """
    model.check_full_precision()
    model.check_layer(config.layer)
    if config.safety_floor is None:
        return
    if validation is None or not len(validation.where(label="harmful")):
        raise UserError("a safety floor needs validation prompts, harmful ones among them")


def check_anchored(
    anchors: PromptSet | None, config: FinetuneConfig, prompts: PromptSet | None = None
) -> None:
    """Check that R can be made of these prompts with these settings, before any work is done.

    Args:
        anchors: Prompts that R is made of; None passes.
        config: Settings of the fine-tune.
        prompts: Prompts of which no test or ood prompt may be an anchor.

    Raises:
        UserError: If harmful or benign anchors are missing, some are test prompts, or the origin is
            to be fitted, for which shifts are measured along R of the training prompts.
    """
    held_out = (one for one in prompts or () if one.split in ("test", "ood"))
    check_anchors(anchors, prompts and replace(prompts, prompts=tuple(held_out)))
    if anchors is not None and config.origin == "fitted":
        raise UserError(
            "a fitted origin goes with R of the training prompts; leave the anchors out, or take "
            "another origin"
        )


def check_resumable(
    model: ChatModel,
    prompts: PromptSet,
    config: FinetuneConfig,
    resume: TrainingRun,
    anchors: PromptSet | None = None,
) -> None:
    """Check that a run can be continued with these prompts and settings, before any work is done.

    Raises:
        UserError: If it belongs to another model, was trained with other prompts, anchors or
            settings, has diverged, or has done more epochs already.
    """
    resume.check_belongs_to(model)
    if resume.resume_state is None:
        raise UserError(f"this run {resume.status} and cannot be continued; train it again")
    if resume.prompts_fingerprint != prompts.fingerprint:
        raise UserError("the run to continue was trained on other prompts; give the same ones")
    own = resume.anchors and resume.anchors.fingerprint
    if anchors is not None and own != anchors.fingerprint:
        raise UserError("the run to continue has other anchors; give the same ones, or none")
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
