"""Law: each measure is the textbook's, its interval holds the truth and its band holds chance.

Numbers against scikit-learn, scipy and closed forms; intervals and bands against many simulated
data sets whose truth is known.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score, silhouette_score

from actor_lens.statistics.intervals import wilson_interval
from actor_lens.statistics.separation import (
    Measurement,
    auroc,
    gap,
    probe_accuracy,
    silhouette,
)

Points = np.ndarray
Measure = Callable[[Points, np.ndarray, np.random.Generator], Measurement]


def by_auroc(points: Points, positive: np.ndarray, rng: np.random.Generator) -> Measurement:
    return auroc(points[:, 0], positive, rounds=200, rng=rng)


def by_gap(points: Points, positive: np.ndarray, rng: np.random.Generator) -> Measurement:
    return gap(points[:, 0], positive, rounds=200, rng=rng)


def by_silhouette(points: Points, positive: np.ndarray, rng: np.random.Generator) -> Measurement:
    return silhouette(cdist(points, points), positive, rounds=200, rng=rng)


MEASURES: dict[str, Measure] = {"auroc": by_auroc, "gap": by_gap, "silhouette": by_silhouette}


def two_groups(
    rng: np.random.Generator, apart: float, n_high: int = 40, n_low: int = 40, width: int = 3
) -> tuple[Points, np.ndarray]:
    """Unit noise; the first group is ``apart`` further along the first axis. Rows shuffled."""
    positive = rng.permutation(np.arange(n_high + n_low) < n_high)
    points = rng.normal(size=(len(positive), width))
    points[positive, 0] += apart
    return points, positive


# ---- The numbers ----


@given(
    values=st.lists(st.integers(-3, 3), min_size=4, max_size=30),  # few values: many ties
    data=st.data(),
)
def test_auroc_agrees_with_sklearn_on_ties(values: list[int], data: st.DataObject):
    n_high = data.draw(st.integers(1, len(values) - 1))
    positive = np.arange(len(values)) < n_high
    numbers = np.array(values, dtype=float)
    found = auroc(numbers, positive, rounds=5, rng=np.random.default_rng(0))
    assert found.value == pytest.approx(roc_auc_score(positive, numbers), abs=1e-12)


@pytest.mark.parametrize(("n_high", "n_low"), [(20, 20), (5, 40), (31, 2)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_gap_is_the_difference_in_pooled_standard_deviations(
    n_high: int, n_low: int, offset: float
):
    rng = np.random.default_rng(n_low)
    points, positive = two_groups(rng, 1.5, n_high, n_low)
    high, low = points[positive, 0], points[~positive, 0]
    expected = (high.mean() - low.mean()) / math.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2)
    found = gap(points[:, 0] + offset, positive, rounds=5, rng=rng)
    assert found.value == pytest.approx(expected, rel=1e-6)


def test_gap_has_the_sign_of_the_difference():
    rng = np.random.default_rng(0)
    points, positive = two_groups(rng, 3.0)
    there, back = by_gap(points, positive, rng), by_gap(points, ~positive, rng)
    assert there.value == pytest.approx(-back.value)
    assert there.value > 0


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4 / 3])
def test_gap_of_groups_without_spread_is_not_known(offset: float):
    rng = np.random.default_rng(0)
    positive = np.arange(9) < 4
    apart = gap(np.where(positive, 0.7, 0.3) + offset, positive, rounds=20, rng=rng)
    assert math.isnan(apart.value)
    assert math.isnan(apart.low)
    equal = gap(np.full(9, 0.7) + offset, positive, rounds=20, rng=rng)
    assert all(math.isnan(number) for number in vars(equal).values())


def test_two_prompts_a_group_give_a_gap_with_an_interval():
    values = np.array([0.0, 1.0, 5.0, 6.0])
    found = gap(values, values > 3, rounds=200, rng=np.random.default_rng(0))
    assert found.value == pytest.approx(5 / math.sqrt(0.5))
    assert 0 < found.low <= found.value <= found.high < np.inf


@pytest.mark.parametrize(("n_high", "n_low"), [(20, 20), (7, 30), (2, 12), (1, 5)])
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_silhouette_agrees_with_sklearn(n_high: int, n_low: int, apart: float):
    rng = np.random.default_rng(n_high)
    points, positive = two_groups(rng, apart, n_high, n_low)
    found = by_silhouette(points, positive, rng)
    assert found.value == pytest.approx(silhouette_score(points, positive), abs=1e-12)


def test_silhouette_of_points_at_one_place_is_zero():
    positive = np.arange(6) < 3
    found = silhouette(np.zeros((6, 6)), positive, rounds=5, rng=np.random.default_rng(0))
    assert found == Measurement(0.0, 0.0, 0.0, 0.0, 0.0)


def test_silhouette_interval_is_as_wide_as_fresh_data_sets_scatter():
    rng = np.random.default_rng(3)
    drawn = [two_groups(rng, 2.0, 60, 30) for _ in range(150)]
    scatter = np.std([silhouette_score(points, positive) for points, positive in drawn])
    found = [by_silhouette(points, positive, rng) for points, positive in drawn[:20]]
    widths = [one.high - one.low for one in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * scatter, rel=0.2)


@pytest.mark.parametrize(("n_high", "n_low"), [(30, 30), (4, 60)])
def test_auroc_of_groups_that_do_not_overlap_stays_in_doubt(n_high: int, n_low: int):
    rng = np.random.default_rng(0)
    points, positive = two_groups(rng, 50.0, n_high, n_low)
    upright, reversed_ = by_auroc(points, positive, rng), by_auroc(points, ~positive, rng)
    assert (upright.value, upright.high) == (1.0, 1.0)
    assert (reversed_.value, reversed_.low) == (0.0, 0.0)
    # The lower end t solves (1 - t)^2 = 1.96^2 Var(t) with Newcombe's form of the variance.
    t, n = upright.low, (n_high + n_low) / 2 - 1
    variance = t * (1 - t) / (n_high * n_low) * (1 + n * ((1 - t) / (2 - t) + t / (1 + t)))
    assert 0.6 < t < 0.99
    assert (1 - t) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * variance)
    assert reversed_.high == pytest.approx(1 - t)


# ---- Intervals and bands ----


def truth(name: str, apart: float) -> float:
    if name == "auroc":
        return float(stats.norm.cdf(apart / math.sqrt(2)))
    if name == "gap":
        return apart
    # No closed form: the mean over other data sets of the same kind.
    others = np.random.default_rng(99)
    return float(np.mean([silhouette_score(*two_groups(others, apart)) for _ in range(300)]))


@pytest.mark.parametrize("apart", [1.0, 2.0])
@pytest.mark.parametrize("name", MEASURES)
def test_intervals_hold_the_truth_about_95_times_in_100(name: str, apart: float):
    rng = np.random.default_rng(0)
    true, held = truth(name, apart), []
    for _ in range(250):
        found = MEASURES[name](*two_groups(rng, apart), rng)
        assert found.low <= found.value <= found.high
        held.append(found.low <= true <= found.high)
    assert 0.90 <= np.mean(held) <= 0.995


@pytest.mark.parametrize("name", MEASURES)
def test_bands_hold_about_95_of_100_null_data_sets(name: str):
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        found = MEASURES[name](*two_groups(rng, 0.0, 25, 45), rng)
        held.append(found.null_low <= found.value <= found.null_high)
    assert 0.91 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("name", MEASURES)
def test_groups_far_apart_leave_the_band(name: str):
    rng = np.random.default_rng(2)
    found = MEASURES[name](*two_groups(rng, 4.0), rng)
    assert found.low > found.null_high


@pytest.mark.parametrize("name", MEASURES)
def test_the_same_seed_gives_the_same_interval(name: str):
    points, positive = two_groups(np.random.default_rng(3), 1.0)
    first, again, other = (
        MEASURES[name](points, positive, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first.value == other.value
    assert first.null_low != other.null_low
    assert first.high != other.high


# ---- The probe ----


def test_probe_finds_what_any_direction_separates():
    points, positive = two_groups(np.random.default_rng(0), 0.0, 40, 40, width=30)
    assert probe_accuracy(points, positive, seed=0).value < 0.7
    points[positive, 17] += 8.0
    assert probe_accuracy(points, positive, seed=0).value > 0.95


def test_probe_is_no_better_than_chance_on_noise_wider_than_the_data():
    rng = np.random.default_rng(0)
    found = [
        probe_accuracy(*two_groups(rng, 0.0, 12, 30, width=60), seed=seed) for seed in range(40)
    ]
    assert np.mean([one.value for one in found]) == pytest.approx(0.5, abs=0.05)
    held = [one.null_low <= one.value <= one.null_high for one in found]
    assert np.mean(held) >= 0.875


def test_probe_weighs_the_groups_equally():
    # Always guessing the larger group is right 19 times in 20 and worth 0.5.
    points, positive = two_groups(np.random.default_rng(1), 0.0, 10, 190, width=5)
    found = probe_accuracy(points, positive, seed=0)
    assert 0.3 < found.value < 0.7
    # 10 against 190 prompts weigh as much as 19 against 19.
    assert (found.null_low, found.null_high) == pytest.approx(
        tuple(stats.binom.ppf((0.025, 0.975), 38, 0.5) / 38)
    )
    assert (found.low, found.high) == pytest.approx(wilson_interval(found.value * 38, 38))


@pytest.mark.parametrize(("n_high", "n_low", "known"), [(1, 9, False), (9, 1, False), (2, 2, True)])
def test_probe_needs_two_prompts_a_group(n_high: int, n_low: int, known: bool):
    points, positive = two_groups(np.random.default_rng(2), 9.0, n_high, n_low)
    found = probe_accuracy(points, positive, seed=0)
    assert [math.isnan(number) for number in vars(found).values()] == [not known] * 5


def test_probe_is_repeatable():
    points, positive = two_groups(np.random.default_rng(4), 1.0, 15, 20, width=8)
    assert probe_accuracy(points, positive, seed=1) == probe_accuracy(points, positive, seed=1)
