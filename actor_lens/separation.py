"""How well two groups of prompts are told apart, with intervals and what chance would give.

Every measure comes with a 95 % bootstrap interval and with the 95 % band that it takes when the
labels are permuted, so that a reader sees which layers tie and which are no better than chance.
Resampling is done for all rounds at once, as matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Measured:
    """A number, its 95 % interval and the 95 % band under permuted labels (NaN: not known)."""

    value: float
    low: float
    high: float
    null_low: float
    null_high: float


def auroc(
    values: Float[np.ndarray, " prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Measured:
    """Chance that a positive prompt has a higher value than a negative one; ties count half."""
    high, low = values[positive], values[~positive]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    weights_high, weights_low = _weights(len(high), rounds, rng), _weights(len(low), rounds, rng)
    resampled = ((weights_high @ wins) * weights_low).sum(axis=1)
    ranks = stats.rankdata(values)
    permuted = _permuted(positive, rounds, rng)
    n_high, n_low = len(high), len(low)
    null = (permuted @ ranks - n_high * (n_high + 1) / 2) / (n_high * n_low)
    return _measured(float(wins.mean()), resampled, null)


def gap(
    values: Float[np.ndarray, " prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Measured:
    """Difference of the means in pooled standard deviations (positive minus negative)."""

    def of(weights_high: np.ndarray, weights_low: np.ndarray) -> np.ndarray:
        mean_high, mean_low = weights_high @ values, weights_low @ values
        # Clipped: rounding can make the variance of equal values slightly negative.
        var_high = np.maximum(weights_high @ values**2 - mean_high**2, 0)
        var_low = np.maximum(weights_low @ values**2 - mean_low**2, 0)
        spread = np.sqrt((var_high + var_low) / 2)
        gaps: np.ndarray = np.zeros_like(spread)
        np.divide(mean_high - mean_low, spread, out=gaps, where=spread > 1e-12)
        return gaps

    def on_all(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
        spread_out = np.zeros((len(weights), len(values)))
        spread_out[:, mask] = weights
        return spread_out

    n_high, n_low = int(positive.sum()), int((~positive).sum())
    value = of(positive[None] / n_high, (~positive)[None] / n_low)[0]
    resampled = of(
        on_all(_weights(n_high, rounds, rng), positive),
        on_all(_weights(n_low, rounds, rng), ~positive),
    )
    permuted = _permuted(positive, rounds, rng)
    null = of(permuted / n_high, (1 - permuted) / n_low)
    return _measured(float(value), resampled, null)


def silhouette(
    distances: Float[np.ndarray, "prompt prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Measured:
    """Mean silhouette of two groups, from the distances between all prompts.

    The interval resamples the prompts' own silhouettes: resampling prompts would put copies at
    distance zero and raise the score.
    """
    single = _silhouettes(distances, positive[None].astype(float))[0]
    resampled = _weights(len(single), rounds, rng) @ single
    null = _silhouettes(distances, _permuted(positive, rounds, rng)).mean(axis=1)
    return _measured(float(single.mean()), resampled, null)


def probe_accuracy(
    points: Float[np.ndarray, "prompt d_model"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    seed: int,
    folds: int = 5,
) -> Measured:
    """Cross-validated accuracy of a linear probe on the whole residual, classes weighted equally.

    A probe may use any direction, not only the refusal direction: it tells whether a block could
    tell the two groups apart at all. Interval by Wilson, chance band by the binomial.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    smallest = int(min(positive.sum(), (~positive).sum()))
    if smallest < 2:
        return Measured(*[float("nan")] * 5)
    probe = make_pipeline(
        StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 6), class_weight="balanced")
    )
    split = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
    right = cross_val_predict(probe, points, positive, cv=split) == positive
    value = float((right[positive].mean() + right[~positive].mean()) / 2)
    n = len(positive)
    low, high = wilson_interval(value * n, n)
    null_low, null_high = stats.binom.ppf(_QUANTILES, n, 0.5) / n
    return Measured(value, low, high, float(null_low), float(null_high))


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share.

    Args:
        successes: From 0 to ``n``; fractions are allowed.
        n: At least 0; with 0 the interval is 0 to 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(_QUANTILES[1]))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n the interval touches the edge exactly; rounding would leave it a hair inside.
    low = 0.0 if successes <= 0 else float(max(0.0, centre - half))
    high = 1.0 if successes >= n else float(min(1.0, centre + half))
    return low, high


def _silhouettes(
    distances: Float[np.ndarray, "prompt prompt"], masks: Float[np.ndarray, "round prompt"]
) -> Float[np.ndarray, "round prompt"]:
    """Silhouette of every prompt under every assignment to two groups (1 and 0)."""
    sums_one, sums_all = masks @ distances, distances.sum(axis=0)
    n_one = masks.sum(axis=1, keepdims=True)
    n_other = masks.shape[1] - n_one
    to_one = {"own": sums_one / np.maximum(n_one - 1, 1), "other": sums_one / n_one}
    sums_zero = sums_all - sums_one
    to_zero = {"own": sums_zero / np.maximum(n_other - 1, 1), "other": sums_zero / n_other}
    inside = np.where(masks == 1, to_one["own"], to_zero["own"])
    outside = np.where(masks == 1, to_zero["other"], to_one["other"])
    larger = np.maximum(inside, outside)
    values = np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > 0)
    alone = np.where(masks == 1, n_one, n_other) == 1  # a group of one has silhouette 0
    return np.where(alone, 0.0, values)


def _weights(n: int, rounds: int, rng: np.random.Generator) -> Float[np.ndarray, "round n"]:
    """Bootstrap weights: how often each of ``n`` is drawn, as shares."""
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds) / n


def _permuted(
    positive: Bool[np.ndarray, " prompt"], rounds: int, rng: np.random.Generator
) -> Float[np.ndarray, "round prompt"]:
    return rng.permuted(np.tile(positive.astype(float), (rounds, 1)), axis=1)


def _measured(value: float, resampled: np.ndarray, null: np.ndarray) -> Measured:
    low, high = np.quantile(resampled, _QUANTILES)
    null_low, null_high = np.quantile(null, _QUANTILES)
    return Measured(value, float(low), float(high), float(null_low), float(null_high))
