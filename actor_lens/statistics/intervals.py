"""95 % intervals: of a share, of resampled numbers, and of half the sum of independent numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
QUANTILES = (0.025, 0.975)
_NAN = float("nan")


class Estimate(NamedTuple):
    """A share or a mean of shares with its 95 % interval.

    Attributes:
        value: The number; NaN where it is not known.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of prompts behind it.
    """

    value: float
    low: float
    high: float
    n: int


UNKNOWN = Estimate(_NAN, _NAN, _NAN, 0)
"""What is known without prompts."""


def wilson_interval(successes: int | float, n: int) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        successes: Number from 0 to ``n``; need not be whole.
        n: Number of trials; with 0 the interval is 0 to 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22.
    """
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At 0 and n the interval touches the edge exactly; rounding would leave it a hair inside.
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return low, high


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson interval of a share that may be a mean over seeds; NaN where nothing is known."""
    return (_NAN, _NAN) if math.isnan(share) or not n else wilson_interval(share * n, n)


def share_estimate(count: int, n: int) -> Estimate:
    """A share with its Wilson interval; UNKNOWN of nothing."""
    return Estimate(count / n, *wilson_interval(count, n), n) if n else UNKNOWN


def half_sum_interval(*numbers: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of half the sum of independent numbers: squares of the distances add up (MOVER).

    Args:
        numbers: Value, low and high of each; of two, half the sum is the mean.

    Source: Newcombe 1998, Statistics in Medicine 17; Zou and Donner 2008, Statistics in Medicine
        27.
    """
    value = sum(one[0] for one in numbers) / 2
    below = math.hypot(*(value - low for value, low, _ in numbers)) / 2
    above = math.hypot(*(high - value for value, _, high in numbers)) / 2
    return value - below, value + above


def bootstrap_interval(value: float, resampled: Float[np.ndarray, " round"]) -> tuple[float, float]:
    """Bias-corrected percentiles: moved by as much as the resamples lie to one side of the value.

    Args:
        value: The number that was seen; it always lies inside the interval.
        resampled: The same number of each resample; without any the interval is not known.

    Source: Efron 1981, Canadian Journal of Statistics 9.
    """
    from scipy import stats

    if len(resampled) == 0:
        return _NAN, _NAN
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    least = 0.5 / len(resampled)
    bias = stats.norm.ppf(np.clip(below, least, 1 - least))
    quantiles = stats.norm.cdf(2 * bias + stats.norm.ppf(QUANTILES))
    low, high = np.quantile(resampled, quantiles)
    return min(float(low), value), max(float(high), value)
