"""Names of origins, shifts and scores, without torch: menus read them too."""

from __future__ import annotations

from typing import Literal, get_args

Origin = Literal["benign_mean", "midpoint", "zero"]
"""Where a projection counts as none; zero is the paper's formula."""

Shift = Literal["projected", "uniform"]
"""How far a target lies: by the prompt's own projection, or equally far for all prompts."""

Score = Literal["silhouette", "auroc", "gap", "probe", "causal"]
"""What a layer is scored by."""

MapMethod = Literal["pca", "tsne"]
"""How the prompts of a layer are laid out in two dimensions."""

ORIGINS: tuple[Origin, ...] = get_args(Origin)
SHIFTS: tuple[Shift, ...] = get_args(Shift)
SCORES: tuple[Score, ...] = get_args(Score)
MAP_METHODS: tuple[MapMethod, ...] = get_args(MapMethod)
