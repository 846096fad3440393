"""Angular steering: the residual stream is turned in a plane, its length kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import MAX_KL, Effect, Selection, middle_layers
from actor_lens.methods.support.tails import refusal_vectors, tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_blocks
from actor_lens.prompts.sets import PromptSet, require_labels


@dataclass(frozen=True)
class AngularSteering:
    """``h <- h - P h + |P h| (cos(t) b_1 + sin(t) b_2)``, ``P = b_1 b_1^T + b_2 b_2^T``.

    ``h`` is ``[prompt, token, d_model]`` after every block, at every token; its length is kept.
    ``b_1`` is the unit refusal direction, ``mean(harmful) - mean(benign)`` at the last token of the
    training prompts, of the layer whose direction is most like those of all layers (mean cosine).
    ``b_2`` is the first principal axis of the layers' unit directions, made orthogonal to ``b_1``;
    both ``[d_model]``. At ``t = 0`` the part in the plane points to refusal. The adaptive form
    turns only the tokens with ``h.b_1 > 0``.

    Chosen on validation prompts: the angle, and whether adaptive, by the trade-off within the
    limits of ``selection``; not to turn at all is among the candidates.

    Attributes:
        step: Step between the angles to try, in degrees.
        max_kl: Largest mean divergence on benign prompts, in nats.

    Source: Vu and Nguyen 2025, angular steering.
    """

    name: str = "angular"
    step: float = 30.0
    max_kl: float = MAX_KL

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Take the plane from the training prompts, choose the angle on the validation prompts.

        Raises:
            UserError: If a label is missing, or the model refuses no harmful prompt.
        """
        require_labels(train, 1, ("harmful", "benign"))
        selection = Selection.of(model, validation)
        vectors = refusal_vectors(tail_residuals(model, train.texts), train.labels)[:, -1]
        layer, plane = steering_plane(vectors, middle_layers(model, model.n_layers))
        tried: list[tuple[tuple[float | None, bool], Effect]] = [
            ((None, False), selection.untouched)
        ]
        for adaptive in (True, False):
            for angle in angles(self.step):
                change = turn(model, plane, angle, adaptive=adaptive)
                tried.append(((angle, adaptive), selection.effect_of(model, change)))
        choice = selection.best(tried, max_kl=self.max_kl)
        best_angle, adaptive = choice.candidate
        return FittedIntervention(
            settings={
                "angle": best_angle,
                "adaptive": adaptive,
                "direction_layer": layer,
                "max_kl": self.max_kl,
                **choice.settings,
            },
            chosen=("angle", "adaptive"),
            enter=partial(turn, plane=plane, angle=best_angle, adaptive=adaptive),
            fingerprint=model.fingerprint,
        )


def angles(step: float) -> list[float]:
    """The angles from 0 to below 360 degrees."""
    return [index * step for index in range(math.ceil(360 / step))]


def steering_plane(
    vectors: Float[Tensor, "layer d_model"], layers: list[int]
) -> tuple[int, Float[Tensor, "2 d_model"]]:
    """The layer whose direction is used, and the two orthogonal unit axes.

    Args:
        vectors: Refusal vectors of every layer.
        layers: Layers that may give ``b_1``.
    """
    units = nn.functional.normalize(vectors.double(), dim=-1)
    alike = (units @ units.T).mean(dim=1)
    layer = max(layers, key=lambda index: float(alike[index]))
    first = units[layer]
    axis = torch.linalg.svd(units - units.mean(dim=0), full_matrices=False).Vh[0]
    second = nn.functional.normalize(axis - (axis @ first) * first, dim=0)
    # An axis has no sign of its own: the largest coordinate of the second is made positive.
    second = second * second[second.abs().argmax()].sign()
    return layer, torch.stack([first, second]).float()


@contextmanager
def turn(
    model: ChatModel, plane: Float[Tensor, "2 d_model"], angle: float | None, *, adaptive: bool
) -> Iterator[None]:
    """Turn the part of the stream in a plane to an angle after every block.

    Args:
        model: The model whose ``hf`` is run inside the context.
        plane: Two orthogonal axes of length 1.
        angle: Angle from the first axis, in degrees; None leaves everything as it is.
        adaptive: Whether to turn only where the first coordinate is above 0.
    """
    if angle is None:
        yield
        return
    radians = math.radians(angle)

    def edit(residual: Tensor) -> Tensor:
        axes = plane.to(device=residual.device, dtype=residual.dtype)
        goal = math.cos(radians) * axes[0] + math.sin(radians) * axes[1]
        inside = residual @ axes.T
        turned: Tensor = residual - inside @ axes + inside.norm(dim=-1, keepdim=True) * goal
        return torch.where(inside[..., :1] > 0, turned, residual) if adaptive else turned

    with edit_blocks(model, range(model.n_layers), edit):
        yield
