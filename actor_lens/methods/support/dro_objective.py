"""What DRO trains against: principal coordinates, two frozen probes in them, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from actor_lens.errors import UserError


@dataclass(frozen=True, eq=False)
class Objective:
    """Principal coordinates and the two probes in them, all frozen.

    Attributes:
        mean: Of the states, ``[d_model]``.
        axes: Orthonormal rows, the top principal axes.
        refusal: Weights and, last, the intercept of the refusal probe, ``[component + 1]``.
        harmfulness: The same of the harmfulness probe.
        weights: Of the harmfulness term and of the residual term.
    """

    mean: Float[Tensor, " d_model"]
    axes: Float[Tensor, "component d_model"]
    refusal: Float[Tensor, " coefficient"]
    harmfulness: Float[Tensor, " coefficient"]
    weights: tuple[float, float]

    @classmethod
    def fitted(
        cls,
        states: Float[Tensor, "prompt d_model"],
        refused: Bool[Tensor, " prompt"],
        harmful: Bool[Tensor, " prompt"],
        *,
        components: int,
        weights: tuple[float, float],
    ) -> Objective:
        """Principal coordinates by singular values in float64, probes by logistic regression.

        Raises:
            UserError: If prompts are all refused or none, all harmful or none, or there are not
                ``components`` coordinates.
        """
        if not 1 <= components <= min(states.shape):
            raise UserError(
                f"components is {components}; give a whole number from 1 to {min(states.shape)}"
            )
        mean = states.double().mean(0)
        centred = states.double() - mean
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:components]
        coordinates = centred @ axes.T
        return cls(
            mean.float(),
            axes.float(),
            _probe(coordinates, refused, "refused"),
            _probe(coordinates, harmful, "harmful"),
            weights,
        )

    def loss(
        self,
        states: Float[Tensor, "prompt d_model"],
        before: Float[Tensor, "prompt d_model"],
        harmful: Bool[Tensor, " prompt"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch; see ``DRO``.

        Args:
            states: With the soft prompt.
            before: With the safety prompt that it started from.
            harmful: Of each prompt.
        """
        after, start = self._coordinates(states), self._coordinates(before)
        target = harmful.float()
        entropy = functional.binary_cross_entropy_with_logits
        refusal = entropy((after - start) @ self.refusal[:-1], target)
        harmfulness = entropy(after @ self.harmfulness[:-1] + self.harmfulness[-1], target)
        change = states - before
        outside = change - change @ self.axes.T @ self.axes
        residual = outside.square().sum(1).mean() / max(1, len(self.mean) - len(self.axes))
        return refusal + self.weights[0] * harmfulness + self.weights[1] * residual

    def _coordinates(
        self, states: Float[Tensor, "prompt d_model"]
    ) -> Float[Tensor, "prompt component"]:
        coordinates: Tensor = (states - self.mean) @ self.axes.T
        return coordinates


def _probe(
    coordinates: Float[Tensor, "prompt component"], positive: Bool[Tensor, " prompt"], what: str
) -> Float[Tensor, " coefficient"]:
    from sklearn.linear_model import LogisticRegression

    if bool(positive.all()) or not bool(positive.any()):
        share = "all" if bool(positive.all()) else "none"
        raise UserError(
            f"{share} of the training prompts are {what}: no probe can be fitted; give prompts of "
            "both kinds"
        )
    probe = LogisticRegression(max_iter=1000).fit(coordinates.numpy(), positive.numpy())
    coefficients = torch.tensor([*probe.coef_[0], probe.intercept_[0]])
    return coefficients.float()
