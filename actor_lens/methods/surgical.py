"""Surgical: a false-refusal vector, freed of the true one, is taken out of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.positions import closing_tokens
from actor_lens.errors import UserError
from actor_lens.judges.first_token import refusal_scores
from actor_lens.methods.ablation import DirectionalAblation, candidate_places
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.tails import label_means, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import ablate_everywhere
from actor_lens.prompts.sets import PromptSet, replace_labels, require_labels


@dataclass(frozen=True)
class Surgical(DirectionalAblation):
    """``h <- h - v v.h / |v|^2`` everywhere, ``v = v_f - lam (v_f.v_t / |v_t|^2) v_t``.

    ``v_f = mean(pseudo-harmful that are refused) - mean(benign)`` is the false-refusal vector,
    ``v_t = mean(harmful) - mean(benign)`` the true one, both ``[d_model]``, from the training
    prompts, at one layer and one of the template's last tokens. With ``lam = 1``, ``v`` is at right
    angles to ``v_t``, so that true refusals are spared. It is ablated from what every block
    receives and from what attention and MLP add, at every layer and token.

    Chosen on validation prompts: layer (``l < 0.8 L``) and position, by the lowest mean refusal
    score of pseudo-harmful prompts, with a mean divergence on benign prompts of at most ``max_kl``.

    Attributes:
        lam: How much of the true refusal vector is taken out of the false one.
        anchors: Prompts that the vectors are made of; labels that are not among them are those of
            the training prompts.

    Source: Wang et al., ICLR 2025, surgical single vector ablation.
    """

    name: str = "surgical"
    max_kl: float = 0.2
    lam: float = 1.0
    anchors: PromptSet | None = None

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Take the vectors from the training prompts, choose one on the validation prompts.

        Raises:
            UserError: If a label is missing, or the model refuses no harmful or no pseudo-harmful
                prompt.
        """
        train = replace_labels(train, self.anchors)
        require_labels(train, 1)
        selection = Selection.of(model, validation)
        scores = refusal_scores(model, train.texts, selection.tokens)
        count = max(1, min(self.positions, closing_tokens(model)))
        tails = tail_residuals(model, train.texts, count)
        vectors = false_refusal_vectors(tails, train.labels, scores, self.lam)
        places = candidate_places(model, count, self.layers)
        tried = (
            (place, selection.effect_of(model, ablate_everywhere(model, vectors[place])))
            for place in places
        )
        choice = selection.best(
            tried, max_kl=self.max_kl, rank=lambda effect: -effect.score["pseudo_harmful"]
        )
        return self.fitted(model, choice, vectors, lam=self.lam)


def false_refusal_vectors(
    tails: Float[Tensor, "layer position prompt d_model"],
    labels: tuple[str, ...],
    scores: Float[Tensor, " prompt"],
    lam: float,
) -> Float[Tensor, "layer position d_model"]:
    """The vector ``v`` of the method at every layer and position.

    Args:
        tails: Residuals of the training prompts.
        labels: Labels of the prompts.
        scores: First-token refusal scores; pseudo-harmful prompts count where above 0.
        lam: How much of the true refusal vector is taken out.

    Raises:
        UserError: If no pseudo-harmful prompt is refused.
    """
    rows = [
        row
        for row, label in enumerate(labels)
        if label != "pseudo_harmful" or float(scores[row]) > 0
    ]
    means = label_means(tails[:, :, rows], [labels[row] for row in rows])
    if "pseudo_harmful" not in means:
        raise UserError(
            "the model refuses none of the pseudo-harmful training prompts: there is no "
            "false-refusal vector"
        )
    false = (means["pseudo_harmful"] - means["benign"]).double()
    true = (means["harmful"] - means["benign"]).double()
    share = (false * true).sum(-1, keepdim=True) / (true * true).sum(-1, keepdim=True)
    return torch.sub(false, lam * share * true).float()
