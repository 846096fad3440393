"""Slider, click and trait are one layer, and the figure shows that layer's projections."""

import numpy as np
import pytest

from actor_lens.directions.layer_scores import score_layers
from actor_lens.directions.projections import project
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.widgets import LayerPicker
from tests.support.clicks import click, place_of
from tests.support.studies import N_LAYERS, planted_prompts, planted_residuals


@pytest.fixture(scope="module")
def projections():
    prompts = planted_prompts()
    directions = refusal_directions(planted_residuals(prompts.where(split="train")))
    return project(planted_residuals(prompts.where(split="validation")), directions)


@pytest.fixture(scope="module")
def scores(projections):
    return score_layers(projections, rounds=5)


def strip(picker, label):
    return picker.figure.data[place_of(picker.figure, "prompts", "points", label=label)]


def test_it_begins_where_the_scores_say_or_in_the_middle(projections, scores):
    assert LayerPicker(projections, scores, score="gap").layer == scores.best(by="gap").layer
    assert LayerPicker(projections).layer == N_LAYERS // 2


@pytest.mark.parametrize("with_scores", [True, False])
def test_slider_click_and_trait_are_one_layer(projections, scores, with_scores):
    picker = LayerPicker(projections, scores if with_scores else None)
    frame = projections.frame(origin="benign_mean")
    ways = {
        0: lambda: setattr(picker._slider, "value", 0),
        1: lambda: setattr(picker, "layer", 1),
        3: lambda: click(picker, place_of(picker.figure, "layers", "median", label="benign"), 3),
    }
    for layer, way in ways.items():
        way()
        assert picker.layer == picker._slider.value == layer
        for label in ("harmful", "benign"):
            at_layer = frame[(frame["layer"] == layer) & (frame["label"] == label)]
            assert np.array_equal(strip(picker, label).y, at_layer["projection"])


def test_a_layer_that_is_not_there_is_refused(projections):
    picker = LayerPicker(projections)
    with pytest.raises(UserError, match="layer 99 is out of range"):
        picker.layer = 99
    assert picker.layer == N_LAYERS // 2


def test_the_static_figure_has_every_layer(projections, scores):
    figure = LayerPicker(projections, scores).static()
    assert [frame.name for frame in figure.frames] == [str(layer) for layer in range(N_LAYERS)]
    assert len(figure.layout.sliders[0].steps) == N_LAYERS
