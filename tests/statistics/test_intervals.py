"""Intervals agree with SciPy, with published values, and with the share of trials they promise."""

import numpy as np
import pytest
from scipy import stats

from actor_lens.statistics.intervals import half_sum_interval, wilson_interval

# ---- Wilson ----


@pytest.mark.parametrize("n", [1, 2, 7, 60, 500])
def test_wilson_agrees_with_scipy(n: int):
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        found = wilson_interval(successes, n)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(successes: int, n: int, low: float, high: float):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_touches_the_edges_exactly():
    for n in range(1, 60):
        assert wilson_interval(0, n)[0] == 0.0
        assert wilson_interval(n, n)[1] == 1.0
        low, high = wilson_interval(n, n)
        mirrored = wilson_interval(0, n)
        assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_wilson_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


# ---- The mean of two ----


def test_the_interval_of_a_mean_covers_the_true_mean_about_95_times_in_100():
    rng, hits = np.random.default_rng(0), 0
    truth = (0.9, 0.6)
    for _ in range(1000):
        shares = [rng.binomial(60, p) / 60 for p in truth]
        parts = [(share, *wilson_interval(60 * share, 60)) for share in shares]
        low, high = half_sum_interval(*parts)
        hits += low <= sum(truth) / 2 <= high
    assert 920 <= hits <= 980
