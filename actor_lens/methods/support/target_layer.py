"""The layer of every single-layer method, ACTOR among them, chosen in one way."""

from __future__ import annotations

from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.layer_scores import score_layers
from actor_lens.directions.options import Origin
from actor_lens.directions.projections import project
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.methods.support.selection import Selection
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet, replace_labels
from actor_lens.training.config import FinetuneConfig


def layers_to_try(
    model: ChatModel,
    train: PromptSet,
    selection: Selection,
    *,
    alpha: float = FinetuneConfig.alpha,
    origin: Origin = FinetuneConfig.origin,
    anchors: PromptSet | None = None,
    beyond_ties: bool = False,
) -> tuple[int, ...]:
    """The layer with the best causal score on validation prompts, and those that tie with it.

    With ``beyond_ties`` all layers, the best score first.

    Directions come from the anchors, else from the training prompts. Nothing is taken from a store,
    so that the time of a fit does not depend on what was fitted before. See ``score_layers`` and
    ``LayerScores.best``.

    Raises:
        UserError: If a label has too few prompts.
    """
    sources = replace_labels(train, anchors)
    directions = refusal_directions(collect_residuals(model, sources, store=False))
    scores = score_layers(
        project(collect_residuals(model, selection.prompts, store=False), directions),
        model=model,
        tokens=selection.tokens,
        alpha=alpha,
        origin=origin,
        rounds=1,  # the bootstrap plays no part: the causal score has a Wilson interval
    )
    return tuple(scores.ranking()) if beyond_ties else scores.best().tried_order


def target_layer(
    model: ChatModel, train: PromptSet, selection: Selection, layer: int | None = None
) -> int:
    """The layer that was named, or the first of ``layers_to_try``.

    Raises:
        UserError: If the named layer does not exist, or a label has too few prompts.
    """
    return layers_to_try(model, train, selection)[0] if layer is None else model.check_layer(layer)
