"""Holm's correction is the step-down procedure; intervals of pairs are those of the formula."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.paired_tests import (
    PairedDifference,
    holm,
    mean_interval,
    mean_of_differences,
    paired_difference,
)


def rejected_step_by_step(p_values, level):
    """Holm's procedure as it is told: from the smallest p on, until one is not small enough."""
    left, rejected = list(range(len(p_values))), set()
    while left:
        smallest = min(left, key=lambda index: p_values[index])
        if p_values[smallest] > level / len(left):
            break
        rejected.add(smallest)
        left.remove(smallest)
    return rejected


P = st.floats(0, 1, allow_nan=False)


@given(st.lists(P, max_size=8), st.floats(0.001, 0.5))
def test_a_corrected_p_below_a_level_is_a_rejection_at_that_level(p_values, level):
    corrected = holm(p_values)
    # A hair beside the level rounding decides.
    if any(abs(p - level) < 1e-9 for p in corrected):
        return
    found = {index for index, p in enumerate(corrected) if p < level}
    assert found == rejected_step_by_step(p_values, level)


def test_corrected_values_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.permutations([0.001, 0.02, 0.02, 0.3, 0.9]))
def test_the_order_plays_no_part(shuffled):
    by_value = dict(zip(shuffled, holm(shuffled), strict=True))
    assert by_value == dict(
        zip([0.001, 0.02, 0.02, 0.3, 0.9], holm([0.001, 0.02, 0.02, 0.3, 0.9]), strict=True)
    )


def test_what_was_not_tested_does_not_count():
    corrected = holm([0.02, math.nan, 0.03])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_turning_the_pair_around_turns_the_difference_around(pairs):
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.value == pytest.approx((sum(first) - sum(second)) / len(pairs))
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )
    assert (there.better, there.worse, there.n) == (back.worse, back.better, len(pairs))
    assert -1 <= there.low <= there.value <= there.high <= 1


def test_the_interval_of_a_known_table():
    # 30 pairs, 9 one way and 2 the other: p = 10/32, q = 3/32.
    first = [True] * 9 + [False] * 2 + [True] * 19
    second = [False] * 9 + [True] * 2 + [True] * 19
    found = paired_difference(first, second)
    half = 1.959964 * math.sqrt((13 / 32 - (7 / 32) ** 2) / 32)
    assert (found.low, found.high) == pytest.approx((7 / 32 - half, 7 / 32 + half), abs=1e-6)


def test_without_pairs_nothing_is_known():
    assert math.isnan(paired_difference([], []).value)


def test_the_mean_of_two_differences_squares_their_distances():
    one = PairedDifference(0.2, 0.1, 0.4, 3, 1, 10)
    other = PairedDifference(0.0, -0.3, 0.1, 2, 2, 5)
    found = mean_of_differences(one, other)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - math.sqrt(0.1**2 + 0.3**2) / 2)
    assert found.high == pytest.approx(0.1 + math.sqrt(0.2**2 + 0.1**2) / 2)
    assert (found.better, found.worse, found.n) == (5, 3, 15)


def test_the_interval_of_a_mean_covers_the_true_mean_about_95_times_in_100():
    import numpy as np

    from actor_lens.separation import wilson_interval

    rng, hits = np.random.default_rng(0), 0
    truth = (0.9, 0.6)
    for _ in range(1000):
        shares = [rng.binomial(60, p) / 60 for p in truth]
        parts = [(share, *wilson_interval(60 * share, 60)) for share in shares]
        low, high = mean_interval(*parts)
        hits += low <= sum(truth) / 2 <= high
    assert 920 <= hits <= 980
