"""Two methods on the same prompts: paired differences, and tests that were made many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# 97.5 % quantile of the standard normal distribution.
_Z = 1.959963984540054


@dataclass(frozen=True)
class PairedDifference:
    """How much oftener the first of two is right, on the same prompts.

    Attributes:
        value: Share of the first minus share of the second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        better: Prompts on which only the first is right.
        worse: Prompts on which only the second is right.
        n: Prompts.
    """

    value: float
    low: float
    high: float
    better: int
    worse: int
    n: int


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Difference of two paired shares with its interval; NaN without pairs.

    The interval is Wald's with one more pair added on either side, which keeps it honest where few
    or no prompts change sides.

    Args:
        first: Whether the first was right, prompt by prompt.
        second: The same of the second.

    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37.
    """
    better = sum(one and not other for one, other in zip(first, second, strict=True))
    worse = sum(other and not one for one, other in zip(first, second, strict=True))
    n = len(first)
    if n == 0:
        return PairedDifference(math.nan, math.nan, math.nan, 0, 0, 0)
    centre, half = _adjusted(better, worse, n)
    value = (better - worse) / n
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference(value, min(low, value), max(high, value), better, worse, n)


def mean_of_differences(one: PairedDifference, other: PairedDifference) -> PairedDifference:
    """Half the sum of two independent differences, such as those of C.R. and S.S. for T.S.

    The interval squares the distances of the two (MOVER). Counts are added up.

    Source: Zou and Donner 2008, Statistics in Medicine 27.
    """
    value = (one.value + other.value) / 2
    low, high = mean_interval(
        (one.value, one.low, one.high),
        (other.value, other.low, other.high),
    )
    counts = (one.better + other.better, one.worse + other.worse, one.n + other.n)
    return PairedDifference(value, low, high, *counts)


def mean_interval(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval of the mean of two independent numbers, from value, low and high of each (MOVER).

    Source: Zou and Donner 2008, Statistics in Medicine 27.
    """
    value = (one[0] + other[0]) / 2
    below = math.hypot(one[0] - one[1], other[0] - other[1]) / 2
    above = math.hypot(one[2] - one[0], other[2] - other[0]) / 2
    return value - below, value + above


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being many (Holm's step-down), in the order given.

    The k-th smallest of m is multiplied by m - k + 1; none may be below a smaller one's, and none
    above 1. NaN (no test) stays NaN and does not count.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(tested) - rank)))
        corrected[index] = largest
    return corrected


def _adjusted(better: int, worse: int, n: int) -> tuple[float, float]:
    """Centre and half width of the interval of a paired difference."""
    p, q = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    return p - q, _Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
