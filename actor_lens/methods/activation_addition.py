"""Activation addition: the refusal vector is subtracted at one layer, at every token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import MAX_KL, Selection, middle_layers
from actor_lens.methods.support.tails import refusal_vectors, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import add_direction
from actor_lens.prompts.sets import PromptSet, require_labels


@dataclass(frozen=True)
class ActivationAddition:
    """``h_l <- h_l + c r`` at one layer ``l`` and all tokens, ``r = mean(harmful) - mean(benign)``.

    ``h_l`` is ``[prompt, token, d_model]`` after block ``l``; ``r`` is ``[d_model]``, from the last
    token of the training prompts. ``c < 0`` makes refusals rarer, for harmful prompts as well.

    Chosen on validation prompts: layer and ``c``, by the trade-off within the limits of
    ``selection``. ``c = 0``, which does nothing, is among the candidates.

    Attributes:
        strengths: Values of ``c`` to try.
        layers: Most layers to try, all below 0.8 of the depth.
        max_kl: Largest mean divergence on benign prompts, in nats.

    Source: Turner et al. 2023 (arXiv 2308.10248); with the refusal vector, Arditi et al. 2024
        (arXiv 2406.11717).
    """

    name: str = "activation-addition"
    strengths: tuple[float, ...] = (-0.25, -0.5, -0.75, -1.0)
    layers: int = 8
    max_kl: float = MAX_KL

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Take the vectors from the training prompts, choose one on the validation prompts.

        Raises:
            UserError: If a label is missing, or the model refuses no harmful prompt.
        """
        require_labels(train, 1, ("harmful", "benign"))
        selection = Selection.of(model, validation)
        vectors = refusal_vectors(tail_residuals(model, train.texts), train.labels)[:, -1]
        layers = middle_layers(model, self.layers)
        tried = [((layers[0], 0.0), selection.untouched)]
        for layer in layers:
            for strength in self.strengths:
                change = add_direction(model, layer, strength * vectors[layer])
                tried.append(((layer, strength), selection.effect_of(model, change)))
        choice = selection.best(tried, max_kl=self.max_kl)
        layer, strength = choice.candidate
        return FittedIntervention(
            settings={
                "layer": layer,
                "strength": strength,
                "max_kl": self.max_kl,
                **choice.settings,
            },
            chosen=("layer", "strength"),
            enter=partial(add_direction, layer=layer, vector=strength * vectors[layer]),
            fingerprint=model.fingerprint,
        )
