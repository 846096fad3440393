"""Directional ablation: the refusal direction is taken out of the residual stream everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.positions import closing_tokens
from actor_lens.errors import UserError
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import Choice, Effect, Selection, middle_layers
from actor_lens.methods.support.tails import refusal_vectors, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import ablate_everywhere, add_direction
from actor_lens.prompts.sets import PromptSet, require_labels

Place = tuple[int, int]
"""A layer, and a position counted from the end of the templated prompt (-1 is the last)."""


@dataclass(frozen=True)
class DirectionalAblation:
    """``h <- h - u u.h`` with ``u = r / |r|``, ``r = mean(harmful) - mean(benign)``.

    ``h`` is ``[prompt, token, d_model]``: what every block receives, and what its attention and its
    MLP add to the stream, at every layer and token. ``r`` is ``[d_model]``, from the training
    prompts, at one layer and one of the template's last tokens. It takes away the model's means to
    refuse, so harmful prompts are answered as well: it bounds what one direction can do.

    Chosen on validation prompts: the layer and position whose ablation gives harmful prompts the
    lowest mean refusal score (bypass score), among layers ``l < 0.8 L`` with a mean divergence on
    benign prompts of at most ``max_kl``, and where adding ``r`` makes the model refuse benign
    prompts (induce score, their mean refusal score, at least 0).

    Attributes:
        max_kl: Largest mean divergence on benign prompts, in nats.
        positions: Most of the template's last tokens to try.
        layers: Most layers to try.

    Source: Arditi et al. 2024 (arXiv 2406.11717).
    """

    name: str = "ablation"
    max_kl: float = 0.1
    positions: int = 3
    layers: int = 8

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Take the directions from the training prompts, choose one on the validation prompts.

        Raises:
            UserError: If a label is missing, or the model refuses no harmful prompt.
        """
        require_labels(train, 1, ("harmful", "benign"))
        selection = Selection.of(model, validation)
        directions = ablation_directions(model, train, self.positions)
        places = list(candidate_places(model, directions.shape[1], self.layers))

        def effects() -> Iterator[tuple[Place, Effect]]:
            for layer, position in places:
                vector = directions[layer, position]
                added = selection.effect_of(model, add_direction(model, layer, vector))
                if added.score["benign"] >= 0:
                    change = ablate_everywhere(model, vector)
                    yield (layer, position), selection.effect_of(model, change)

        tried = list(effects())
        if not tried:
            raise UserError(
                f"no direction of '{model.name}' induces refusals of benign prompts when it is "
                f"added at layers {places[0][0]} to {places[-1][0]}: there is none to ablate"
            )
        choice = selection.best(
            tried, max_kl=self.max_kl, rank=lambda effect: -effect.score["harmful"]
        )
        return self.fitted(model, choice, directions)

    def fitted(
        self,
        model: ChatModel,
        choice: Choice[Place],
        directions: Float[Tensor, "layer position d_model"],
        **settings: float,
    ) -> FittedIntervention:
        """The ablation of the direction at the place that was chosen."""
        layer, position = choice.candidate
        own = {"layer": layer, "position": position, **settings, "max_kl": self.max_kl}
        return FittedIntervention(
            settings={**own, **choice.settings},
            chosen=("layer", "position"),
            enter=partial(ablate_everywhere, direction=directions[layer, position]),
            fingerprint=model.fingerprint,
        )


def ablation_directions(
    model: ChatModel, train: PromptSet, positions: int
) -> Float[Tensor, "layer position d_model"]:
    """Harmful mean minus benign mean at the template's last tokens, at every layer."""
    count = max(1, min(positions, closing_tokens(model)))
    prompts = train.select(i for i, label in enumerate(train.labels) if label != "pseudo_harmful")
    return refusal_vectors(tail_residuals(model, prompts.texts, count), prompts.labels)


def candidate_places(model: ChatModel, positions: int, layers: int) -> Iterator[Place]:
    """Layers below 0.8 of the depth, each with its last positions, the very last first."""
    for layer in middle_layers(model, layers):
        for position in range(-1, -positions - 1, -1):
            yield layer, position
