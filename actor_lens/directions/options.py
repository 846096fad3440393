"""Names of origins, shifts and scores, without torch: menus read them too."""

from __future__ import annotations

from typing import Literal, get_args

Origin = Literal["benign_mean", "midpoint", "zero", "fitted"]
"""Where a projection counts as none; zero is the paper's formula, fitted comes from the shifts that
over-refused prompts need at the layer in question."""

Shift = Literal["projected", "uniform"]
"""How far a target lies: by the prompt's own projection, or equally far for all prompts."""

Score = Literal["silhouette", "auroc", "gap", "probe", "causal"]
"""What a layer is scored by."""

MapMethod = Literal["pca", "tsne"]
"""How the prompts of a layer are laid out in two dimensions."""

ORIGINS: tuple[Origin, ...] = get_args(Origin)
FIXED_ORIGINS: tuple[Origin, ...] = ("benign_mean", "midpoint", "zero")
"""Those that are known at every layer as soon as there are directions."""
PAPER_GAMMAS = tuple(step / 10 for step in range(1, 11))
"""Shares of R that the paper tries: 0.1, 0.2, ... 1."""
SHIFTS: tuple[Shift, ...] = get_args(Shift)
SCORES: tuple[Score, ...] = get_args(Score)
MAP_METHODS: tuple[MapMethod, ...] = get_args(MapMethod)


def fixed_origin(origin: Origin) -> Origin:
    """The origin for looking at all layers: a fitted one is known at single layers only."""
    return origin if origin in FIXED_ORIGINS else "benign_mean"
