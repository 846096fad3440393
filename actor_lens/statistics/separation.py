"""How well two groups of prompts are told apart, with intervals and what chance would give.

Every measure comes with a 95 % bootstrap interval and with the 95 % band that it takes when the
labels are permuted, so that a reader sees which layers tie and which are no better than chance.
Resampling is done for all rounds at once, as matrix products.

Intervals are bias-corrected percentiles, bands exact up to the number of permutations.

Source: Newcombe 2006, Statistics in Medicine 25 (AUROC near 0 and 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from actor_lens.statistics.intervals import (
    QUANTILES,
    Estimate,
    Z,
    bootstrap_interval,
    wilson_interval,
)


@dataclass(frozen=True)
class Measurement:
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
) -> Measurement:
    """Chance that a positive prompt has a higher value than a negative one; ties count half.

    Where the groups do not overlap every resample gives 1, as if there were no doubt, so the
    bootstrap interval is widened to Newcombe's score interval where that reaches further.
    """
    n_high, n_low = int(positive.sum()), int((~positive).sum())
    weights_high, weights_low = _weights(n_high, rounds, rng), _weights(n_low, rounds, rng)
    value, resampled = _resampled_auroc(values, positive, weights_high, weights_low)
    ranks = stats.rankdata(values)
    permuted = _permute(positive, rounds, rng)
    null = (permuted @ ranks - n_high * (n_high + 1) / 2) / (n_high * n_low)
    measurement = _measurement(value, resampled, null)
    score_low, score_high = _auroc_score_interval(measurement.value, n_high, n_low)
    return replace(
        measurement, low=min(measurement.low, score_low), high=max(measurement.high, score_high)
    )


def auroc_steps(
    scores: Float[np.ndarray, "step prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> list[tuple[Estimate, Estimate]]:
    """AUROC of each of several scores of the same prompts, and what it adds to the one before.

    The first is compared with 0.5, which scores without any knowledge give. All intervals come from
    the same resamples, so that those of what is added are paired; that of an AUROC is widened as
    in ``auroc``.
    """
    n_high, n_low = int(positive.sum()), int((~positive).sum())
    weights_high, weights_low = _weights(n_high, rounds, rng), _weights(n_low, rounds, rng)
    before: tuple[float, np.ndarray] = (0.5, np.full(rounds, 0.5))
    steps = []
    for values in scores:
        value, resampled = _resampled_auroc(values, positive, weights_high, weights_low)
        low, high = bootstrap_interval(value, resampled)
        score_low, score_high = _auroc_score_interval(value, n_high, n_low)
        area = Estimate(value, min(low, score_low), max(high, score_high), len(values))
        added = value - before[0]
        ends = bootstrap_interval(added, resampled - before[1])
        steps.append((area, Estimate(added, *ends, len(values))))
        before = value, resampled
    return steps


def gap(
    values: Float[np.ndarray, " prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Measurement:
    """Difference of the means in pooled standard deviations (positive minus negative).

    The pooled variance is the mean of the two groups' unbiased variances.
    NaN where the groups have no spread at all; resamples without spread, which only very small
    groups give, are left out of the interval.
    """
    n_high, n_low = int(positive.sum()), int((~positive).sum())
    unbiased_high, unbiased_low = n_high / max(n_high - 1, 1), n_low / max(n_low - 1, 1)
    values = values - values.mean()  # squares of a large common offset would swallow the spread
    # Rounding leaves groups of equal values with a spread of about this much.
    negligible = 1e-7 * float(np.abs(values).max())

    def of(weights_high: np.ndarray, weights_low: np.ndarray) -> np.ndarray:
        mean_high, mean_low = weights_high @ values, weights_low @ values
        # Clipped: rounding can make the variance of equal values slightly negative.
        var_high = np.maximum(weights_high @ values**2 - mean_high**2, 0) * unbiased_high
        var_low = np.maximum(weights_low @ values**2 - mean_low**2, 0) * unbiased_low
        spread = np.sqrt((var_high + var_low) / 2)
        gaps: np.ndarray = np.full_like(spread, np.nan)
        np.divide(mean_high - mean_low, spread, out=gaps, where=spread > negligible)
        return gaps

    value = of(positive[None] / n_high, (~positive)[None] / n_low)[0]
    resampled = of(
        _on_all(_weights(n_high, rounds, rng), positive),
        _on_all(_weights(n_low, rounds, rng), ~positive),
    )
    permuted = _permute(positive, rounds, rng)
    null = of(permuted / n_high, (1 - permuted) / n_low)
    return _measurement(float(value), resampled, null)


def silhouette(
    distances: Float[np.ndarray, "prompt prompt"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Measurement:
    """Mean silhouette of two groups, from the distances between all prompts.

    The bootstrap draws prompts of each group. Copies of a prompt are not counted among its own
    neighbours: at distance zero they would raise the score.
    """
    ones, zeros = positive.astype(float)[None], (~positive).astype(float)[None]
    n_one, n_zero = int(positive.sum()), int((~positive).sum())
    value = _mean_silhouettes(distances, ones, zeros)[0]
    drawn_ones = _on_all(n_one * _weights(n_one, rounds, rng), positive)
    drawn_zeros = _on_all(n_zero * _weights(n_zero, rounds, rng), ~positive)
    resampled = _mean_silhouettes(distances, drawn_ones, drawn_zeros)
    permuted = _permute(positive, rounds, rng)
    null = _mean_silhouettes(distances, permuted, 1 - permuted)
    return _measurement(float(value), resampled, null)


def probe_accuracy(
    points: Float[np.ndarray, "prompt d_model"],
    positive: Bool[np.ndarray, " prompt"],
    *,
    seed: int,
    folds: int = 5,
) -> Measurement:
    """Cross-validated accuracy of a linear probe on the whole residual, classes weighted equally.

    A probe may use any direction, not only the refusal direction: it tells whether a block could
    tell the two groups apart at all. Interval by Wilson, chance band by the binomial, both with
    the number of prompts that two groups of equal size would need for the same standard error.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    smallest = int(min(positive.sum(), (~positive).sum()))
    if smallest < 2:
        return Measurement(*[float("nan")] * 5)
    probe = make_pipeline(
        StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 6), class_weight="balanced")
    )
    split = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
    right = cross_val_predict(probe, points, positive, cv=split) == positive
    value = float((right[positive].mean() + right[~positive].mean()) / 2)
    n_high, n_low = int(positive.sum()), int((~positive).sum())
    n = round(4 / (1 / n_high + 1 / n_low))
    low, high = wilson_interval(value * n, n)
    null_low, null_high = stats.binom.ppf(QUANTILES, n, 0.5) / n
    return Measurement(value, low, high, float(null_low), float(null_high))


def _mean_silhouettes(
    distances: Float[np.ndarray, "prompt prompt"],
    ones: Float[np.ndarray, "round prompt"],
    zeros: Float[np.ndarray, "round prompt"],
) -> Float[np.ndarray, " round"]:
    """Mean silhouette of every round, given how often each prompt is in either group."""
    to_ones, to_zeros = ones @ distances, zeros @ distances  # a copy of itself adds nothing
    n_ones, n_zeros = ones.sum(axis=1, keepdims=True), zeros.sum(axis=1, keepdims=True)
    in_ones = ones > 0
    own = np.where(in_ones, to_ones, to_zeros)
    neighbours = np.where(in_ones, n_ones - ones, n_zeros - zeros)
    inside = own / np.maximum(neighbours, 1)
    outside = np.where(in_ones, to_zeros / n_zeros, to_ones / n_ones)
    larger = np.maximum(inside, outside)
    single = np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > 0)
    single = np.where(neighbours == 0, 0.0, single)  # alone in its group
    means: np.ndarray = ((ones + zeros) * single).sum(axis=1) / (n_ones + n_zeros)[:, 0]
    return means


def _resampled_auroc(
    values: Float[np.ndarray, " prompt"],
    positive: Bool[np.ndarray, " prompt"],
    weights_high: Float[np.ndarray, "round high"],
    weights_low: Float[np.ndarray, "round low"],
) -> tuple[float, Float[np.ndarray, " round"]]:
    """The AUROC, and that of every resample."""
    high, low = values[positive], values[~positive]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    # Clipped: rounding can lead a hair beyond 1.
    resampled: np.ndarray = ((weights_high @ wins) * weights_low).sum(axis=1).clip(0, 1)
    return float(wins.mean()), resampled


def _auroc_score_interval(value: float, n_high: int, n_low: int) -> tuple[float, float]:
    """The true values at which this one lies 1.96 standard errors away (method 5 of Newcombe)."""
    from scipy.optimize import brentq

    others = (n_high + n_low) / 2 - 1

    def beyond(true: float) -> float:
        excess = others * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * (1 + excess) / (n_high * n_low)
        return abs(value - true) - Z * float(np.sqrt(variance))

    # At 0 and 1 the value itself is a root, and not the one that is wanted.
    low = 0.0 if value == 0 else float(brentq(beyond, 0.0, min(value, 1 - 1e-9)))
    high = 1.0 if value == 1 else float(brentq(beyond, max(value, 1e-9), 1.0))
    return low, high


def _weights(n: int, rounds: int, rng: np.random.Generator) -> Float[np.ndarray, "round n"]:
    """Bootstrap weights: how often each of ``n`` is drawn, as shares."""
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds) / n


def _on_all(
    weights: Float[np.ndarray, "round n"], group: Bool[np.ndarray, " prompt"]
) -> Float[np.ndarray, "round prompt"]:
    """Weights of a group's prompts in the places that they have among all."""
    spread_out = np.zeros((len(weights), len(group)))
    spread_out[:, group] = weights
    return spread_out


def _permute(
    positive: Bool[np.ndarray, " prompt"], rounds: int, rng: np.random.Generator
) -> Float[np.ndarray, "round prompt"]:
    return rng.permuted(np.tile(positive.astype(float), (rounds, 1)), axis=1)


def _measurement(value: float, resampled: np.ndarray, null: np.ndarray) -> Measurement:
    low, high = bootstrap_interval(value, resampled[~np.isnan(resampled)])
    null_low, null_high = _band(null[~np.isnan(null)])
    return Measurement(value, low, high, null_low, null_high)


def _band(null: np.ndarray) -> tuple[float, float]:
    if len(null) == 0:
        return float("nan"), float("nan")
    # Weibull's quantiles: one more data set like the permuted ones is inside 95 times in 100.
    low, high = np.quantile(null, QUANTILES, method="weibull")
    return float(low), float(high)
