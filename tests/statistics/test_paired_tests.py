"""Holm's correction is the step-down procedure; intervals of pairs are those of the formula."""

import math
from fractions import Fraction
from itertools import product
from statistics import mean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.statistics.paired_tests import (
    PairedDifference,
    half_sum,
    holm,
    mcnemar,
    paired_changes,
    paired_difference,
    sign_flip_p,
)


def one_seed(first, second):
    """Changes of two methods that were fitted once."""
    return paired_changes([[one] for one in first], [[other] for other in second])


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
    there = paired_difference(one_seed(first, second))
    back = paired_difference(one_seed(second, first))
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
    found = paired_difference(one_seed(first, second))
    half = 1.959964 * math.sqrt((13 / 32 - (7 / 32) ** 2) / 32)
    assert (found.low, found.high) == pytest.approx((7 / 32 - half, 7 / 32 + half), abs=1e-6)


def test_mcnemar_is_the_exact_sign_test():
    for one in range(13):
        for other in range(13):
            n, few = one + other, min(one, other)
            tail = sum(math.comb(n, k) for k in range(few + 1)) / 2**n
            assert mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))


def test_without_pairs_nothing_is_known():
    assert math.isnan(paired_difference([]).value)
    assert math.isnan(sign_flip_p([]))


class TestSeveralSeeds:
    def test_a_prompt_counts_by_the_share_of_seeds(self):
        changes = paired_changes([[True, True, False], [False, False, False]], [[False], [True]])
        assert changes == (Fraction(2, 3), Fraction(-1))
        found = paired_difference(changes)
        assert (found.better, found.worse, found.n) == (pytest.approx(2 / 3), 1.0, 2)
        assert found.value == pytest.approx(-1 / 6)
        # The two prompts and one more pair on either side.
        numbers = [2 / 3, -1.0, 1.0, -1.0]
        half = 1.959964 * math.sqrt(pvariance(numbers) / 4)
        assert found.high == pytest.approx(mean(numbers) + half, abs=1e-6)

    def test_seeds_that_agree_change_nothing(self):
        first, second = [True] * 9 + [False] * 4, [False] * 9 + [True] * 4
        once = one_seed(first, second)
        thrice = paired_changes([[one] * 3 for one in first], [[one] * 2 for one in second])
        assert thrice == once
        assert sign_flip_p(thrice) == pytest.approx(mcnemar(9, 4))

    @given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
    def test_with_one_seed_the_test_is_that_of_mcnemar(self, better, worse, level):
        changes = [Fraction(1)] * better + [Fraction(-1)] * worse + [Fraction(0)] * (level + 1)
        assert sign_flip_p(changes) == pytest.approx(mcnemar(better, worse), rel=1e-9)

    @given(st.lists(st.integers(-6, 6).map(lambda k: Fraction(k, 6)), min_size=1, max_size=8))
    def test_p_is_the_share_of_all_signs_that_go_as_far(self, changes):
        sums = [
            abs(sum(sign * one for sign, one in zip(signs, changes, strict=True)))
            for signs in product((1, -1), repeat=len(changes))
        ]
        share = sum(one >= abs(sum(changes)) for one in sums) / len(sums)
        assert sign_flip_p(changes) == pytest.approx(share)

    def test_more_seeds_of_the_same_prompts_are_no_more_prompts(self):
        # Right on 3 prompts of 3 that the other gets wrong, with any number of seeds.
        for seeds in (1, 2, 5):
            changes = paired_changes([[True] * seeds] * 3, [[False] * seeds] * 3)
            assert sign_flip_p(changes) == pytest.approx(2 * 0.5**3)

    def test_equal_methods_are_called_different_no_more_often_than_promised(self):
        import numpy as np

        rng, called = np.random.default_rng(1), 0
        for _ in range(400):
            ease = rng.random(40)[:, None]  # of each prompt, the same for both
            first, second = (rng.random((40, 3)) < ease for _ in range(2))
            changes = paired_changes(first.tolist(), second.tolist())
            called += sign_flip_p(changes) < 0.05
        assert 5 <= called <= 32  # 20 are expected; four standard deviations either way


def test_the_mean_of_two_differences_squares_their_distances():
    one = PairedDifference(0.2, 0.1, 0.4, 3.0, 1.0, 10)
    other = PairedDifference(0.0, -0.3, 0.1, 2.0, 2.0, 5)
    found = half_sum(one, other)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - math.sqrt(0.1**2 + 0.3**2) / 2)
    assert found.high == pytest.approx(0.1 + math.sqrt(0.2**2 + 0.1**2) / 2)
    assert (found.better, found.worse, found.n) == (5, 3, 15)
