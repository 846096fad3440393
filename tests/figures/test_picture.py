"""A picture shows the numbers of the panels at places in proportion to them, and no prompt."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import plotly.graph_objects as go
import pytest

from actor_lens.figures import Panel, compose
from actor_lens.figures.picture import picture
from tests.figures.test_composition import PARTS, together


def drawn(composition):
    """The elements of a picture, which is well-formed XML."""
    return list(ET.fromstring(picture(composition)).iter())


def points_of(figure):
    """Pixels of the points of a figure that has nothing else."""
    composition = compose([Panel("one", figure, x=(0, 1), y=(0, 1))], height=400)
    [places] = [one.get("d") for one in drawn(composition) if one.get("marker-mid")]
    return np.array([pair.split() for pair in re.findall(r"\S+ \S+", places[1:])], dtype=float)


@pytest.mark.parametrize("name", PARTS)
def test_every_panel_becomes_well_formed(name):
    texts = "".join(element.text or "" for element in drawn(together(name)))
    assert name in texts  # its title


@pytest.mark.parametrize("given", [{}, {"range": [0, 10]}, {"autorange": "reversed"}])
def test_points_lie_in_proportion_to_their_values(given):
    values = np.array([1.0, 2.5, 9.0])
    points = points_of(
        go.Figure(go.Scatter(x=values, y=values**2, mode="markers"), {"yaxis": given})
    )
    for pixels, held in zip(points.T, (values, values**2), strict=True):
        assert np.diff(pixels) / np.diff(held) == pytest.approx(
            np.full(2, (pixels[-1] - pixels[0]) / (held[-1] - held[0])), rel=0.01
        )
    upward = points[-1, 1] < points[0, 1]
    assert upward == ("autorange" not in given)


def test_a_missing_value_is_no_point():
    figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[1.0, np.nan, 2.0], mode="lines+markers"))
    assert len(points_of(figure)) == 2


def test_it_holds_no_prompt_and_names_are_text():
    hostile = "&lt;script&gt;alert&#40;1&#41;&lt;/script&gt;"
    figure = go.Figure(
        go.Scatter(x=[1, 2], y=[1, 2], text=["how to", "secret"], name=hostile, showlegend=True)
    )
    elements = drawn(compose([Panel("one", figure, x=(0, 1), y=(0, 1))], height=400))
    assert "<script>alert(1)</script>" in [element.text for element in elements]
    assert not any("script" in element.tag or "secret" in str(element.text) for element in elements)


def test_whiskers_stay_within_the_panel():
    bars = {"array": [5.0, 1.0], "arrayminus": [0.5, 9.0]}
    figure = go.Figure(go.Scatter(x=[0, 1], y=[1.0, 2.0], mode="markers", error_y=bars))
    elements = drawn(compose([Panel("one", figure, x=(0, 1), y=(0, 1))], height=400))
    ends = [re.match(r"M\S+ (\S+)V(\S+)$", element.get("d", "")) for element in elements]
    heights = [float(end) for match in ends if match for end in match.groups()]
    assert len(heights) == 4
    assert 54 < min(heights) < max(heights) < 400 - 64  # the margins of a composition


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_axis_of_one_value_has_room_around_it(value):
    """As where no prompt differs from another, or the range was set so."""
    figure = go.Figure(
        go.Scatter(x=[value, value], y=[1, 2], mode="markers"), {"xaxis": {"range": [value, value]}}
    )
    composition = compose([Panel("one", figure, x=(0, 1), y=(0, 1))], height=400)
    assert f"{value:.4g}" in [element.text for element in drawn(composition)]
