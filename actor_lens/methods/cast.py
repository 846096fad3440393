"""CAST: conditional activation steering; a prompt is steered only if its activations say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from actor_lens.methods.activation_addition import ActivationAddition
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import Selection, middle_layers, thresholds_of
from actor_lens.methods.support.tails import refusal_vectors, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_blocks
from actor_lens.prompts.sets import PromptSet, require_labels

Kind = Literal["axis", "means"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Cast(ActivationAddition):
    """``h <- h + f(sim(h_c, c)) b r``: a behaviour vector where a condition holds.

    ``c``, ``[d_model]``, is the condition vector of layer ``l_c``, from the training prompts'
    last-token residuals: ``"axis"``, the first principal component of harmful and pseudo-harmful
    ones about the middle of the two means (the paper's), or ``"means"``, the difference of the two
    means, of length 1. ``sim(h, c) = cos(h, tanh((c c^T / c.c) h))`` with ``h`` the residual after
    block ``l_c`` at the last prompt token. ``f`` is 1 where the similarity lies on the harmless
    side of a threshold, else 0. ``r = mean(harmful) - mean(benign)``, ``[d_model]``, is added with
    a strength ``b < 0`` (away from refusal) after one block ``l_b >= l_c``, at all tokens.

    The condition is evaluated in the prompt's own pass, kept for the tokens that are generated
    after it, and evaluated anew in the next prompt pass; each row of a batch has its own. Replies
    must be generated with a key-value cache: a pass over one token is a generated token.

    Chosen on validation prompts: ``l_c``, the kind of ``c``, the threshold and the side by the best
    F1 at finding harmful prompts among all; then ``l_b`` and ``b`` by the trade-off within the
    limits of ``selection``; ``b = 0`` is among the candidates.

    The settings are those of ``ActivationAddition``; ``strengths`` are values of ``b``.

    Source: Lee et al., ICLR 2025 (arXiv 2409.05907), conditional activation steering.
    """

    name: str = "cast"

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Vectors from the training prompts; condition, layer and strength on validation prompts.

        Raises:
            UserError: If a label is missing, or the model refuses no harmful prompt.
        """
        require_labels(train, 1)
        selection = Selection.of(model, validation)
        tails = tail_residuals(model, train.texts)
        vectors = refusal_vectors(tails, train.labels)[:, -1]
        layers = middle_layers(model, self.layers)
        condition = _best_condition(model, tails[:, -1], train.labels, selection, layers)
        tried = [((layers[-1], 0.0), selection.untouched)]
        for layer in (layer for layer in layers if layer >= condition.layer):
            for strength in self.strengths:
                change = steer_where(model, condition, layer, strength * vectors[layer])
                tried.append(((layer, strength), selection.effect_of(model, change)))
        choice = selection.best(tried, max_kl=self.max_kl)
        layer, strength = choice.candidate
        return FittedIntervention(
            settings={
                "condition_layer": condition.layer,
                "condition_vector": condition.kind,
                "threshold": condition.threshold,
                "harmful_side": "above" if condition.harmful_above else "below",
                "condition_f1": round(condition.f1, 4),
                "layer": layer,
                "strength": strength,
                "max_kl": self.max_kl,
                **choice.settings,
            },
            chosen=(
                "condition_layer",
                "condition_vector",
                "threshold",
                "harmful_side",
                "layer",
                "strength",
            ),
            enter=partial(
                steer_where, condition=condition, layer=layer, vector=strength * vectors[layer]
            ),
            fingerprint=model.fingerprint,
        )


@dataclass(frozen=True, eq=False)
class Condition:
    """When a prompt counts as harmful.

    Attributes:
        vector: Condition vector ``c``.
        layer: Layer after which the residual is read.
        threshold: Similarity that separates the two sides.
        harmful_above: Whether harmful prompts have the larger similarity.
        f1: F1 at finding harmful prompts among the validation prompts.
        kind: How the vector was made: one of ``KINDS``.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    threshold: float
    harmful_above: bool
    f1: float
    kind: Kind = "axis"

    def harmless(self, last: Float[Tensor, "prompt d_model"]) -> Bool[Tensor, " prompt"]:
        """Which residuals, at the last prompt token, are on the harmless side."""
        above = similarity(last, self.vector) >= self.threshold
        return ~above if self.harmful_above else above


def similarity(
    last: Float[Tensor, "prompt d_model"], vector: Float[Tensor, " d_model"]
) -> Float[Tensor, " prompt"]:
    """``cos(h, tanh((c c^T / c.c) h))`` of each row, in float32."""
    last, vector = last.float(), vector.float().to(last.device)
    along = (last @ vector / (vector @ vector))[:, None] * vector
    return nn.functional.cosine_similarity(last, torch.tanh(along), dim=-1)


def condition_vector(
    residuals: Float[Tensor, "prompt d_model"], labels: Sequence[str], kind: Kind = "axis"
) -> Float[Tensor, " d_model"]:
    """Unit vector ``c`` of ``Cast`` at one layer; harmful prompts come out higher on it."""
    rows = residuals.double()
    harmful = rows[[label == "harmful" for label in labels]]
    other = rows[[label == "pseudo_harmful" for label in labels]]
    apart = harmful.mean(0) - other.mean(0)
    if kind == "means":
        return torch.div(apart, apart.norm()).float()
    centred = torch.cat([harmful, other]) - (harmful.mean(0) + other.mean(0)) / 2
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return torch.mul(axis, 1.0 if float(apart @ axis) >= 0 else -1.0).float()


def best_f1(
    values: Float[Tensor, " prompt"], positive: Sequence[bool]
) -> tuple[float, bool, float]:
    """Threshold between two values and side with the best F1: threshold, whether above, F1."""
    truth = torch.tensor(list(positive), device="cpu")
    rules = []
    for threshold in thresholds_of(values):
        above = values.double() >= threshold
        rules += [(threshold, True, _f1(above, truth)), (threshold, False, _f1(~above, truth))]
    return max(rules, key=lambda rule: rule[2])


def _f1(predicted: Tensor, truth: Tensor) -> float:
    hits = int((predicted & truth).sum())
    return 2 * hits / max(1, int(predicted.sum()) + int(truth.sum()))


def _best_condition(
    model: ChatModel,
    residuals: Float[Tensor, "layer prompt d_model"],
    labels: Sequence[str],
    selection: Selection,
    layers: Sequence[int],
) -> Condition:
    held_out = tail_residuals(model, selection.prompts.texts)[:, -1]
    harmful = [label == "harmful" for label in selection.prompts.labels]

    def condition_at(layer: int, kind: Kind) -> Condition:
        vector = condition_vector(residuals[layer], labels, kind)
        threshold, above, f1 = best_f1(similarity(held_out[layer], vector), harmful)
        return Condition(vector, layer, threshold, above, f1, kind)

    tried = [condition_at(layer, kind) for layer in layers for kind in KINDS]
    return max(tried, key=lambda condition: condition.f1)


@contextmanager
def steer_where(
    model: ChatModel, condition: Condition, layer: int, vector: Float[Tensor, " d_model"]
) -> Iterator[None]:
    """Add a vector after a block to the rows that are on the harmless side of a condition.

    Args:
        model: The model whose ``hf`` is run inside the context.
        condition: Condition to evaluate in every pass over prompts.
        layer: Block after which the vector is added; not before that of the condition.
        vector: Vector to add, strength included.
    """
    steered: list[Tensor] = []  # which rows of the batch that is being answered

    def evaluate(residual: Tensor) -> Tensor:
        if residual.shape[1] > 1:
            steered[:] = [condition.harmless(residual[:, -1])]
        return residual

    def edit(residual: Tensor) -> Tensor:
        rows = steered[0].to(device=residual.device, dtype=residual.dtype)
        added: Tensor = residual + rows[:, None, None] * vector.to(rows)
        return added

    with edit_blocks(model, [condition.layer], evaluate), edit_blocks(model, [layer], edit):
        yield
