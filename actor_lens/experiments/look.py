"""The look at a model before training: directions, projections, and a score of every layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from actor_lens.activations.positions import LAST, Position, find_position
from actor_lens.activations.residuals import Residuals, collect_residuals
from actor_lens.directions.layer_scores import LayerScores, score_layers
from actor_lens.directions.options import Origin
from actor_lens.directions.projections import Projections, project
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.directions.targets import Targets, just_enough_targets
from actor_lens.errors import UserError
from actor_lens.experiments.clock import Clock, round_seconds
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.judges.openings import refusal_openings, refusal_tokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result
from actor_lens.training.config import FinetuneConfig

MIN_PROMPTS = 2
"""Fewest prompts of each label that directions and scores need."""


@dataclass(frozen=True, eq=False, repr=False)
class Look(Result):
    """What can be seen before training: directions of the training prompts, all else held out.

    Attributes:
        prompts: All prompts, those of the test among them.
        train_residuals: Residuals of the training prompts, on which the directions were fitted.
        directions: Refusal directions.
        projections: Projections of the validation prompts.
        tokens: Tokens that begin refusals; None at other positions than the last token.
        scores: Scores of every layer, on the validation prompts.
        seconds: Time of collecting residuals and of scoring.
        origin: Origin of the targets behind the causal score.
    """

    prompts: PromptSet
    train_residuals: Residuals
    directions: Directions
    projections: Projections
    tokens: RefusalTokens | None
    scores: LayerScores
    seconds: Mapping[str, float]
    origin: Origin = FinetuneConfig.origin

    _hint = "the layer to train: .scores.best(); figure: al.figures.layer_scores(look.scores)"

    @property
    def model_name(self) -> str:
        """The model that was looked at."""
        return self.train_residuals.model_name

    @property
    def train(self) -> PromptSet:
        """The training prompts that were used."""
        return self.train_residuals.prompts

    def targets(self, config: FinetuneConfig, place: float | None = None) -> Targets:
        """Where a fine-tune would move the training prompts; see ``targets_of``."""
        return targets_of(self.train_residuals, self.directions, config, place)

    def frame(self) -> pd.DataFrame:
        """One row a layer, score and pair of labels, as in ``LayerScores.frame``."""
        return self.scores.frame()

    def summary(self) -> dict[str, Any]:
        """Plain values of the scores and of what they were made from."""
        return {
            "model": self.model_name,
            "prompts": self.prompts.name,
            "position": self.directions.position.name,
            "warnings": list(self.scores.warnings),
            "scores": json.loads(self.frame().to_json(orient="records")),
            "train_prompts": self.train.counts(),
            "seconds": round_seconds(self.seconds),
        }

    def _headline(self) -> str:
        try:
            recommended = f"recommended layer {self.scores.best().layer}"
        except UserError:
            recommended = "no layer is recommended"
        return (
            f"Look at {self.scores.n_layers} layers of {self.model_name}: {len(self.train)} "
            f"training and {len(self.projections.prompts)} validation prompts; {recommended}"
        )


def look_at_layers(
    model: ChatModel,
    prompts: PromptSet,
    *,
    train: PromptSet | None = None,
    anchors: PromptSet | None = None,
    alpha: float = FinetuneConfig.alpha,
    origin: Origin = FinetuneConfig.origin,
    position: str | int | Position = LAST,
    causal: bool = True,
    rounds: int = 200,
    seed: int = 0,
) -> Look:
    """Fit directions on the training prompts and score every layer on the validation prompts.

    Args:
        model: The untouched model.
        prompts: Prompts with train and validation splits.
        train: Training prompts to use instead of the whole split.
        anchors: Prompts that directions are made of; None for the training prompts.
        alpha: Share of the way to the origin of the targets behind the causal score.
        origin: Origin of the targets behind the causal score.
        position: Where residuals are read, as for ``collect_residuals``; that of a refusal is read
            with the token that opens most of the model's refusals. The causal score is of the last
            token, and left out at others.
        causal: Whether the causal score is taken, for which the model runs once more.
        rounds: Rounds of the bootstrap and number of permutations.
        seed: Seed of the resampling.

    Raises:
        UserError: If a split lacks a label, there is no such position, or the model refuses nothing
            harmful and the position is the last token or that of a refusal.
    """
    train = train if train is not None else prompts["train"]
    validation = prompts["validation"]
    require_labels(train, MIN_PROMPTS, split="train")
    require_labels(validation, MIN_PROMPTS, split="validation")
    clock = Clock()
    with clock("score"):
        # The first token of the commonest opening: an opening itself may be of several.
        of_refusal = position == "refusal"
        opening = refusal_openings(model, validation).commonest[:1] if of_refusal else ()
    place = find_position(model, position, opening)
    with clock("collect"):
        with stage("residuals (train)"):
            train_residuals = collect_residuals(model, train, position=place)
        directions = directions_of(model, train_residuals, anchors)
        with stage("residuals (validation)"):
            residuals = collect_residuals(model, validation, position=place)
        projections = project(residuals, directions)
    tokens = None
    with clock("score"):
        if place == LAST:
            with stage("how refusals begin"):
                tokens = refusal_tokens(model, validation)
        scores = score_layers(
            projections,
            model=model if causal and place == LAST else None,
            tokens=tokens,
            alpha=alpha,
            origin=origin,
            rounds=rounds,
            seed=seed,
        )
    return Look(
        prompts=prompts,
        train_residuals=train_residuals,
        directions=directions,
        projections=projections,
        tokens=tokens,
        scores=scores,
        seconds=clock.seconds,
        origin=origin,
    )


def directions_of(model: ChatModel, residuals: Residuals, anchors: PromptSet | None) -> Directions:
    """Directions of some prompts, made of the anchors where there are any.

    Raises:
        UserError: If harmful or benign prompts are missing.
    """
    if anchors is None:
        return refusal_directions(residuals)
    with stage("residuals (anchors)"):
        own = collect_residuals(model, anchors, position=residuals.position)
        return refusal_directions(residuals, anchors=own)


def targets_of(
    residuals: Residuals,
    directions: Directions,
    config: FinetuneConfig,
    place: float | None = None,
) -> Targets:
    """Where a fine-tune with these settings would move some prompts.

    Args:
        residuals: Residuals of the prompts.
        directions: Refusal directions at every layer.
        config: Settings of the fine-tune.
        place: Place of the origin where it is fitted, from ``fitted_place``.
    """
    if place is not None:
        directions = directions.with_fitted(config.layer, place)
    return just_enough_targets(
        residuals,
        directions,
        config.layer,
        alpha=config.alpha,
        origin=config.origin,
        shift=config.shift,
    )
