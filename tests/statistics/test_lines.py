"""Law: a line is that of scipy, its root is where it is zero, and what is not known is NaN."""

import math

import numpy as np
import pytest
from scipy import stats

from actor_lens.statistics.lines import Line


def line(x: np.ndarray, y: np.ndarray, rounds: int = 500, seed: int = 1) -> Line:
    return Line(x, y, rounds=rounds, rng=np.random.default_rng(seed))


def noisy(n: int, seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, n)
    return x, 0.5 * (x - 1.0) + noise * rng.normal(size=n)


def test_the_line_is_that_of_scipy():
    x, y = noisy(40, 0)
    fitted, expected = line(x, y), stats.linregress(x, y)
    assert fitted.slope.value == pytest.approx(expected.slope, rel=1e-12)
    assert fitted.intercept.value == pytest.approx(expected.intercept, rel=1e-12)
    assert fitted.correlation.value == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-12)
    assert fitted.intercept.value + fitted.slope.value * fitted.root.value == pytest.approx(0)
    assert fitted.correlation.n == 40


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = {"slope": 0.5, "root": 1.0, "intercept": -0.5}
    fits = [line(*noisy(60, s, noise=0.5), rounds=400, seed=1000 + s) for s in range(100)]
    for name, value in truth.items():
        parts = [getattr(fit, name) for fit in fits]
        # 92 are expected, give or take 3; intervals that are too wide would hold it always.
        assert 86 <= sum(part.low <= value <= part.high for part in parts) <= 98


def test_a_straight_line_is_known_exactly():
    fitted = line(np.arange(5.0), 2 * np.arange(5.0) - 3)
    for name, value in {"correlation": 1.0, "slope": 2.0, "root": 1.5, "intercept": -3.0}.items():
        part = getattr(fitted, name)
        assert (part.value, part.low, part.high) == pytest.approx((value, value, value))


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4]), ([], [])]
)
def test_of_too_few_points_or_a_constant_nothing_is_known(x, y):
    fitted = line(np.array(x, dtype=float), np.array(y, dtype=float))
    for part in (fitted.correlation, fitted.slope, fitted.intercept, fitted.root):
        assert math.isnan(part.value)
        assert part.n == 0
