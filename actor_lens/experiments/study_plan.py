"""The whole job in one call: look, choose the layer, train it, show what changed.

The command line runs this; the notebooks and the dashboard call its stages one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.just_enough_shift import fitted_place
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.options import SCORES, Score
from actor_lens.directions.projections import Projections, project
from actor_lens.directions.targets import Targets
from actor_lens.errors import UserError, check_choice
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.experiments.clock import Clock
from actor_lens.experiments.harmfulness import harmfulness_of_run
from actor_lens.experiments.look import (
    MIN_PROMPTS,
    Look,
    directions_of,
    look_at_layers,
    targets_of,
)
from actor_lens.experiments.study import Outcome, Study, choice_of
from actor_lens.experiments.sweep.layer_sweep import LayerSweep, sweep_layers
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import as_judge
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import tokens_with_room
from actor_lens.progress import stage, warn
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.training.config import AUTO_ALPHAS, AUTO_LAYERS, AUTO_LRS, FinetuneConfig
from actor_lens.training.finetuning import (
    check_anchored,
    check_config,
    check_resumable,
    finetune_layer,
)
from actor_lens.training.run import TrainingRun, parameters_changed_outside, tensor_digests

# Cells of the search whose whole replies are judged.
_JUDGED = 4


@dataclass(frozen=True)
class StudyPlan:
    """What a study does.

    Attributes:
        settings: Settings of the fine-tune. Their layer is used unless ``choose_layer``.
        choose_layer: Choose the layer on the validation prompts instead. A run that is shown or
            continued keeps its own layer.
        by: The score to choose by. None chooses by the default of ``LayerScores.best`` and settles
            ties by training each tied layer (``sweep_layers``). A resumed run keeps its layer.
        search: Whether alpha and learning rate are found too: a few of each are tried at up to
            four layers, those that tie or else the best ones, and the whole replies of the best
            trials to the validation prompts decide. With ``choose_layer`` off, at the one layer.
        per_label: Most training prompts of each label, one number for all or one for each; None
            takes all. A run that is shown has the numbers that it was trained with.
        variants: Further fine-tunes at the same layer to show beside the first: a name, and the
            settings that differ (``per_label`` may be among them).
        new_tokens: Longest reply, in tokens.
        rounds: Rounds of the bootstrap and number of permutations of the layer scores.
        judge: Judge of the replies; the keyword judge unless given.
        anchors: Prompts that R is made of; None for the training prompts. A run that is shown or
            continued has its own.
    """

    settings: FinetuneConfig
    choose_layer: bool = True
    by: Score | None = None
    search: bool = False
    per_label: int | Mapping[str, int] | None = 60
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    new_tokens: int = 64
    rounds: int = 200
    judge: Judge | str | None = None
    anchors: PromptSet | None = None


def run_study(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    *,
    run: TrainingRun | None = None,
    resume: TrainingRun | None = None,
    on_trained: Callable[[Study], None] | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
) -> Study:
    """Look, choose the layer, train it and evaluate it, with variants beside it.

    Args:
        model: Left as it is.
        prompts: Prompts with train, validation and test splits; ``ood`` is evaluated where there
            is one.
        plan: Settings of the study.
        run: A finished fine-tune to show instead of training.
        resume: A stopped fine-tune to continue.
        on_trained: Function called with the study before it is evaluated, say to save the run.
        on_checkpoint: Function called with the fine-tune so far from time to time, as by
            ``finetune_layer``.

    Raises:
        UserError: If a split lacks a label, a setting is not allowed, anchors lack a label or are
            test prompts, or a run does not fit model, prompts or settings.
    """
    judge = as_judge(plan.judge)
    digests = tensor_digests(model)  # of the model as it was given, before anything ran on it
    require_labels(prompts["test"], 1, split="test")
    tested = prompts.for_testing()
    # Now, not after minutes of training.
    tokens_with_room(model, tested.texts, plan.new_tokens)
    for changes in plan.variants.values():
        base = run.config if run is not None else plan.settings
        check_config(model, _variant_settings(base, changes), None)
    study = train_chosen_layer(
        model, prompts, plan, run=run, resume=resume, on_checkpoint=on_checkpoint, scores=True
    )
    if on_trained is not None:
        on_trained(study)

    def ask(name: str) -> tuple[Evaluation, Projections]:
        """Replies, judged, and projections of the model as it is now."""
        with stage(f"replies ({name})"):
            evaluation = evaluate(
                model,
                tested,
                judge=judge,
                tokens=study.look.tokens,
                new_tokens=plan.new_tokens,
            )
        with stage(f"residuals ({name})"):
            residuals = collect_residuals(model, tested)
        return evaluation, project(residuals, study.look.directions)

    def outcome_of(name: str, run: TrainingRun, targets: Targets) -> Outcome:
        """The same with a run applied."""
        with run.applied_to(model):
            changed = parameters_changed_outside(model, run.layer, digests)
            evaluation, projections = ask(name)
        return Outcome(name, run, targets, evaluation, projections, changed)

    clock = Clock()
    with clock("evaluate"):
        before, before_projections = ask("before")
        outcome = outcome_of("actor", study.run, study.targets)
        known_harm = harmfulness_of_run(model, prompts, study.run)
    with clock("variants"):
        variants = tuple(
            outcome_of(name, *_train_variant(model, study, plan, name, changes))
            for name, changes in plan.variants.items()
        )
    return replace(
        study,
        before=before,
        after=outcome.evaluation,
        before_projections=before_projections,
        after_projections=outcome.projections,
        variants=variants,
        parameters_changed_outside_layer=outcome.parameters_changed_outside_layer,
        known_harm=known_harm,
        model_parameters=sum(tensor.numel() for tensor in model.hf.parameters()),
        seconds={**study.seconds, **clock.seconds},
    )


def train_chosen_layer(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    *,
    run: TrainingRun | None = None,
    resume: TrainingRun | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
    scores: bool = False,
) -> Study:
    """Look at every layer, choose one, preview the targets and train it.

    Arguments and errors are those of ``run_study``. The test split is not looked at; variants and
    ``new_tokens`` of the plan play no part. Where no layer is chosen, causal scores and rounds of
    the bootstrap are left out unless ``scores`` asks for them: warnings need neither.

    Returns:
        A study without an evaluation.
    """
    if run is not None or (resume is not None and plan.anchors is None):
        plan = replace(plan, anchors=(run or cast(TrainingRun, resume)).anchors)
    # Looking at layers takes long: first what would fail after it.
    settings, train = _check_plan(model, prompts, plan, run, resume)
    scores = scores or (plan.choose_layer and run is None and resume is None)
    look = look_at_layers(
        model,
        prompts,
        train=train,
        anchors=plan.anchors,
        alpha=settings.alpha,
        origin=settings.origin,
        causal=scores,
        rounds=plan.rounds if scores else 1,
        seed=settings.seed,
    )
    clock = Clock()
    choice, trials = choice_of(run or resume), None
    if run is None and resume is None and (plan.choose_layer or plan.search):
        choice, settings, trials = _choose(model, look, settings, plan, clock)
    else:
        known = run or resume
        place = None if known is None else known.origin_place
        _warn_before_training(model, look, settings, [settings.layer], place)

    def with_choice(trained: TrainingRun) -> TrainingRun:
        if choice is None:
            return trained
        return replace(trained, chosen={**asdict(choice), "ties": list(choice.ties)})

    def keep(so_far: TrainingRun) -> None:
        if on_checkpoint is not None:
            on_checkpoint(with_choice(so_far))

    with clock("train"):
        trained = run or finetune_layer(
            model,
            train,
            settings,
            anchors=plan.anchors,
            validation=prompts["validation"],
            tokens=look.tokens,
            resume=resume,
            on_checkpoint=keep if on_checkpoint is not None else None,
        )
    seconds = {**look.seconds, **clock.seconds}
    if run is None:
        seconds["train"] = sum(trained.seconds.values())
    return Study(look, with_choice(trained), seconds=seconds, trials=trials)


def _check_plan(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    run: TrainingRun | None,
    resume: TrainingRun | None,
) -> tuple[FinetuneConfig, PromptSet]:
    """Settings and training prompts, once it is sure that nothing is wrong with them."""
    settings = run.config if run is not None else plan.settings
    if plan.choose_layer and resume is not None:
        settings = replace(settings, layer=resume.layer)
    if plan.search and resume is not None:  # what was found is not looked for again
        settings = replace(settings, alpha=resume.config.alpha, lr=resume.config.lr)
    check_config(model, settings, prompts["validation"])
    check_anchored(plan.anchors, settings, prompts)
    per_label = plan.per_label if run is None else run.train_prompts
    train = _sample(prompts, per_label, settings.seed)
    if plan.by is not None:
        check_choice("score", plan.by, SCORES)
    if run is not None:
        run.check_belongs_to(model)
        if run.prompts_fingerprint != train.fingerprint:
            raise UserError(
                f"this run was trained on other prompts ({run.prompts_name}, seed "
                f"{run.config.seed}) than those given; give the same file and seed"
            )
    if resume is not None:
        check_resumable(model, train, settings, resume, plan.anchors)
    return settings, train


def _choose(
    model: ChatModel, look: Look, settings: FinetuneConfig, plan: StudyPlan, clock: Clock
) -> tuple[LayerChoice | None, FinetuneConfig, LayerSweep | None]:
    """The layer of the best score, the settings to train it with, and what was tried for both.

    Ties are settled by training each of them; a search tries settings at each layer as well. A
    named layer is no choice.
    """
    choice = look.scores.best(plan.by) if plan.choose_layer else None
    if choice is None:
        layers = [settings.layer]
    elif plan.search:
        layers = look.scores.ranking(plan.by)[:AUTO_LAYERS]
    elif plan.by is None:
        layers = list(choice.tried_order)
    else:
        layers = [choice.layer]
    _warn_before_training(model, look, settings, layers)
    if len(layers) == 1 and not plan.search:
        return choice, replace(settings, layer=layers[0]), None
    with clock("trials"):
        sweep = sweep_layers(
            model,
            look.train,
            look.prompts["validation"],
            layers=layers,
            alphas=AUTO_ALPHAS if plan.search else [settings.alpha],
            lrs=AUTO_LRS if plan.search else None,
            seeds=[settings.seed],
            settings=settings,
            anchors=plan.anchors,
            tokens=look.tokens,
            judge_best=_JUDGED if plan.search else 0,
            judge=plan.judge,
            new_tokens=plan.new_tokens,
        )
    best = sweep.best.config
    if choice is None:
        return None, best, sweep
    if not plan.search:
        return choice.settled(best.layer, sweep.reason), best, sweep
    reason = (
        f"the {len(layers)} layers with the best {choice.by} score were tried with alpha "
        f"{_list(AUTO_ALPHAS)} and learning rate {_list(AUTO_LRS)}; {sweep.reason}, with alpha "
        f"{best.alpha:g} and learning rate {best.lr:g}"
    )
    return LayerChoice(best.layer, choice.by, reason, tuple(layers)), best, sweep


def _list(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _warn_before_training(
    model: ChatModel,
    look: Look,
    settings: FinetuneConfig,
    layers: Iterable[int],
    place: float | None = None,
) -> None:
    _warn(look.scores.warnings)
    for layer in layers:
        try:
            known = place
            if known is None:
                known = fitted_place(settings.origin, model, look.train, layer)
        except UserError as error:  # other layers may do, and training says so too
            _warn([str(error)])
            continue
        preview = look.targets(replace(settings, layer=layer), known).preview()
        _warn(preview.warnings, name=f"layer {layer}")


def _warn(warnings: Sequence[str], name: str = "") -> None:
    for warning in warnings:
        warn(f"{name}: {warning}" if name else warning)


def _train_variant(
    model: ChatModel, study: Study, plan: StudyPlan, name: str, changes: Mapping[str, Any]
) -> tuple[TrainingRun, Targets]:
    """Another fine-tune at the same layer, and the preview of its targets.

    Raises:
        KeyboardInterrupt: If the training was interrupted: half a variant is no comparison.
    """
    per_label = changes.get("per_label", plan.per_label)
    train = _sample(study.prompts, per_label, study.run.config.seed)
    settings = _variant_settings(study.run.config, changes)
    place = fitted_place(settings.origin, model, train, settings.layer)
    if train == study.look.train:
        targets = study.look.targets(settings, place)
    else:
        residuals = collect_residuals(model, train)
        directions = directions_of(model, residuals, study.run.anchors)
        targets = targets_of(residuals, directions, settings, place)
    _warn(targets.preview().warnings, name=f"comparison '{name}'")
    with stage(f"comparison '{name}'", 1) as done:
        run = finetune_layer(model, train, settings, anchors=study.run.anchors)
        done(1)
    if run.status == "stopped":
        raise KeyboardInterrupt
    return run, targets


def _variant_settings(settings: FinetuneConfig, changes: Mapping[str, Any]) -> FinetuneConfig:
    """Settings of a variant, which has no validation checks and so no safety floor."""
    others = {name: value for name, value in changes.items() if name != "per_label"}
    return replace(settings, **{**others, "safety_floor": None})


def _sample(prompts: PromptSet, per_label: int | Mapping[str, int] | None, seed: int) -> PromptSet:
    train = prompts["train"]
    require_labels(train, MIN_PROMPTS, split="train")
    return train.sample(per_label, seed=seed)
