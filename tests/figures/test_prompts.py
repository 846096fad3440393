"""At one layer each prompt stands at its projection, at a place that no layer changes.

A token's colour is where it is between the mean benign and the mean harmful prompt.
"""

from itertools import pairwise

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.figures import projections_by_layer, prompts_at_layer, token_heatmap
from actor_lens.figures.prompts import FEW, MOST_TOKENS, STRIP_WIDTH
from tests.figures.results import LABELS, NASTY, Tokens, projections, token_table
from tests.figures.traces import trace


@pytest.mark.parametrize("layer", [0, 3])
def test_heights_are_the_projections_of_the_layer(layer):
    found = projections()
    figure = prompts_at_layer(found, layer, origin="midpoint")
    assert found.asked == ["midpoint"]
    for label in LABELS:
        rows = found.table.query("label == @label and layer == @layer")
        drawn = trace(figure, "points", label=label)
        assert np.array_equal(drawn.y, rows["projection"])
        assert list(drawn.customdata) == rows["prompt_index"].tolist()
        assert len(drawn.text) == len(rows)


def test_only_heights_differ_between_layers():
    one, other = (prompts_at_layer(projections(), layer) for layer in (1, 4))
    for first, second in zip(one.data, other.data, strict=True):
        assert np.array_equal(first.x, second.x)
        assert first.text == second.text
        assert not np.array_equal(first.y, second.y)


def test_labels_stand_apart():
    figure = prompts_at_layer(projections(50), 2)
    spans = [(min(t.x), max(t.x)) for t in figure.data]
    assert all(one[1] < other[0] for one, other in pairwise(spans))


def test_many_prompts_are_boxes_of_quantiles_and_few_points():
    found = projections(120)
    ranked = found.table.query("label == 'benign' and layer == 2").sort_values("projection")
    chosen = int(ranked["prompt_index"].iloc[2])
    figure = prompts_at_layer(found, 2, selected=[chosen])
    for place, label in enumerate(LABELS):
        values = found.table.query("label == @label and layer == 2").set_index("prompt_index")
        boxes, points = trace(figure, "boxes", of=label), trace(figure, "points", label=label)
        x, y = np.array(boxes.x), np.array(boxes.y)
        assert (x[0], y[0]) == (place, values["projection"].min())
        assert np.isclose(y.max(), values["projection"].max())
        widths = np.unique(np.round(x - place, 9))
        assert np.array_equal(widths, -widths[::-1])  # the same on both sides
        for width, middle in ((1.0, 50), (0.6, 80), (0.3, 95)):
            ends = y[np.isclose(np.abs(x - place), width * STRIP_WIDTH / 2)]
            share = np.array([50 - middle / 2, 50 + middle / 2])
            expected = np.percentile(values["projection"], share)
            assert np.isclose(ends, expected[0]).any()
            assert np.isclose(ends, expected[1]).any()
        assert np.isclose(y, values["projection"].median()).sum() >= 4
        drawn = list(points.customdata)
        assert len(drawn) - FEW == (label == "benign")
        assert np.array_equal(points.y, values.loc[drawn, "projection"])
        assert {values["projection"].idxmin(), values["projection"].idxmax()} <= set(drawn)
    assert chosen in trace(figure, "points", label="benign").customdata
    assert {one.meta["kind"] for one in prompts_at_layer(projections(100), 2).data} == {"points"}


def test_the_selection_is_drawn_in_full_and_only_where_there_is_one():
    figure = prompts_at_layer(projections(), 2, selected=[1, 9])
    chosen = {t.meta["label"]: t.selectedpoints for t in figure.data}
    assert chosen == {"harmful": (1,), "pseudo_harmful": (1,), "benign": ()}
    assert all(t.selectedpoints is None for t in prompts_at_layer(projections(), 2).data)


def test_a_table_is_drawn_as_it_is():
    found = projections()
    by_table = prompts_at_layer(found.table, 2)
    assert by_table.to_json() == prompts_at_layer(found, 2).to_json()


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match="layer 9"):
        prompts_at_layer(projections(), 9)


def test_tokens_are_coloured_by_where_they_are_between_the_means():
    figure = token_heatmap(Tokens(token_table()), layer=2)
    (drawn,) = figure.data
    expected = [[layer - place / 10 for place in range(4)] for layer in range(4)]
    np.testing.assert_allclose(drawn.z, expected)
    assert drawn.customdata[3].tolist() == [30.0, 31.0, 32.0, 33.0]
    assert drawn.zmin == -drawn.zmax
    assert figure.layout.xaxis.ticktext == ("&lt;s&gt;", "How", "␣to", "␣kill")
    (mark,) = figure.layout.shapes
    assert (mark.y0, mark.y1) == (1.5, 2.5)


def test_of_a_very_long_prompt_the_last_tokens_are_drawn():
    texts = tuple(f"t{n}" for n in range(MOST_TOKENS + 5))
    figure = token_heatmap(Tokens(token_table(2, texts)))
    assert figure.data[0].z.shape == (2, MOST_TOKENS)
    assert figure.layout.xaxis.ticktext[-1] == f"t{MOST_TOKENS + 4}"


def test_text_from_outside_is_text():
    texts = "".join(
        map(str, token_heatmap(Tokens(token_table(2, (NASTY, "b")))).to_dict().values())
    )
    assert "<script" not in texts
    table = projections().table.assign(prompt=NASTY)
    assert "<script" not in prompts_at_layer(table, 1).to_json()


def test_nothing_to_draw_is_said():
    empty = Tokens(token_table().iloc[:0])
    assert token_heatmap(empty).layout.annotations[0].text == "no tokens to show"


def test_a_prompt_is_no_template():
    lines = {"use %{y} & $x$": [1.0, 2.0, 3.0, 4.0, 5.0]}
    line = projections_by_layer(projections(), lines=lines).data[-1]
    assert "%{y}" not in line.name
    assert "%{y}" not in line.hovertemplate.split("<extra>")[1]
    drawn = prompts_at_layer(projections().table.assign(prompt="use %{y}"), 1)
    assert all("%{y}" not in text for trace in drawn.data for text in trace.text)
