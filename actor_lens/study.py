"""The whole job in one call: look, choose the layer, train it, show what changed.

The command line, the notebooks and the report all run this; each stage can be called by itself.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from actor_lens.activations import Progress, Residuals, collect_residuals
from actor_lens.directions import Directions, refusal_directions
from actor_lens.errors import UserError
from actor_lens.evaluation import Evaluation, compare_evaluations, evaluate
from actor_lens.finetuning import check_config, finetune_layer
from actor_lens.judges import KeywordJudge, RefusalTokens, refusal_tokens
from actor_lens.layer_choice import LayerChoice, LayerScores, score_layers
from actor_lens.models import ChatModel
from actor_lens.projections import Projections, project
from actor_lens.prompts import LABELS, PromptSet, require_labels
from actor_lens.targets import Targets, just_enough_targets
from actor_lens.training_run import (
    FinetuneConfig,
    TrainingRun,
    TrainingStep,
    parameters_changed_outside,
    tensor_digests,
)

StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done and how much there is."""

_MIN_TRAIN, _MIN_OTHER = 2, 2


@dataclass(frozen=True)
class StudyPlan:
    """What a study does.

    Attributes:
        settings: Of the fine-tune. Its layer is used unless ``choose_by`` is given.
        choose_layer: Choose the layer on the validation prompts instead.
        by: The score to choose by, or None for the default of ``LayerScores.best``.
        per_label: Most training prompts of each label, one number for all or one for each; None
            takes all.
        variants: Further fine-tunes at the same layer to show beside the first: a name, and the
            settings that differ (``per_label`` among them).
        new_tokens: Longest reply.
        rounds: Of the bootstrap and permutations of the layer scores.
    """

    settings: FinetuneConfig
    choose_layer: bool = True
    by: str | None = None
    per_label: int | Mapping[str, int] | None = 60
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    new_tokens: int = 64
    rounds: int = 200


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
    """

    train_residuals: Residuals
    directions: Directions
    projections: Projections
    tokens: RefusalTokens
    scores: LayerScores
    seconds: Mapping[str, float]


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
        model_name: The model.
        model_fingerprint: Of its weights.
        prompts: All prompts.
        train: The training prompts that were used.
        look: Before training.
        choice: Why this layer; None where the user named it.
        before: The untouched model on the test and out-of-distribution prompts.
        before_projections: Of the same prompts.
        outcomes: The fine-tune, then the variants.
        seconds: Time of each part.
    """

    model_name: str
    model_fingerprint: str
    prompts: PromptSet
    train: PromptSet
    look: Look
    choice: LayerChoice | None
    before: Evaluation
    before_projections: Projections
    outcomes: tuple[Outcome, ...]
    seconds: Mapping[str, float]

    @property
    def outcome(self) -> Outcome:
        """The fine-tune that the study is about."""
        return self.outcomes[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was told before training."""
        return (*self.look.scores.warnings, *self.outcome.targets.preview().warnings)

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds; see the README for its keys."""
        run, after = self.outcome.run, self.outcome.evaluation
        config = run.config
        changed = self.outcome.parameters_changed_outside_layer
        return {
            "model": self.model_name,
            "prompts": self.prompts.name,
            "layer": run.layer,
            "layer_reason": self.choice.reason if self.choice else "named by the user",
            "layer_ties": list(self.choice.ties) if self.choice else [run.layer],
            **{name: getattr(config, name) for name in ("alpha", "origin", "anchor", "shift")},
            "train_prompts": dict(run.train_prompts),
            **_before_after(self.before, after),
            "warnings": list(self.warnings),
            "variants": {
                outcome.name: {
                    "warnings": list(outcome.targets.preview().warnings),
                    "train_prompts": dict(outcome.run.train_prompts),
                    **_rates_and_scores(outcome.evaluation),
                }
                for outcome in self.outcomes[1:]
            },
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "trained_parameters": run.trained_parameters,
            "parameters_changed_outside_layer": changed,
            "status": run.status,
            "judge": after.judge,
            "new_tokens": after.new_tokens,
            "decoding": "greedy",
            "seed": config.seed,
            "config": asdict(config),
            "fingerprints": {
                "model": self.model_fingerprint,
                "prompts": self.prompts.fingerprint,
                "train_prompts": run.prompts_fingerprint,
            },
            "versions": versions(),
        }


def look_at_layers(
    model: ChatModel,
    prompts: PromptSet,
    *,
    train: PromptSet | None = None,
    alpha: float = FinetuneConfig.alpha,
    origin: str = FinetuneConfig.origin,
    rounds: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    on_progress: StageProgress | None = None,
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
        batch_size: Prompts in one forward pass.
        on_progress: Told of every stage.

    Raises:
        UserError: If a split lacks a label, or the model refuses nothing harmful.
    """
    whole_train, validation, _ = prompts.by_split()
    train = train if train is not None else whole_train
    for part, name in ((train, "train"), (validation, "validation")):
        _require(part, name)
    started = time.perf_counter()
    collect = partial(collect_residuals, model, batch_size=batch_size)
    train_residuals = collect(train, on_progress=_stage(on_progress, "residuals (train)"))
    directions = refusal_directions(train_residuals)
    residuals = collect(validation, on_progress=_stage(on_progress, "residuals (validation)"))
    projections = project(residuals, directions)
    collected = time.perf_counter()
    tokens = refusal_tokens(model, validation)
    scores = score_layers(
        projections,
        model=model,
        tokens=tokens,
        alpha=alpha,
        origin=origin,
        rounds=rounds,
        seed=seed,
        on_progress=_stage(on_progress, "layer scores"),
    )
    seconds = {"collect": collected - started, "score": time.perf_counter() - collected}
    return Look(train_residuals, directions, projections, tokens, scores, seconds)


def run_study(
    model: ChatModel,
    prompts: PromptSet,
    plan: StudyPlan,
    *,
    run: TrainingRun | None = None,
    resume: TrainingRun | None = None,
    batch_size: int = 32,
    on_progress: StageProgress | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
) -> Study:
    """Look, choose the layer, train it and evaluate it, with variants beside it.

    Args:
        model: Left as it is.
        prompts: With train, validation and test splits; ``ood`` is evaluated where there is one.
        plan: What to do.
        run: A finished fine-tune to show instead of training.
        resume: A stopped fine-tune to continue.
        batch_size: Prompts in one forward pass.
        on_progress: Told of every stage.
        on_step: Told of every training step.

    Raises:
        UserError: As the stages do.
    """
    train_split, validation, _ = prompts.by_split()
    tested = prompts.select(i for i, one in enumerate(prompts) if one.split in ("test", "ood"))
    _require(tested.where(split="test"), "test", minimum=1)
    check_config(model, replace(plan.settings, safety_floor=None), validation)
    train = _sample(train_split, plan.per_label, plan.settings.seed)
    clock = _Clock()
    look = look_at_layers(
        model,
        prompts,
        train=train,
        alpha=plan.settings.alpha,
        origin=plan.settings.origin,
        rounds=plan.rounds,
        seed=plan.settings.seed,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    choice = look.scores.best(plan.by) if plan.choose_layer and run is None else None
    layer = run.layer if run is not None else choice.layer if choice else plan.settings.layer
    settings = run.config if run is not None else replace(plan.settings, layer=layer)
    assess = _Assessor(model, tested, look, plan.new_tokens, batch_size, on_progress)
    with clock("evaluate"):
        before, before_projections = assess.now("before")
    with clock("train"):
        trained = run or finetune_layer(
            model,
            train,
            **asdict(settings),
            validation=validation,
            tokens=look.tokens,
            on_step=on_step,
            resume=resume,
        )
    with clock("evaluate"):
        outcomes = [assess.outcome("actor", trained, train)]
    with clock("variants"):
        for name, changes in plan.variants.items():
            few = {"per_label": plan.per_label, **changes}
            prompts_of_variant = _sample(train_split, few.pop("per_label"), settings.seed)
            variant = finetune_layer(
                model, prompts_of_variant, **{**asdict(settings), "safety_floor": None, **few}
            )
            outcomes.append(assess.outcome(name, variant, prompts_of_variant))
    return Study(
        model_name=model.name,
        model_fingerprint=model.fingerprint,
        prompts=prompts,
        train=train,
        look=look,
        choice=choice,
        before=before,
        before_projections=before_projections,
        outcomes=tuple(outcomes),
        seconds={**look.seconds, **clock.seconds},
    )


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "transformer_lens", "scikit-learn", "numpy", "pandas")
    found = {package: version(package) for package in packages}
    return {"actor_lens": version("actor-lens"), "python": platform.python_version(), **found}


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
    new_tokens: int
    batch_size: int
    on_progress: StageProgress | None

    def now(self, name: str) -> tuple[Evaluation, Projections]:
        """Replies, judged, and projections of the model as it is now."""
        evaluation = evaluate(
            self.model,
            self.prompts,
            judge=KeywordJudge(),
            tokens=self.look.tokens,
            new_tokens=self.new_tokens,
            on_progress=_stage(self.on_progress, f"replies ({name})"),
        )
        residuals = collect_residuals(self.model, self.prompts, batch_size=self.batch_size)
        return evaluation, project(residuals, self.look.directions)

    def outcome(self, name: str, run: TrainingRun, train: PromptSet) -> Outcome:
        """The same with a run applied, and what its targets had promised."""
        config = run.config
        residuals = self.look.train_residuals
        if residuals.prompts != train:
            residuals = collect_residuals(self.model, train, batch_size=self.batch_size)
        targets = just_enough_targets(
            residuals,
            refusal_directions(residuals),
            run.layer,
            alpha=config.alpha,
            origin=config.origin,
            shift=config.shift,
        )
        digests = tensor_digests(self.model)
        with run.applied_to(self.model):
            changed = parameters_changed_outside(self.model, run.layer, digests)
            evaluation, projections = self.now(name)
        return Outcome(name, run, targets, evaluation, projections, changed)


def _require(prompts: PromptSet, split: str, minimum: int = _MIN_OTHER) -> None:
    try:
        require_labels(prompts, minimum, labels=LABELS)
    except UserError as error:
        raise UserError(f"the {split} split is too small: {error}") from error


def _sample(prompts: PromptSet, per_label: int | Mapping[str, int] | None, seed: int) -> PromptSet:
    _require(prompts, "train", minimum=_MIN_TRAIN)
    return prompts if per_label is None else prompts.sample(per_label, seed=seed)


def _stage(on_progress: StageProgress | None, name: str) -> Progress | None:
    return None if on_progress is None else partial(on_progress, name)


def _rates(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    labels = [label for label in LABELS if label in evaluation.prompts.labels]
    return {label: vars(evaluation.rate(label)) for label in labels}


def _rates_and_scores(evaluation: Evaluation) -> dict[str, Any]:
    test, ood = evaluation.where("test"), evaluation.where("ood")
    return {
        "test": _rates(test),
        "ood": _rates(ood),
        "compliance_rate": test.compliance_rate,
        "safety_score": test.safety_score,
        "tradeoff_score": test.tradeoff_score,
    }


def _before_after(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    test, test_after = before.where("test"), after.where("test")
    return {
        "before": _rates(test),
        "after": _rates(test_after),
        "ood": {"before": _rates(before.where("ood")), "after": _rates(after.where("ood"))},
        **{
            score: {"before": getattr(test, score), "after": getattr(test_after, score)}
            for score in ("compliance_rate", "safety_score", "tradeoff_score")
        },
        "change": compare_evaluations(test, test_after).frame().to_dict("records"),
    }
