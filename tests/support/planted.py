"""Residuals of known geometry: classes planted along a known direction of a noisy stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from actor_lens.activations.residuals import Residuals
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet

PLACES = {"harmful": 4.0, "pseudo_harmful": 2.0, "benign": -4.0}


def labelled_prompts(counts: Mapping[str, int]) -> PromptSet:
    """So many prompts of each label, the labels taking turns."""
    rows = [(turn, label) for label in counts for turn in range(counts[label])]
    return PromptSet(
        tuple(Prompt(f"{label} prompt {turn}", label) for turn, label in sorted(rows)),
        name="planted",
    )


def residuals_of(values: np.ndarray | torch.Tensor, labels: tuple[str, ...]) -> Residuals:
    """Residuals of given numbers, ``[layer, prompt, d_model]``."""
    prompts = PromptSet(tuple(Prompt(f"prompt {i}", label) for i, label in enumerate(labels)))
    return Residuals(torch.as_tensor(values, dtype=torch.float32), prompts, "planted")


def random_residuals(
    per_label: int = 7, n_layers: int = 3, d_model: int = 5, seed: int = 0, scale: float = 1.0
) -> Residuals:
    """Noise around a mean that every prompt shares, as in a residual stream."""
    rng = np.random.default_rng(seed)
    labels = LABELS * per_label
    values = scale * rng.normal(size=(n_layers, len(labels), d_model)) + 2 * scale * rng.normal(
        size=d_model
    )
    return residuals_of(values, labels)


def planted_residuals(
    counts: Mapping[str, int],
    strengths: tuple[float, ...] = (1.0,),
    *,
    places: Mapping[str, float] = PLACES,
    d_model: int = 16,
    offset: float = 0.0,
    seed: int = 0,
) -> tuple[Residuals, np.ndarray]:
    """Unit noise plus each class's place along one unit vector, times the layer's strength.

    Args:
        counts: Prompts of each label.
        strengths: One for each layer.
        places: Of each label on the planted vector, in standard deviations of the noise.
        d_model: Width.
        offset: Added to every number: a mean that all prompts share.
        seed: Of noise and vectors.

    Returns:
        The residuals, and the planted unit vector of each layer.
    """
    rng = np.random.default_rng(seed)
    prompts = labelled_prompts(counts)
    units = rng.normal(size=(len(strengths), d_model))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    along = np.array([places[label] for label in prompts.labels])
    signal = np.einsum("l,p,ld->lpd", strengths, along, units)
    values = rng.normal(size=signal.shape) + signal + offset
    return Residuals(torch.tensor(values, dtype=torch.float32), prompts, "planted"), units
