"""The layer of a single-layer method: the one that ACTOR would train, unless the user names one."""

from __future__ import annotations

from actor_lens.activations import collect_residuals
from actor_lens.directions import refusal_directions
from actor_lens.judges import RefusalTokens
from actor_lens.layer_choice import score_layers
from actor_lens.models import ChatModel
from actor_lens.projections import project
from actor_lens.prompts import PromptSet

# The intervals only decide which layers tie.
_ROUNDS = 50


def target_layer(
    model: ChatModel,
    train: PromptSet,
    validation: PromptSet,
    tokens: RefusalTokens,
    layer: int | None = None,
) -> int:
    """The layer with the best causal score on validation prompts, or the one that was named.

    Directions come from the training prompts. See ``score_layers`` and ``LayerScores.best``.

    Args:
        model: The untouched model.
        train: Training prompts.
        validation: Validation prompts.
        tokens: How the model begins refusals.
        layer: Named by the user.

    Raises:
        UserError: If the named layer does not exist, or a label has too few prompts.
    """
    if layer is not None:
        return model.check_layer(layer)
    directions = refusal_directions(collect_residuals(model, train))
    projections = project(collect_residuals(model, validation), directions)
    return score_layers(projections, model=model, tokens=tokens, rounds=_ROUNDS).best().layer
