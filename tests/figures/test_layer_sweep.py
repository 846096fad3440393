"""The figure of a sweep shows every outcome at its layer, with its interval and what was before."""

from types import SimpleNamespace

import numpy as np
import pytest

from actor_lens import figures
from tests.figures.results import LABELS, Sweep, sweep_table


def test_every_cell_is_a_point_with_its_interval():
    table = sweep_table(alphas=(0.5, 1.0))
    figure = figures.layer_outcomes(Sweep(table))
    points = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert set(points) == {"harmful", "pseudo-harmful", "benign"}
    for label, name in zip(LABELS, ("harmful", "pseudo-harmful", "benign"), strict=True):
        trace = points[name]
        assert list(trace.x) == table["layer"].tolist()
        assert list(trace.y) == table[f"refused_{label}"].tolist()
        top = np.add(trace.y, trace.error_y.array)
        bottom = np.subtract(trace.y, trace.error_y.arrayminus)
        assert top == pytest.approx(table[f"refused_{label}_high"].to_numpy())
        assert bottom == pytest.approx(table[f"refused_{label}_low"].to_numpy())
        assert trace.text[0] == "layer 0, alpha 0.5, seed 0"


def test_lines_join_the_means_of_a_layer():
    table = sweep_table(alphas=(0.5, 1.0))
    figure = figures.layer_outcomes(Sweep(table))
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    means = table.groupby("layer")["refused_harmful"].mean()
    assert list(lines[0].x) == list(means.index)
    assert list(lines[0].y) == means.tolist()


def test_what_was_before_and_the_best_layer_are_marked():
    before = {"harmful": 1.0, "pseudo_harmful": 0.8, "benign": 0.1}
    sweep = Sweep(sweep_table(), refused_before=before, best=SimpleNamespace(layer=3))
    shapes = figures.layer_outcomes(sweep).layout.shapes
    assert sorted(shape.y0 for shape in shapes if shape.y0 == shape.y1) == [0.1, 0.8, 1.0]
    assert [shape.x0 for shape in shapes if shape.x0 == shape.x1] == [3]


def test_a_sweep_without_validation_says_so():
    table = sweep_table().filter(regex="layer|alpha|seed")
    figure = figures.layer_outcomes(Sweep(table))
    assert not figure.data
    assert "no outcomes on validation prompts" in figure.layout.annotations[0].text
