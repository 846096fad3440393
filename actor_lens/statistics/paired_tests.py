"""Two methods on the same prompts: paired differences, and tests that were made many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from actor_lens.statistics.intervals import Z, half_sum_interval

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PairedDifference:
    """How much more often the first of two is right, on the same prompts.

    Attributes:
        value: Share of the first minus share of the second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        better: Number of prompts on which the first is right and the second is not; of several
            seeds, a prompt counts by the share of seeds that it is ahead by.
        worse: The same of the second. ``value`` is ``(better - worse) / n``.
        n: Number of prompts.
    """

    value: float
    low: float
    high: float
    better: float
    worse: float
    n: int


def paired_changes(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]
) -> tuple[Fraction, ...]:
    """Share of its seeds in which the first was right minus that of the second, by prompt.

    Averaging over the seeds first keeps prompts as what is counted: replies of several seeds to one
    prompt are no further prompts.

    Args:
        first: Whether the first was right, for each prompt and seed.
        second: The same of the second, which may have another number of seeds.
    """
    return tuple(
        Fraction(sum(one), len(one)) - Fraction(sum(other), len(other))
        for one, other in zip(first, second, strict=True)
    )


def paired_difference(changes: Sequence[Fraction]) -> PairedDifference:
    """Difference of two paired shares with its interval; NaN without pairs.

    The interval is Wald's with one more pair added on either side, which keeps it honest where few
    or no prompts change sides. With one seed of each it is that of the source; with several the
    changes are fractions, and their own variance takes the place of that of the 2 x 2 table.

    Args:
        changes: Changes of all prompts, from ``paired_changes``.

    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37.
    """
    n = len(changes)
    if n == 0:
        return PairedDifference(math.nan, math.nan, math.nan, 0.0, 0.0, 0)
    better = float(sum((change for change in changes if change > 0), Fraction()))
    worse = float(-sum((change for change in changes if change < 0), Fraction()))
    centre, half = _adjust(changes)
    value = (better - worse) / n
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference(value, min(low, value), max(high, value), better, worse, n)


def sign_flip_p(changes: Sequence[Fraction]) -> float:
    """Two-sided p of the exact sign-flip test of paired changes; NaN without pairs.

    Were the two methods alike, each prompt's change might as well have the other sign. p is the
    share of all choices of signs whose sum is at least as far from 0 as the sum that was seen. With
    one seed of each every change is -1, 0 or 1, and this is the exact McNemar test.

    With as many seeds of either it is exact; where one has more seeds than the other, changes need
    not be symmetric even of methods that are alike, and p is close for many prompts only. It speaks
    of the fits that were tried and of other prompts like these, not of other seeds.

    Args:
        changes: Changes of all prompts, from ``paired_changes``.

    Source: Fisher 1935, The Design of Experiments, section 21; McNemar 1947, Psychometrika 12.
    """
    import numpy as np

    if not changes:
        return math.nan
    unit = math.lcm(*(change.denominator for change in changes))
    steps = [int(change * unit) for change in changes if change]
    if not steps:
        return 1.0
    common = math.gcd(*steps)
    shares = np.ones(1)  # of each sum, from the lowest to the highest, over all choices of signs
    for step in (abs(step) // common for step in steps):
        wider = np.zeros(len(shares) + 2 * step)
        wider[: len(shares)] += shares / 2
        wider[2 * step :] += shares / 2
        shares = wider
    observed = abs(sum(steps)) // common
    at_least = len(shares) // 2 - observed + 1  # sums from the lowest to ``-observed``
    return min(1.0, 2 * float(shares[:at_least].sum()))


def mcnemar(changed_one_way: int, changed_other_way: int) -> float:
    """Two-sided p of the exact McNemar test.

    Args:
        changed_one_way: Number of pairs that went from the first state to the second.
        changed_other_way: Number of pairs that went back.

    Source: McNemar 1947, Psychometrika 12; the exact form is a sign test.
    """
    from scipy.stats import binomtest

    n = changed_one_way + changed_other_way
    return float(binomtest(changed_one_way, n).pvalue) if n else 1.0


def half_sum(*differences: PairedDifference) -> PairedDifference:
    """Half the sum of independent differences, such as those of C.R. and S.S. for T.S.

    The interval is that of ``half_sum_interval``. Counts are added up.
    """
    value = sum(one.value for one in differences) / 2
    low, high = half_sum_interval(*((one.value, one.low, one.high) for one in differences))
    better, worse = (sum(getattr(one, name) for one in differences) for name in ("better", "worse"))
    return PairedDifference(value, low, high, better, worse, sum(one.n for one in differences))


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


def _adjust(changes: Sequence[Fraction]) -> tuple[float, float]:
    """Centre and half width of the interval: of the changes and one more pair on either side."""
    n = len(changes) + 2
    mean = float(sum(changes, Fraction())) / n
    square = (float(sum((one * one for one in changes), Fraction())) + 2) / n
    return mean, Z * math.sqrt((square - mean**2) / n)
