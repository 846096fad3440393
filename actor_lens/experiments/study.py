"""The whole job in one call: look, choose the layer, train it, show what changed.

The command line and the report run this; the notebooks call its stages one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.activations.residuals import Residuals, collect_residuals
from actor_lens.directions.layer_scores import LayerChoice, LayerScores, score_layers
from actor_lens.directions.options import SCORES, Origin, Score
from actor_lens.directions.projections import Projections, project
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.directions.targets import Targets, just_enough_targets
from actor_lens.errors import UserError, check_choice
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.evaluation.summary import before_after, rates_and_scores
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.judges.base import Judge
from actor_lens.judges.first_token import RefusalTokens, refusal_tokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import tokens_with_room
from actor_lens.progress import stage, warn
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import versions
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_config, check_resumable, finetune_layer
from actor_lens.training.run import TrainingRun, parameters_changed_outside, tensor_digests

if TYPE_CHECKING:
    import pandas as pd

_MIN_PROMPTS = 2


@dataclass(frozen=True)
class StudyPlan:
    """What a study does.

    Attributes:
        settings: Of the fine-tune. Its layer is used unless ``choose_layer``.
        choose_layer: Choose the layer on the validation prompts instead. A run that is shown or
            continued keeps its own layer.
        by: The score to choose by. None chooses by the default of ``LayerScores.best`` and settles
            ties by training each tied layer (``sweep_layers``). A resumed run keeps its layer.
        per_label: Most training prompts of each label, one number for all or one for each; None
            takes all. A run that is shown has the numbers that it was trained with.
        variants: Further fine-tunes at the same layer to show beside the first: a name, and the
            settings that differ (``per_label`` may be among them).
        new_tokens: Longest reply.
        rounds: Of the bootstrap and permutations of the layer scores.
        judge: Of the replies; the keyword judge unless given.
    """

    settings: FinetuneConfig
    choose_layer: bool = True
    by: Score | None = None
    per_label: int | Mapping[str, int] | None = 60
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    new_tokens: int = 64
    rounds: int = 200
    judge: Judge | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """What can be seen before training: directions of the training prompts, all else held out.

    Attributes:
        train_residuals: The directions were fitted on these.
        directions: Refusal directions.
        projections: Of the validation prompts.
        tokens: How the model begins refusals.
        scores: Of every layer, on the validation prompts.
        seconds: Time of collecting residuals and of scoring.
        origin: Of the targets behind the causal score.
    """

    train_residuals: Residuals
    directions: Directions
    projections: Projections
    tokens: RefusalTokens
    scores: LayerScores
    seconds: Mapping[str, float]
    origin: Origin = FinetuneConfig.origin


@dataclass(frozen=True, eq=False)
class Trained:
    """A layer, why it was chosen, and the fine-tune of it.

    Attributes:
        model_name: The model.
        prompts: All prompts.
        train: The training prompts that were used.
        look: Before training.
        choice: Why this layer; None where the user named it.
        targets: Of the training prompts, as previewed before training.
        run: The fine-tuned block.
        seconds: Time of each part.
    """

    model_name: str
    prompts: PromptSet
    train: PromptSet
    look: Look
    choice: LayerChoice | None
    targets: Targets
    run: TrainingRun
    seconds: Mapping[str, float]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was told before training."""
        return (*self.look.scores.warnings, *self.targets.preview().warnings)

    def summary(self) -> dict[str, Any]:
        """The part of ``summary.json`` that needs no evaluation."""
        run, config = self.run, self.run.config
        return {
            "model": self.model_name,
            "prompts": self.prompts.name,
            "layer": run.layer,
            "layer_reason": self.choice.reason if self.choice else "named by the user",
            "layer_ties": list(self.choice.ties) if self.choice else [run.layer],
            **{name: getattr(config, name) for name in ("alpha", "origin", "anchor", "shift")},
            "train_prompts": dict(run.train_prompts),
            "warnings": list(self.warnings),
            "trained_parameters": run.trained_parameters,
            "status": run.status,
            "message": run.message,
            "best_step": run.best_step,
            "seed": config.seed,
            "config": asdict(config),
            "fingerprints": {
                "model": run.fingerprint,
                "prompts": self.prompts.fingerprint,
                "train_prompts": run.prompts_fingerprint,
            },
            "seconds": rounded(self.seconds),
            "versions": versions(),
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """One fine-tune and what it did to the test prompts.

    Attributes:
        name: ``"actor"``, or the name of a variant.
        run: The fine-tuned block.
        targets: Of the training prompts, as previewed before training.
        evaluation: Of the test and out-of-distribution prompts, with the block in place.
        projections: Of the same prompts, with the block in place.
        parameters_changed_outside_layer: Bit-for-bit comparison with the model before.
    """

    name: str
    run: TrainingRun
    targets: Targets
    evaluation: Evaluation
    projections: Projections
    parameters_changed_outside_layer: int


@dataclass(frozen=True, eq=False)
class Study:
    """Everything about one model, one set of prompts and one layer.

    Attributes:
        trained: The look before training, the choice and the fine-tune.
        before: The untouched model on the test and out-of-distribution prompts.
        before_projections: Of the same prompts.
        outcomes: The fine-tune, then the variants.
        model_parameters: Number of parameters of the whole model.
        seconds: Time of each part.
    """

    trained: Trained
    before: Evaluation
    before_projections: Projections
    outcomes: tuple[Outcome, ...]
    model_parameters: int
    seconds: Mapping[str, float]

    @property
    def model_name(self) -> str:
        """The model."""
        return self.trained.model_name

    @property
    def prompts(self) -> PromptSet:
        """All prompts."""
        return self.trained.prompts

    @property
    def train(self) -> PromptSet:
        """The training prompts that were used."""
        return self.trained.train

    @property
    def look(self) -> Look:
        """What could be seen before training."""
        return self.trained.look

    @property
    def choice(self) -> LayerChoice | None:
        """Why this layer; None where the user named it."""
        return self.trained.choice

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was told before training."""
        return self.trained.warnings

    @property
    def outcome(self) -> Outcome:
        """The fine-tune that the study is about."""
        return self.outcomes[0]

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds."""
        return {
            **self.trained.summary(),
            **before_after(self.before, self.outcome.evaluation),
            "parameters_changed_outside_layer": self.outcome.parameters_changed_outside_layer,
            "model_parameters": self.model_parameters,
            "variants": {
                outcome.name: {
                    "warnings": list(outcome.targets.preview().warnings),
                    "config": asdict(outcome.run.config),
                    "train_prompts": dict(outcome.run.train_prompts),
                    "status": outcome.run.status,
                    **rates_and_scores(outcome.evaluation),
                }
                for outcome in self.outcomes[1:]
            },
            "seconds": rounded(self.seconds),
        }


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """A model on the test and out-of-distribution prompts, with and without a run.

    Attributes:
        model_name: The model.
        run: The run, or None where only the model was evaluated.
        before: The untouched model.
        after: With the run applied.
        seconds: Time of each part.
    """

    model_name: str
    run: TrainingRun | None
    before: Evaluation
    after: Evaluation | None
    seconds: Mapping[str, float]

    def frame(self) -> pd.DataFrame:
        """One row a prompt, of one evaluation or of both (``EvaluationChange.examples``)."""
        if self.after is None:
            return self.before.frame()
        return compare_evaluations(self.before, self.after).examples()

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds."""
        return {
            "model": self.model_name,
            "prompts": self.before.prompts.name,
            "layer": self.run.layer if self.run is not None else None,
            **before_after(self.before, self.after),
            "fingerprints": {"prompts": self.before.prompts.fingerprint},
            "seconds": rounded(self.seconds),
            "versions": versions(),
        }


def look_at_layers(
    model: ChatModel,
    prompts: PromptSet,
    *,
    train: PromptSet | None = None,
    alpha: float = FinetuneConfig.alpha,
    origin: Origin = FinetuneConfig.origin,
    rounds: int = 200,
    seed: int = 0,
) -> Look:
    """Fit directions on the training prompts and score every layer on the validation prompts.

    Args:
        model: The untouched model.
        prompts: With train and validation splits.
        train: Training prompts to use instead of the whole split.
        alpha: Of the targets behind the causal score.
        origin: Of the targets behind the causal score.
        rounds: Of the bootstrap and permutations.
        seed: Of the resampling.

    Raises:
        UserError: If a split lacks a label, or the model refuses nothing harmful.
    """
    whole_train, validation, _ = prompts.by_split()
    train = train if train is not None else whole_train
    require_labels(train, _MIN_PROMPTS, split="train")
    require_labels(validation, _MIN_PROMPTS, split="validation")
    clock = _Clock()
    with clock("collect"):
        with stage("residuals (train)"):
            train_residuals = collect_residuals(model, train)
        directions = refusal_directions(train_residuals)
        with stage("residuals (validation)"):
            residuals = collect_residuals(model, validation)
        projections = project(residuals, directions)
    with clock("score"):
        tokens = refusal_tokens(model, validation)
        scores = score_layers(
            projections,
            model=model,
            tokens=tokens,
            alpha=alpha,
            origin=origin,
            rounds=rounds,
            seed=seed,
        )
    return Look(train_residuals, directions, projections, tokens, scores, clock.seconds, origin)


def train_chosen_layer(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    *,
    run: TrainingRun | None = None,
    resume: TrainingRun | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
) -> Trained:
    """Look at every layer, choose one, preview the targets and train it.

    Args:
        model: Left as it is.
        prompts: With train and validation splits.
        plan: What to do; variants and ``new_tokens`` play no part.
        run: A finished fine-tune to show instead of training.
        resume: A stopped fine-tune to continue.
        on_checkpoint: Told the run so far from time to time, as by ``finetune_layer``.

    Raises:
        UserError: As the stages do.
    """
    settings = run.config if run is not None else plan.settings
    choose = plan.choose_layer and run is None and resume is None
    if plan.choose_layer and resume is not None:
        settings = replace(settings, layer=resume.layer)
    train_split, validation, _ = prompts.by_split()
    check_config(model, settings, validation)
    per_label = plan.per_label if run is None else run.train_prompts
    train = _sample(train_split, per_label, settings.seed)
    # Looking at layers takes long: first what would fail after it.
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
        check_resumable(model, train, settings, resume)
    look = look_at_layers(
        model,
        prompts,
        train=train,
        alpha=settings.alpha,
        origin=settings.origin,
        rounds=plan.rounds,
        seed=settings.seed,
    )
    kept = run or resume
    choice, clock = _choice_of(kept), _Clock()
    if choose:
        choice = look.scores.best(plan.by)
        settings = replace(settings, layer=choice.layer)
    trying = choose and choice is not None and plan.by is None and len(choice.ties) > 1
    _warn(look.scores.warnings)
    for layer in choice.ties if trying and choice is not None else (settings.layer,):
        preview = _preview(look.train_residuals, replace(settings, layer=layer)).preview()
        _warn(preview.warnings, name=f"layer {layer}")
    if trying and choice is not None:
        with clock("trials"):
            sweep = sweep_layers(
                model,
                train,
                validation,
                layers=choice.tried_order,
                alphas=[settings.alpha],
                seeds=[settings.seed],
                settings=settings,
                tokens=look.tokens,
            )
        choice = choice.settled(sweep.best.layer, sweep.reason)
        settings = replace(settings, layer=choice.layer)

    def with_choice(trained: TrainingRun) -> TrainingRun:
        if choice is None:
            return trained
        return replace(trained, chosen={**asdict(choice), "ties": list(choice.ties)})

    with clock("train"):
        trained = run or finetune_layer(
            model,
            train,
            settings,
            validation=validation,
            tokens=look.tokens,
            resume=resume,
            on_checkpoint=_then(with_choice, on_checkpoint),
        )
    trained = with_choice(trained)
    targets = _preview(look.train_residuals, trained.config)
    seconds = {**look.seconds, **clock.seconds}
    if run is None:
        seconds["train"] = sum(trained.seconds.values())
    return Trained(model.name, prompts, train, look, choice, targets, trained, seconds)


def run_study(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    *,
    run: TrainingRun | None = None,
    resume: TrainingRun | None = None,
    on_trained: Callable[[Trained], None] | None = None,
    on_checkpoint: Callable[[TrainingRun], None] | None = None,
) -> Study:
    """Look, choose the layer, train it and evaluate it, with variants beside it.

    Args:
        model: Left as it is.
        prompts: With train, validation and test splits; ``ood`` is evaluated where there is one.
        plan: What to do.
        run: A finished fine-tune to show instead of training.
        resume: A stopped fine-tune to continue.
        on_trained: Told of the fine-tune before it is evaluated, for instance to save it.
        on_checkpoint: Told the fine-tune so far from time to time, as by ``finetune_layer``.

    Raises:
        UserError: As the stages do.
    """
    digests = tensor_digests(model)  # of the model as it was given, before anything ran on it
    require_labels(prompts["test"], 1, split="test")
    # Now, not after minutes of training.
    tokens_with_room(model, prompts.for_testing().texts, plan.new_tokens)
    for changes in plan.variants.values():
        base = run.config if run is not None else plan.settings
        check_config(model, _variant_settings(base, changes), None)
    trained = train_chosen_layer(
        model,
        prompts,
        plan,
        run=run,
        resume=resume,
        on_checkpoint=on_checkpoint,
    )
    if on_trained is not None:
        on_trained(trained)
    clock = _Clock()
    assess = _Assessor(model, prompts.for_testing(), trained.look, plan, digests)
    with clock("evaluate"):
        before, before_projections = assess.now("before")
        outcomes = [assess.outcome("actor", trained.run, trained.targets)]
    with clock("variants"):
        outcomes += [
            assess.outcome(name, *_variant(model, prompts, trained, plan, name, changes))
            for name, changes in plan.variants.items()
        ]
    return Study(
        trained=trained,
        before=before,
        before_projections=before_projections,
        outcomes=tuple(outcomes),
        model_parameters=sum(tensor.numel() for tensor in model.hf.parameters()),
        seconds={**trained.seconds, **clock.seconds},
    )


def evaluate_run(
    model: ChatModel,
    prompts: PromptSet,
    run: TrainingRun | None = None,
    *,
    judge: Judge | None = None,
    new_tokens: int = 64,
) -> RunEvaluation:
    """Evaluate a model on the test and out-of-distribution prompts, and again with a run applied.

    Args:
        model: Left as it is.
        prompts: With a test split; with a validation split on which the model refuses harmful
            prompts, first-token refusal scores are given too.
        run: A fine-tune of this model.
        judge: Of the replies; the keyword judge unless given.
        new_tokens: Longest reply.

    Raises:
        UserError: If there are no test prompts, or the run belongs to another model.
    """
    if run is not None:
        run.check_belongs_to(model)
    tested, clock, after = prompts.for_testing(), _Clock(), None
    ask = partial(
        evaluate,
        model,
        tested,
        judge=judge,
        tokens=_tokens_or_none(model, prompts.where(split="validation")),
        new_tokens=new_tokens,
    )
    with clock("evaluate"):
        with stage("replies (before)"):
            before = ask()
        if run is not None:
            with run.applied_to(model), stage("replies (after)"):
                after = ask()
    return RunEvaluation(model.name, run, before, after, clock.seconds)


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds to the millisecond."""
    return {name: round(value, 3) for name, value in seconds.items()}


class _Clock:
    """Adds up the time of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Assessor:
    """Evaluates the model on the same prompts, before and with each run applied."""

    model: ChatModel
    prompts: PromptSet
    look: Look
    plan: StudyPlan
    digests: Mapping[str, str]

    def now(self, name: str) -> tuple[Evaluation, Projections]:
        """Replies, judged, and projections of the model as it is now."""
        with stage(f"replies ({name})"):
            evaluation = evaluate(
                self.model,
                self.prompts,
                judge=self.plan.judge,
                tokens=self.look.tokens,
                new_tokens=self.plan.new_tokens,
            )
        residuals = collect_residuals(self.model, self.prompts)
        return evaluation, project(residuals, self.look.directions)

    def outcome(self, name: str, run: TrainingRun, targets: Targets) -> Outcome:
        """The same with a run applied."""
        with run.applied_to(self.model):
            changed = parameters_changed_outside(self.model, run.layer, self.digests)
            evaluation, projections = self.now(name)
        return Outcome(name, run, targets, evaluation, projections, changed)


def _variant(
    model: ChatModel,
    prompts: PromptSet,
    trained: Trained,
    plan: StudyPlan,
    name: str,
    changes: Mapping[str, Any],
) -> tuple[TrainingRun, Targets]:
    """Another fine-tune at the same layer, and the preview of its targets.

    Raises:
        KeyboardInterrupt: If the training was interrupted: half a variant is no comparison.
    """
    per_label = changes.get("per_label", plan.per_label)
    train = _sample(prompts.where(split="train"), per_label, trained.run.config.seed)
    settings = _variant_settings(trained.run.config, changes)
    residuals = trained.look.train_residuals
    if train != trained.train:
        residuals = collect_residuals(model, train)
    targets = _preview(residuals, settings)
    _warn(targets.preview().warnings, name=f"comparison '{name}'")
    run = finetune_layer(model, train, settings)
    if run.status == "stopped":
        raise KeyboardInterrupt
    return run, targets


def _variant_settings(settings: FinetuneConfig, changes: Mapping[str, Any]) -> FinetuneConfig:
    """Settings of a variant, which has no validation checks and so no safety floor."""
    wanted = {name: value for name, value in changes.items() if name != "per_label"}
    return replace(settings, **{**wanted, "safety_floor": None})


def _preview(residuals: Residuals, config: FinetuneConfig) -> Targets:
    return just_enough_targets(
        residuals,
        refusal_directions(residuals),
        config.layer,
        alpha=config.alpha,
        origin=config.origin,
        shift=config.shift,
    )


def _choice_of(run: TrainingRun | None) -> LayerChoice | None:
    """How the layer of a run was chosen when it was trained."""
    if run is None or run.chosen is None:
        return None
    return LayerChoice(**{**run.chosen, "ties": tuple(run.chosen["ties"])})


def _warn(warnings: Sequence[str], name: str = "") -> None:
    for warning in warnings:
        warn(f"{name}: {warning}" if name else warning)


def _tokens_or_none(model: ChatModel, validation: PromptSet) -> RefusalTokens | None:
    """How the model begins refusals, or None where its replies do not tell."""
    try:
        return refusal_tokens(model, validation)
    except UserError:
        return None


def _sample(prompts: PromptSet, per_label: int | Mapping[str, int] | None, seed: int) -> PromptSet:
    require_labels(prompts, _MIN_PROMPTS, split="train")
    return prompts if per_label is None else prompts.sample(per_label, seed=seed)


def _then(
    first: Callable[[TrainingRun], TrainingRun], second: Callable[[TrainingRun], None] | None
) -> Callable[[TrainingRun], None] | None:
    return None if second is None else lambda run: second(first(run))
