"""Objective of DRO: principal coordinates, two frozen probes in them, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from actor_lens.errors import UserError, check_whole


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe in principal coordinates.

    Attributes:
        weight: Weight of each coordinate.
        bias: Intercept.
    """

    weight: Float[Tensor, " component"]
    bias: Float[Tensor, ""]

    @classmethod
    def fitted(
        cls,
        coordinates: Float[Tensor, "prompt component"],
        positive: Bool[Tensor, " prompt"],
        what: str,
    ) -> Probe:
        """Fit a probe by logistic regression.

        Args:
            coordinates: Principal coordinates of the states.
            positive: Whether each state is positive.
            what: Word for a positive prompt in the error.

        Raises:
            UserError: If all prompts are positive, or none.
        """
        from sklearn.linear_model import LogisticRegression

        if bool(positive.all()) or not bool(positive.any()):
            share = "all" if bool(positive.all()) else "none"
            raise UserError(
                f"{share} of the training prompts are {what}: no probe can be fitted; give prompts "
                "of both kinds"
            )
        probe = LogisticRegression(max_iter=1000).fit(coordinates.numpy(), positive.numpy())
        weight, bias = (
            torch.tensor(probe.coef_[0], device="cpu"),
            torch.tensor(probe.intercept_[0], device="cpu"),
        )
        return cls(weight.float(), bias.float())


@dataclass(frozen=True, eq=False)
class Objective:
    """Principal coordinates and the two probes in them, all frozen.

    Attributes:
        mean: Mean of the states.
        axes: Top principal axes, orthonormal rows.
        refusal: Probe of refusal.
        harmfulness: Probe of harmfulness.
        weights: Weights of the harmfulness term and of the residual term.
    """

    mean: Float[Tensor, " d_model"]
    axes: Float[Tensor, "component d_model"]
    refusal: Probe
    harmfulness: Probe
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
        check_whole("components", components, 1, min(states.shape))
        mean = states.double().mean(0)
        centred = states.double() - mean
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:components]
        coordinates = centred @ axes.T
        return cls(
            mean.float(),
            axes.float(),
            Probe.fitted(coordinates, refused, "refused"),
            Probe.fitted(coordinates, harmful, "harmful"),
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
            states: States with the soft prompt.
            before: States with the safety prompt that it started from.
            harmful: Whether each prompt is harmful.
        """
        after, start = self._coordinates(states), self._coordinates(before)
        target = harmful.float()
        entropy = functional.binary_cross_entropy_with_logits
        refusal = entropy((after - start) @ self.refusal.weight, target)
        harmfulness = entropy(after @ self.harmfulness.weight + self.harmfulness.bias, target)
        change = states - before
        outside = change - change @ self.axes.T @ self.axes
        residual = outside.square().sum(1).mean() / max(1, len(self.mean) - len(self.axes))
        return refusal + self.weights[0] * harmfulness + self.weights[1] * residual

    def _coordinates(
        self, states: Float[Tensor, "prompt d_model"]
    ) -> Float[Tensor, "prompt component"]:
        coordinates: Tensor = (states - self.mean) @ self.axes.T
        return coordinates
