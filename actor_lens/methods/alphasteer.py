"""AlphaSteer: a refusal vector added in proportion to a probe that is zero on some prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import MAX_KL, Selection, middle_layers
from actor_lens.methods.support.tails import refusal_vectors, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_blocks
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet, require_labels


@dataclass(frozen=True)
class AlphaSteer:
    """``h <- h + c (w . h_last) r`` at one layer, at every prompt token.

    ``h_last``, ``[d_model]``, is the residual after block ``l`` at the last prompt token, ``r =
    mean(harmful) - mean(benign)``. ``w`` is a ridge probe inside the null space of benign prompts:
    with ``Q``, ``[d_model, k]``, the right singular vectors of their residuals that belong to the
    ``k = floor(rho d_model)`` smallest singular values, and ``Z = H Q`` of the harmful ones,
    ``w = Q (Z'Z + ridge I)^-1 Z' 1``: about 1 on harmful prompts, about 0 on benign ones. The
    authors' steering matrix, ``d_model`` by ``d_model``, is this product of rank one. Tokens that
    are generated are left alone.

    A method against jailbreaks: it cannot make refusals rarer, and stands in the table to show what
    it costs.

    Chosen on validation prompts: layer, ``rho`` and ``c``, by the trade-off within the limits of
    ``selection``; ``c = 0`` is among the candidates. Settings name the mean gate of each label
    there: it is small on prompts that ``w`` was made from, and need not be on others.

    Attributes:
        shares: Values of ``rho`` to try.
        strengths: Values of ``|c|`` to try.
        ridge: Weight of the ridge.
        layers: Most layers to try, all below 0.8 of the depth; the authors steer 10 to 14 at once.
        max_kl: Largest mean divergence on benign prompts, in nats.

    Source: Sheng et al. 2025 (arXiv 2506.07022); one layer is ours.
    """

    name: str = "alphasteer"
    shares: tuple[float, ...] = (0.3, 0.5, 0.7)
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    ridge: float = 10.0
    layers: int = 8
    max_kl: float = MAX_KL

    _null: ClassVar[tuple[str, ...]] = ("benign",)
    _fit: ClassVar[tuple[str, ...]] = ("harmful",)
    _sign: ClassVar[float] = 1.0

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Probe and vector from the training prompts, the rest on the validation prompts.

        Raises:
            UserError: If a label is missing, a setting is not allowed, or the model refuses no
                harmful prompt.
        """
        require_labels(train, 1)
        sound = self.shares and all(0 < share < 1 for share in self.shares)
        if not sound or not self.ridge > 0:
            raise UserError("alphasteer needs shares between 0 and 1 and a positive ridge")
        selection = Selection.of(model, validation)
        tails = tail_residuals(model, train.texts)
        vectors, tails = refusal_vectors(tails, train.labels)[:, -1], tails[:, -1]
        null, fit = (
            [label in those for label in train.labels] for those in (self._null, self._fit)
        )
        layers = middle_layers(model, self.layers)
        nothing = (layers[0], self.shares[0], 0.0, torch.zeros_like(tails[0, 0]))
        tried = [(nothing, selection.untouched)]
        for layer in layers:
            for share in self.shares:
                probe = null_space_probe(tails[layer][null], tails[layer][fit], share, self.ridge)
                for size in self.strengths:
                    strength = self._sign * size
                    change = add_gated(model, layer, probe, strength * vectors[layer])
                    candidate = (layer, share, strength, probe)
                    tried.append((candidate, selection.effect_of(model, change)))
        choice = selection.best(tried, max_kl=self.max_kl)
        layer, share, strength, probe = choice.candidate
        gates = tail_residuals(model, selection.prompts.texts)[layer, -1] @ probe
        means = {
            f"gate_{label}": round(
                float(gates[[one == label for one in selection.prompts.labels]].mean()), 3
            )
            for label in LABELS
        }
        return FittedIntervention(
            settings={
                **{"layer": layer, "share": share, "strength": strength, "ridge": self.ridge},
                **{"max_kl": self.max_kl, **means, **choice.settings},
            },
            chosen=("layer", "share", "strength"),
            enter=partial(add_gated, layer=layer, probe=probe, vector=strength * vectors[layer]),
            fingerprint=model.fingerprint,
        )


@dataclass(frozen=True)
class InvertedAlphaSteer(AlphaSteer):
    """``AlphaSteer`` turned round: pseudo-harmful prompts are moved away from refusal.

    The null space is that of harmful and benign prompts, the probe is about 1 on pseudo-harmful
    ones, and ``c < 0``. All else is as in ``AlphaSteer``.

    Source: this project; the formula is that of Sheng et al. 2025 (arXiv 2506.07022).
    """

    name: str = "alphasteer-inverted"

    _null: ClassVar[tuple[str, ...]] = ("harmful", "benign")
    _fit: ClassVar[tuple[str, ...]] = ("pseudo_harmful",)
    _sign: ClassVar[float] = -1.0


def null_space_probe(
    null: Float[Tensor, "null d_model"],
    fit: Float[Tensor, "fit d_model"],
    share: float,
    ridge: float,
) -> Float[Tensor, " d_model"]:
    """``w`` of ``AlphaSteer``, computed in float64 from the residuals, in their dtype.

    Args:
        null: Residuals on which it is small.
        fit: Residuals on which it is about 1.
        share: Share of the directions, those of the smallest singular values, that it may use.
        ridge: Weight of the ridge.
    """
    # No Gram matrix: squaring would lose the small singular values, which are the point.
    axes = torch.linalg.svd(null.double(), full_matrices=True).Vh
    count = math.floor(share * axes.shape[0])
    free = axes[axes.shape[0] - count :].T
    seen = fit.double() @ free
    system = seen.T @ seen + ridge * torch.eye(count, dtype=seen.dtype, device=seen.device)
    probe: Tensor = free @ torch.linalg.solve(system, seen.sum(0))
    return probe.to(fit.dtype)


@contextmanager
def add_gated(
    model: ChatModel,
    layer: int,
    probe: Float[Tensor, " d_model"],
    vector: Float[Tensor, " d_model"],
) -> Iterator[None]:
    """Add a vector after a block to every prompt token, times the probe at the last one.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: Block after which it is added.
        probe: Probe ``w``.
        vector: Vector to add, strength included.
    """

    def edit(residual: Tensor) -> Tensor:
        if residual.shape[1] == 1:  # a generated token
            return residual
        dtype = torch.promote_types(residual.dtype, torch.float32)
        gate = residual[:, -1].to(dtype) @ probe.to(residual.device, dtype)
        added = gate[:, None, None] * vector.to(residual.device, dtype)
        return (residual.to(dtype) + added).to(residual.dtype)

    with edit_blocks(model, [model.check_layer(layer)], edit):
        yield
