"""Is one direction enough? Subspaces of the kinds of prompts, and what each direction adds.

The first direction of a pair of labels is its difference in means; for harmful against benign it
is the refusal direction. The others span what the *kinds* of prompts (their categories) add to it:
the differences in means of each kind, stacked, less the first direction, in the order of their
singular values. Prompts are scored on the first one, two, ... directions by quadratic discriminant
analysis: a label whose kinds lie on different sides of the other is told from it, too, which no
plane could do. Directions and scores are fitted without the prompts that they are measured on.

Source: Arditi et al. 2024 (arXiv 2406.11717), difference in means; Wollschlaeger et al. 2025
(arXiv 2502.17420), refusal in more than one dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actor_lens.activations.positions import LAST, Position
from actor_lens.activations.residuals import Residuals
from actor_lens.directions.refusal_directions import SAME
from actor_lens.errors import UserError, check_choice, check_whole
from actor_lens.prompts.rows import PAIRS, Label, Pair
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result, plain
from actor_lens.statistics.intervals import Estimate
from actor_lens.statistics.separation import auroc_steps
from actor_lens.text import plural

if TYPE_CHECKING:
    import pandas as pd

SubspacePair = Pair | Literal["pseudo_harmful_vs_benign"]
SUBSPACE_PAIRS: dict[SubspacePair, tuple[Label, Label]] = {
    "harmful_vs_benign": PAIRS["harmful_vs_benign"],
    "harmful_vs_pseudo_harmful": PAIRS["harmful_vs_pseudo_harmful"],
    "pseudo_harmful_vs_benign": ("pseudo_harmful", "benign"),
}
"""Labels that directions tell apart: refusal, the repair's question, and over-refusal."""

FOLDS, DRAWS, ROUNDS = 5, 40, 1000
# Most directions unless a number is given.
_MOST = 6


@dataclass(frozen=True)
class SubspaceStep:
    """What a direction adds to those before it, on prompts that it was not fitted to.

    Attributes:
        auroc: AUROC of this and all directions before it, with its 95 % interval.
        gain: That less the AUROC without this direction, paired; of the first, less 0.5.
        random: Median AUROC with a random direction in its place, and where 95 % of them fall.
    """

    auroc: Estimate
    gain: Estimate
    random: Estimate

    @property
    def adds(self) -> bool:
        """Whether the gain is above 0 and above what random directions give."""
        return self.gain.low > 0 and self.auroc.value > self.random.high


@dataclass(frozen=True, eq=False, repr=False)
class RefusalSubspace(Result):
    """Orthonormal directions that tell two labels apart at a layer, and what each one adds.

    Attributes:
        vectors: The directions, of all prompts; the first points from the second label's mean to
            the first one's.
        pair: The labels, as in ``SUBSPACE_PAIRS``.
        layer: The layer.
        kinds: Kinds of prompts whose means were taken, ``label: category``.
        steps: What each direction adds.
        whole: AUROC of the whole residual by linear discriminant analysis, the covariance shrunk
            (Ledoit and Wolf).
        prompts: Prompts of the two labels.
        model_name: Name of the model.
        position: Where the residuals were read.
    """

    vectors: Float[Tensor, "direction d_model"]
    pair: SubspacePair
    layer: int
    kinds: tuple[str, ...]
    steps: tuple[SubspaceStep, ...]
    whole: Estimate
    prompts: PromptSet
    model_name: str
    position: Position = LAST

    _figure = "subspace_steps"
    _hint = "coordinates of prompts: .project(residuals)"

    @property
    def dimension(self) -> int:
        """How many of the directions add something; see ``SubspaceStep.adds``."""
        return sum(step.adds for step in self.steps)

    def project(self, residuals: Residuals) -> Float[Tensor, "prompt direction"]:
        """Coordinates of prompts on the directions, in units of the residual stream.

        Raises:
            UserError: If the residuals are of another width or position, or have no such layer.
        """
        points = residuals.at(self.layer)
        same = points.shape[1] == self.vectors.shape[1]
        if not same or residuals.position != self.position:
            raise UserError(
                f"residuals of width {points.shape[1]} at {residuals.position} do not fit "
                f"directions of width {self.vectors.shape[1]} at {self.position}: collect them "
                "from the same model with position=subspace.position"
            )
        return (points.double() @ self.vectors.double().T).float()

    def frame(self) -> pd.DataFrame:
        """One row a number of directions.

        Columns: ``pair``, ``layer``, ``directions``; ``auroc``, ``gain``, ``random``, each with
        ``_low`` and ``_high`` (see ``SubspaceStep``); ``share``: how much they reach of what the
        whole residual has above 0.5; ``adds``; ``whole`` with ``_low`` and ``_high``; ``n``.
        """
        import pandas as pd

        rows = []
        for number, step in enumerate(self.steps, start=1):
            row: dict[str, Any] = {"pair": self.pair, "layer": self.layer, "directions": number}
            for name in ("auroc", "gain", "random"):
                row |= _columns(name, getattr(step, name))
            over = self.whole.value - 0.5
            share = (step.auroc.value - 0.5) / over if over > 0 else float("nan")
            rows.append({**row, "share": share, "adds": step.adds, **_columns("whole", self.whole)})
        return pd.DataFrame(rows).assign(n=len(self.prompts))

    def summary(self) -> dict[str, Any]:
        """Plain values: ``pair``, ``layer``, ``position``, ``kinds``, ``steps`` and so on."""
        names = ("pair", "layer", "kinds", "dimension", "steps", "whole", "model_name")
        values = {name: plain(getattr(self, name)) for name in names}
        return {**values, "position": self.position.name, "prompts": len(self.prompts)}

    def _headline(self) -> str:
        labels = " against ".join(SUBSPACE_PAIRS[self.pair]).replace("_", "-")
        areas = ", ".join(f"{step.auroc.value:.2f}" for step in self.steps)
        return (
            f"RefusalSubspace: {labels} at layer {self.layer}, {plural(len(self.kinds), 'kind')}; "
            f"{self.dimension} of {plural(len(self.steps), 'direction')} add something: AUROC "
            f"{areas}; whole residual {self.whole.value:.2f}"
        )


def refusal_subspace(
    residuals: Residuals,
    layer: int,
    k: int | None = None,
    *,
    pair: SubspacePair = "harmful_vs_benign",
    seed: int = 0,
) -> RefusalSubspace:
    """Directions that tell two labels apart at a layer, and how much each one adds.

    A category of harmful or pseudo-harmful prompts is a kind; those with fewer than five prompts
    are one kind together, and so are all benign prompts. There are as many directions as kinds less
    one. AUROCs are of five-fold cross-validation; their intervals speak of other prompts, the fits
    taken as they are.

    How it is misread: a direction that adds nothing here may be there all the same. Few prompts
    show large gains only, and where one direction gives an AUROC near 1 there is nothing to add.

    Args:
        residuals: Residuals of prompts with both labels, at least five of each.
        layer: The layer.
        k: Number of directions; None for all, at most six.
        pair: ``"harmful_vs_benign"``, ``"harmful_vs_pseudo_harmful"`` or
            ``"pseudo_harmful_vs_benign"``.
        seed: Seed of folds, random directions and resamples.

    Raises:
        UserError: If the pair or the layer does not exist, a label has too few prompts, all
            prompts of both labels are of one kind each, ``k`` is below 1 or above the number of
            kinds less one, the residuals are not finite or all the same, or the means of the two
            labels coincide.
    """
    check_choice("pair", pair, list(SUBSPACE_PAIRS))
    layer = residuals.check_layer(layer)
    positive, negative = SUBSPACE_PAIRS[pair]
    kinds = kinds_of(residuals.prompts, pair)
    rows = [i for i, label in enumerate(residuals.prompts.labels) if label in (positive, negative)]
    prompts = residuals.prompts.select(rows)
    points = residuals.at(layer)[rows].double().numpy()
    if not np.isfinite(points).all() or (points == points[0]).all():
        raise UserError(
            f"residuals of '{residuals.model_name}' at layer {layer} are not finite or all the "
            "same; load the model with dtype float32 or bfloat16, or look at a later layer"
        )
    names = tuple(sorted(set(kinds)))
    most = len(names) - 1
    k = min(most, _MOST) if k is None else check_whole("k, the number of directions,", k, 1, most)
    classes = np.array([names.index(kind) for kind in kinds])
    is_positive = np.array([label == positive for label in prompts.labels])
    of_positive = np.array([name.startswith(f"{positive}: ") for name in names])
    vectors = torch.tensor(_basis(points, classes, of_positive, k), device="cpu").float()
    scores, random, whole = _held_out_scores(points, classes, of_positive, k, seed)
    rng = np.random.default_rng(seed)
    *measured, (whole_area, _) = auroc_steps(
        np.vstack([scores, whole]), is_positive, rounds=ROUNDS, rng=rng
    )
    steps = [
        SubspaceStep(area, gain, _band(draws, is_positive))
        for (area, gain), draws in zip(measured, random, strict=True)
    ]
    return RefusalSubspace(
        vectors=vectors,
        pair=pair,
        layer=layer,
        kinds=names,
        steps=tuple(steps),
        whole=whole_area,
        prompts=prompts,
        model_name=residuals.model_name,
        position=residuals.position,
    )


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def kinds_of(prompts: PromptSet, pair: SubspacePair) -> list[str]:
    """The kind of each prompt of two labels, ``label: category``; benign prompts are one kind.

    Raises:
        UserError: If a label has fewer than five prompts, or each of the two is of one kind.
    """
    labels = SUBSPACE_PAIRS[pair]
    require_labels(prompts, FOLDS, labels)
    kinds = [
        prompt.label if prompt.label == "benign" else f"{prompt.label}: {prompt.category or 'none'}"
        for prompt in prompts
        if prompt.label in labels
    ]
    for label in labels:
        counts = Counter(kind for kind in kinds if kind.startswith(f"{label}: "))
        rare: set[str] = set()
        for kind, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
            if count < FOLDS or 0 < sum(counts[one] for one in rare) < FOLDS:
                rare.add(kind)
        kinds = [f"{label}: other" if kind in rare else kind for kind in kinds]
    if len(set(kinds)) == 2:
        raise UserError(
            f"the {labels[0]} and the {labels[1]} prompts are of one kind each: a subspace needs "
            "more; give them categories with five or more prompts each"
        )
    return kinds


def _basis(
    points: Float[np.ndarray, "prompt d_model"],
    classes: np.ndarray,
    of_positive: Bool[np.ndarray, " kind"],
    k: int,
) -> Float[np.ndarray, "direction d_model"]:
    """The difference in means, then what the kinds add to it by singular value; orthonormal."""
    positive = of_positive[classes]
    high, low = points[positive].mean(axis=0), points[~positive].mean(axis=0)
    length = np.linalg.norm(high - low)
    if length <= SAME * max(np.linalg.norm(high), np.linalg.norm(low)):
        raise UserError(
            "the prompts of the two labels have the same mean at this layer: no direction there; "
            "check that the two labels hold different prompts"
        )
    first = (high - low) / length
    means = [points[classes == kind].mean(axis=0) for kind in range(len(of_positive))]
    differences = np.array(
        [mean - low if up else high - mean for mean, up in zip(means, of_positive, strict=True)]
    )
    rest = differences - np.outer(differences @ first, first)
    left, _, right = np.linalg.svd(rest, full_matrices=False)
    # The sign that singular vectors lack: the kind that goes furthest is on the positive side.
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    stacked = np.vstack([first, signs[:, None] * right])[:k]
    orthonormal, triangle = np.linalg.qr(stacked.T)
    return np.asarray((orthonormal * np.sign(np.diag(triangle))).T)


def _held_out_scores(
    points: Float[np.ndarray, "prompt d_model"],
    classes: np.ndarray,
    of_positive: Bool[np.ndarray, " kind"],
    k: int,
    seed: int,
) -> tuple[
    Float[np.ndarray, "direction prompt"],
    Float[np.ndarray, "direction draw prompt"],
    Float[np.ndarray, " prompt"],
]:
    """Log odds of each prompt by the other folds, on 1 to k directions and on the whole residual.

    The second are those on as many directions, with a random one in the place of the last.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold

    scores, whole = np.empty((k, len(points))), np.empty(len(points))
    random = np.empty((k, DRAWS, len(points)))
    drawn = np.random.default_rng(seed).normal(size=(DRAWS, points.shape[1]))
    positive = of_positive[classes]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(points, classes):
        basis = _basis(points[train], classes[train], of_positive, k)
        centred = points - points[train].mean(axis=0)
        for number in range(k):
            known = basis[:number]
            free = drawn - drawn @ known.T @ known
            replaced = np.stack([np.vstack([known, one / np.linalg.norm(one)]) for one in free])
            axes = np.concatenate([basis[None, : number + 1], replaced])
            odds = _log_odds(centred @ axes.transpose(0, 2, 1), positive, train, test)
            scores[number, test], random[number][:, test] = odds[0], odds[1:]
        span = centred @ np.linalg.svd(centred[train], full_matrices=False)[2][: len(train) - 1].T
        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        whole[test] = analysis.fit(span[train], positive[train]).decision_function(span[test])
    return scores, random, whole


def _log_odds(
    points: Float[np.ndarray, "draw prompt axis"],
    positive: Bool[np.ndarray, " prompt"],
    train: np.ndarray,
    test: np.ndarray,
) -> Float[np.ndarray, "draw test"]:
    """Quadratic discriminant analysis: log odds that each test prompt has the first label.

    A label's covariance counts for as many prompts as there are, the pooled one for one more than
    there are axes, so that few prompts with many axes come near to a linear analysis.
    """
    weight = points.shape[-1] + 1
    parts = [points[:, train[side[train]]] for side in (positive, ~positive)]
    centred = [part - part.mean(axis=1, keepdims=True) for part in parts]
    scatters = [part.transpose(0, 2, 1) @ part for part in centred]
    pooled = (scatters[0] + scatters[1]) / (len(train) - 2)
    odds = np.zeros((len(points), len(test)))
    for sign, part, scatter in zip((1, -1), parts, scatters, strict=True):
        covariance = (scatter + weight * pooled) / (part.shape[1] - 1 + weight)
        away = points[:, test] - part.mean(axis=1, keepdims=True)
        squares = (away @ np.linalg.pinv(covariance, hermitian=True) * away).sum(axis=-1)
        odds -= sign * (squares + np.linalg.slogdet(covariance)[1][:, None]) / 2
    return odds


def _band(
    draws: Float[np.ndarray, "draw prompt"], positive: Bool[np.ndarray, " prompt"]
) -> Estimate:
    """Median of the AUROC of random directions, and where 95 % of them fall."""
    from scipy.stats import rankdata

    n_high, n_low = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(draws, axis=1)[:, positive].sum(axis=1)
    areas: Sequence[float] = (ranks - n_high * (n_high + 1) / 2) / (n_high * n_low)
    low, middle, high = np.quantile(areas, (0.025, 0.5, 0.975))
    return Estimate(float(middle), float(low), float(high), len(draws))
