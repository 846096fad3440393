"""The figures of ablations draw means and spreads over the seeds, and the matrix cell by cell."""

from dataclasses import replace

import numpy as np
import pytest

from actor_lens import figures
from actor_lens.errors import UserError
from tests.figures.results import ablations


def test_numbers_are_lines_with_a_band_from_the_lowest_to_the_highest_seed():
    traces = figures.ablation_scores(ablations(), "alpha").data
    assert len(traces) == 8
    band, line = traces[:2]
    assert sorted(band.y) == pytest.approx([0.4, 0.4, 0.7, 0.7])
    assert (list(line.x), list(line.y)) == ([0.5, 1.0], [0.5, 0.5])


def test_layers_stand_on_a_scale_that_begins_at_0():
    outcome = ablations()
    layers = outcome.table[outcome.table["series"] == "alpha"].assign(
        series="layer", factor="layer"
    )
    layers["number"] = np.where(layers["number"] == 1, 7.0, 0.0)
    axis = figures.ablation_scores(replace(outcome, table=layers), "layer").layout.xaxis
    assert (axis.type, list(axis.tickvals)) == (None, [0.0, 7.0])


def test_names_are_points_on_their_own_places():
    figure = figures.ablation_scores(ablations(), "origin")
    assert list(figure.layout.xaxis.ticktext) == ["zero", "benign mean"]
    assert all(np.abs(np.array(trace.x) - [0, 1]).max() < 0.3 for trace in figure.data)
    assert list(figure.data[0].error_y.arrayminus) == pytest.approx([0.1, 0.1])


def test_series_of_numbers_stand_on_one_scale():
    (line,) = figures.ablation_series(ablations(), "alpha", score="moved").data
    assert (list(line.x), list(line.y), line.name) == ([0.5, 1.0], [0.5, 0.5], "alpha")
    assert list(line.error_y.array) == pytest.approx([0.2, 0.2])
    assert not figures.ablation_series(ablations(), "origin").data
    with pytest.raises(UserError, match="use one of alpha, origin"):
        figures.ablation_series(ablations(), "layer")


def test_an_unknown_series_names_those_there_are():
    with pytest.raises(UserError, match=r"use one of \['alpha', 'origin'\]"):
        figures.ablation_scores(ablations(), "layer")


def test_the_matrix_has_a_cell_for_every_pair():
    (heat,) = figures.transfer_matrix(ablations()).data
    assert np.array(heat.z) == pytest.approx(np.linspace(0, 1, 6).reshape(2, 3))
    assert (list(heat.y), list(heat.x)) == (["games", "garden"], ["games", "garden", "music"])
    assert "was not run" in figures.transfer_matrix(ablations(), split="ood").to_json()
