"""Thinning keeps the extremes and its bound; rows without a number are not drawn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.figures import frames
from tests.figures.results import prompt_table


@given(st.integers(0, 5000), st.integers(2, 300))
def test_even_positions_are_bounded_sorted_and_hold_both_ends(count, limit):
    positions = frames.evenly(count, limit)
    assert len(positions) == min(count, limit)
    assert (np.diff(positions) > 0).all()
    if count:
        assert (positions[0], positions[-1]) == (0, count - 1)


def test_thinning_keeps_the_smallest_and_the_largest():
    rows = pd.DataFrame({"value": np.random.default_rng(0).permutation(1000)})
    kept = frames.thinned(rows, "value", 10)
    assert len(kept) == 10
    assert (kept["value"].min(), kept["value"].max()) == (0, 999)


def test_rows_with_a_missing_or_infinite_number_are_left_out():
    rows = pd.DataFrame({"a": [1.0, np.nan, 3.0, np.inf], "b": [1.0, 2.0, np.nan, 4.0]})
    assert frames.finite_rows(rows, ["a", "b"]).index.tolist() == [0]


def test_labels_come_in_the_order_of_the_figures():
    rows = pd.DataFrame({"label": ["benign", "harmful", "benign"]})
    assert frames.labels_in(rows) == ["harmful", "benign"]


def test_a_layer_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match=r"layer 9 is not .* \(0 to 3\)"):
        frames.require_layer([0, 1, 2, 3], 9)
    frames.require_layer([0, 1], None)


def test_hovers_escape_the_category_too():
    rows = prompt_table(1, ("benign",)).assign(category="<b>games</b>")
    assert "&lt;b&gt;games&lt;/b&gt;" in frames.prompt_hovers(rows)[0]
    unknown = frames.prompt_hovers(rows.assign(category=None))[0]
    assert "<i>" not in unknown


def test_scatter_is_the_same_each_time_and_within_its_width():
    offsets = frames.scattered(200, 0.3)
    assert np.array_equal(offsets, frames.scattered(200, 0.3))
    assert np.abs(offsets).max() <= 0.15
    assert np.unique(offsets).size == 200
