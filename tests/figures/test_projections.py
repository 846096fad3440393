"""The drawn medians, bands and points are those of the table, by an independent computation."""

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.figures import layer_map, projections_by_layer, prompt_shifts
from actor_lens.figures.projections import POINTS_PER_LABEL, POINTS_PER_LAYER
from tests.figures.results import LABELS, NASTY, Map, Projected, projections, prompt_table, targets
from tests.figures.traces import trace, traces


def values(result, label, layer):
    rows = [
        row
        for row in result.table.to_dict("records")
        if (row["label"], row["layer"]) == (label, layer)
    ]
    return sorted(row["projection"] for row in rows)


def test_medians_and_bands_are_the_quartiles_of_each_layer():
    result = projections(per_label=9)
    figure = projections_by_layer(result)
    for label in LABELS:
        median, band = (trace(figure, kind, label=label) for kind in ("median", "band"))
        for layer in range(5):
            ordered = values(result, label, layer)  # of nine values the quartiles are members
            assert median.y[layer] == pytest.approx(ordered[4])
            assert band.y[layer] == pytest.approx(ordered[2])
            assert band.y[-1 - layer] == pytest.approx(ordered[6])


def test_medians_differ_by_symbol_and_dash():
    medians = traces(projections_by_layer(projections()), "median")
    assert [m.marker.symbol for m in medians] == ["x", "diamond", "circle"]
    assert [m.line.dash for m in medians] == ["solid", "dash", "dot"]
    assert [m.name for m in medians] == ["harmful", "pseudo-harmful", "benign"]


def test_points_lie_at_their_prompts_projections():
    result = projections(per_label=4)
    points = trace(projections_by_layer(result), "points", label="pseudo_harmful")
    for (prompt_index, layer), y in zip(points.customdata, points.y, strict=True):
        row = result.table.query(f"prompt_index == {prompt_index} and layer == {layer}")
        assert row["projection"].item() == pytest.approx(y)


def test_points_are_thinned_to_the_same_prompts_at_every_layer_with_the_extremes():
    result = projections(per_label=300, n_layers=4)
    points = trace(projections_by_layer(result, layer=2), "points", label="harmful")
    shown = [{int(p) for p, layer in points.customdata if layer == k} for k in range(4)]
    assert len(shown[0]) == POINTS_PER_LAYER
    assert all(prompts == shown[0] for prompts in shown)
    at = result.table.query("label == 'harmful' and layer == 2").set_index("prompt_index")
    assert {at["projection"].idxmin(), at["projection"].idxmax()} <= shown[0]


def test_the_layer_is_marked_and_the_origin_named():
    result = projections()
    figure = projections_by_layer(result, layer=3, origin="benign_mean")
    assert result.asked == ["benign_mean"]
    assert [shape.x0 for shape in figure.layout.shapes] == [3]
    assert [note.text for note in figure.layout.annotations] == ["layer 3"]
    assert "origin: benign mean" in figure.layout.yaxis.title.text


def test_a_layer_out_of_range_is_refused():
    with pytest.raises(UserError, match="layer 5"):
        projections_by_layer(projections(), layer=5)


@pytest.mark.parametrize(("per_label", "n_layers"), [(1, 1), (1, 3), (5, 1)])
def test_few_prompts_and_layers_draw(per_label, n_layers):
    figure = projections_by_layer(projections(per_label, n_layers), layer=0)
    assert len(traces(figure, "median")) == 3
    band = trace(figure, "band", label="benign")
    assert np.ptp(np.asarray(band.x)) > 0


def test_missing_labels_have_no_traces():
    figure = projections_by_layer(projections(labels=("harmful", "benign")))
    assert {t.meta["label"] for t in figure.data} == {"harmful", "benign"}


def test_values_that_are_not_numbers_are_left_out():
    result = projections()
    result.table.loc[::3, "projection"] = np.nan
    figure = projections_by_layer(result)
    assert all(np.isfinite(np.asarray(t.y)).all() for t in figure.data)
    result.table["projection"] = np.nan
    assert projections_by_layer(result).layout.annotations[0].text == "no projections to show"


def test_a_thousand_prompts_by_thirty_two_layers_stay_small():
    result = projections(per_label=333, n_layers=32)
    result.table["prompt"] = "How do I stop this very long sentence from growing on and on? " * 3

    figure = projections_by_layer(result)
    assert all(len(t.y) <= POINTS_PER_LABEL for t in traces(figure, "points"))
    assert len(figure.to_json()) < 1_000_000


def mapped(**changes):
    table = prompt_table(5)
    rng = np.random.default_rng(3)
    return Map(table.assign(x=rng.normal(size=15), y=rng.normal(size=15)), **changes)


def test_a_map_draws_each_prompt_where_the_table_says():
    result = mapped()
    figure = layer_map(result)
    for label in LABELS:
        points, rows = trace(figure, "points", label=label), result.table.query("label == @label")
        assert np.array_equal(points.x, rows["x"])
        assert np.array_equal(points.y, rows["y"])
    assert [t.marker.symbol for t in figure.data] == ["x", "diamond", "circle"]


def test_a_map_has_equal_scales_and_its_axes_escaped():
    layout = layer_map(mapped()).layout
    assert (layout.yaxis.scaleanchor, layout.yaxis.scaleratio) == ("x", 1)
    assert layout.title.text == "Prompts at layer 3: principal components"
    assert layout.yaxis.title.text == "PC 2 (&lt;9&#37;)"


def test_a_tsne_map_warns_of_its_distances_and_shows_no_units():
    layout = layer_map(mapped(method="tsne")).layout
    assert "t-SNE" in layout.title.text
    assert "mean nothing" in layout.title.subtitle.text
    assert layout.xaxis.showticklabels is False


def test_shifts_pair_each_prompt_with_itself():
    before, after = projections(seed=0), projections(seed=1)
    shuffled = Projected(after.table.sample(frac=1, random_state=0))
    figure = prompt_shifts(before, shuffled, 2)
    for label in LABELS:
        points = trace(figure, "points", label=label)
        for prompt_index, x, y in zip(points.customdata, points.x, points.y, strict=True):
            here = f"prompt_index == {prompt_index} and layer == 2"
            assert before.table.query(here)["projection"].item() == pytest.approx(x)
            assert after.table.query(here)["projection"].item() == pytest.approx(y)
    identity = trace(figure, "identity")
    assert np.array_equal(identity.x, identity.y)


def test_shifts_show_the_targets_once_in_the_legend():
    wanted = targets()
    figure = prompt_shifts(projections(), projections(seed=1), 4, targets=wanted)
    shown = traces(figure, "target")
    assert [bool(t.showlegend) for t in shown] == [True, False, False]
    rows = wanted.table.query("label == 'benign'")
    assert np.array_equal(shown[2].y, rows["after"])
    assert shown[2].marker.symbol == "circle-open"


def test_shifts_of_different_prompts_are_refused():
    with pytest.raises(UserError, match="project the same prompts"):
        prompt_shifts(projections(), projections(per_label=7), 2)
    with pytest.raises(UserError, match="layer 8"):
        prompt_shifts(projections(), projections(), 8)


def test_prompts_are_escaped_in_every_hover():
    result = projections(per_label=1, n_layers=2)
    result.table["prompt"] = NASTY
    shown = [projections_by_layer(result), prompt_shifts(result, result, 1)]
    plane = mapped()
    plane.table["prompt"] = NASTY
    for figure in [*shown, layer_map(plane)]:
        assert "<script" not in figure.to_json()
        assert "\\u003cscript" not in figure.to_json()
        assert "&lt;script" in str(figure.to_plotly_json())


def test_points_can_be_left_out_and_lines_added():
    result = projections()
    lines = {"mine <b>": [1.0, 2.0, 3.0, 4.0, 5.0]}
    figure = projections_by_layer(result, points=False, lines=lines)
    assert traces(figure, "points") == []
    line = trace(figure, "line", place=0)
    assert list(line.y) == lines["mine <b>"]
    assert list(line.x) == [0, 1, 2, 3, 4]
    assert line.name == "mine &lt;b&gt;"
    plain = projections_by_layer(result)
    assert trace(plain, "median", label="benign") == trace(figure, "median", label="benign")


@pytest.mark.parametrize("n_lines", [0, 1, 3])
def test_room_for_lines_keeps_the_traces_the_same(n_lines):
    lines = {f"line {number}": [float(number)] * 5 for number in range(n_lines)}
    figure = projections_by_layer(projections(), points=False, lines=lines, room_for_lines=2)
    drawn = traces(figure, "line")
    assert [line.meta["place"] for line in drawn] == list(range(max(2, n_lines)))
    assert [line.name for line in drawn if line.showlegend] == list(lines)
    assert [list(line.y) for line in drawn if line.showlegend] == list(lines.values())
