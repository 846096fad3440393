"""A composed figure draws what its parts draw: the same numbers, each within its own panel.

Axes, references and paper coordinates move with their panel; nothing of one panel lands in another.
"""

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from actor_lens import figures
from actor_lens.figures import Panel, compose
from actor_lens.figures.evaluation import rate_parts
from actor_lens.figures.targets import target_parts
from tests.figures.results import (
    Run,
    Sweep,
    evaluation,
    projections,
    scores,
    sweep_table,
    targets,
    training,
)

PARTS = {
    "layers": figures.projections_by_layer(projections(), layer=2),
    "prompts": figures.prompts_at_layer(projections(), 2),
    "scores": figures.layer_scores(scores(), layer=3),
    "outcomes": figures.layer_outcomes(Sweep(sweep_table(), {"harmful": 0.9})),
    "targets": figures.target_preview(targets()),
    "rates": figures.refusal_rates(before=evaluation(0.9, 0.5, 0.1)),
    "training": figures.training_curves(Run(training())),
    "training in columns": figures.training_curves(Run(training()), columns=2),
}
PLACES = ((0.0, 0.45), (0.55, 1.0))


def together(*names):
    return compose(
        [
            Panel(name, PARTS[name], x=PLACES[number % 2], y=PLACES[number // 2 % 2], title=name)
            for number, name in enumerate(names)
        ],
        height=700,
    )


def axis_of(figure, reference):
    letter, number = reference[0], reference.split(" ")[0][1:]
    return figure.layout[f"{letter}axis{number}"]


@pytest.fixture(params=[list(PARTS)[:4], list(PARTS)[4:], list(PARTS)[1::2]])
def names(request):
    return request.param


def test_every_trace_keeps_its_numbers_and_names_its_panel(names):
    figure = together(*names).figure()
    for name in names:
        drawn = [trace for trace in figure.data if trace.meta["panel"] == name]
        assert len(drawn) == len(PARTS[name].data)
        for trace, original in zip(drawn, PARTS[name].data, strict=True):
            for key in ("x", "y"):
                assert np.array_equal(np.asarray(trace[key]), np.asarray(original[key]))


def test_every_axis_lies_within_its_panel_and_belongs_to_one(names):
    figure = together(*names).figure()
    owners = {}
    for trace in figure.data:
        for letter in "xy":
            reference = trace[f"{letter}axis"]
            owners.setdefault(reference, set()).add(trace.meta["panel"])
            low, high = axis_of(figure, reference).domain
            place = names.index(trace.meta["panel"])
            within = PLACES[place % 2] if letter == "x" else PLACES[place // 2 % 2]
            assert within[0] - 1e-9 <= low < high <= within[1] + 1e-9
    assert all(len(panels) == 1 for panels in owners.values())


def test_marks_follow_their_panel():
    names = ["layers", "scores", "targets", "rates"]
    figure = together(*names).figure()
    counts = sum(len(PARTS[name].layout.shapes or ()) for name in names)
    assert len(figure.layout.shapes) == counts
    for mark in (*figure.layout.shapes, *figure.layout.annotations):
        for letter in "xy":
            reference = mark[f"{letter}ref"]
            if reference not in (None, "paper"):
                assert axis_of(figure, reference).domain is not None
    (name,) = [a for a in figure.layout.annotations if a.text == "harmful mean"]
    original = next(a for a in PARTS["targets"].layout.annotations if a.text == "harmful mean")
    assert name.x == original.x
    assert {name.xref} == {t.xaxis for t in figure.data if t.meta["panel"] == "targets"}


def test_paper_coordinates_become_those_of_the_panel():
    part = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    part.add_annotation(x=0.5, y=1, xref="paper", yref="paper", text="here", showarrow=False)
    part.add_annotation(x=0.25, y=0.75, text="on the axes", showarrow=False)
    other = go.Figure(go.Scatter(x=[5, 6], y=[5, 6]))
    panels = [
        Panel("other", other, x=(0.0, 0.4), y=(0.0, 1.0)),
        Panel("part", part, x=(0.5, 1.0), y=(0.2, 0.6)),
    ]
    figure = compose(panels, height=400).figure()
    paper, axes = figure.layout.annotations
    assert (paper.x, paper.y) == pytest.approx((0.75, 0.6))
    assert (axes.x, axes.y, axes.xref, axes.yref) == (0.25, 0.75, "x2", "y2")


def test_axes_that_go_together_still_do():
    part = make_subplots(rows=2, cols=1, shared_xaxes=True)
    part.add_trace(go.Scatter(x=[0], y=[0]), row=1, col=1)
    part.add_trace(go.Scatter(x=[0], y=[0]), row=2, col=1)
    panels = [Panel(name, part, x=PLACES[place], y=(0.0, 1.0)) for place, name in enumerate("ab")]
    figure = compose(panels, height=400).figure()
    assert figure.layout.xaxis3.matches == "x4"
    assert figure.layout.xaxis.matches == "x2"
    assert figure.layout.yaxis4.anchor == "x4"
    assert figure.layout.yaxis3.domain[0] > figure.layout.yaxis4.domain[1]


def test_each_name_is_in_the_legend_once_and_hidden_legends_stay_hidden():
    figure = together("layers", "outcomes", "rates").figure()
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == ["benign", "harmful", "pseudo-harmful"]


def test_keys_tell_all_traces_apart(names):
    composition = together(*names)
    keys = [trace["meta"]["key"] for trace in composition.traces]
    assert len(set(keys)) == len(keys)


def test_a_marked_layer_is_a_line_through_every_plot_of_the_panel():
    panel = Panel("scores", figures.layer_scores(scores()), x=(0.0, 1.0), y=(0.0, 1.0))
    plain = compose([panel], height=600).figure()
    marked = compose([panel.marked(3)], height=600).figure()
    lines = [shape for shape in marked.layout.shapes if shape.name == "layer"]
    assert len(marked.layout.shapes) - len(plain.layout.shapes) == len(lines) == 5
    assert {line.x0 for line in lines} == {line.x1 for line in lines} == {3}
    assert len({line.xref for line in lines}) == 5


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        (target_parts(targets())[0], PARTS["targets"]),
        (rate_parts(before=evaluation(0.9, 0.5, 0.1)), PARTS["rates"]),
    ],
    ids=["targets", "rates"],
)
def test_plain_parts_are_drawn_as_the_figure_is(part, whole):
    drawn = [
        compose([Panel("a", one, x=(0.1, 0.5), y=(0.2, 0.6))], height=300).figure().to_json()
        for one in (part, whole)
    ]
    assert drawn[0] == drawn[1]


def test_titles_are_text():
    part = go.Figure(go.Scatter(x=[0], y=[0]))
    panel = Panel("a", part, x=(0.0, 1.0), y=(0.0, 1.0), title="<b>x</b>", note="<i>y</i> & z")
    texts = [mark.text for mark in compose([panel], height=300).figure().layout.annotations]
    assert texts == ["<b>&lt;b&gt;x&lt;/b&gt;</b>", "&lt;i&gt;y&lt;/i&gt; &amp; z"]


def test_the_scale_of_a_heatmap_stays_beside_it():
    part = go.Figure(go.Heatmap(z=[[0, 1]], colorbar={"title": "scale"}))
    panel = Panel("a", part, x=(0.1, 0.5), y=(0.2, 0.6))
    bar = compose([panel], height=300).figure().data[0].colorbar
    assert (bar.x, bar.y, bar.len) == pytest.approx((0.5, 0.4, 0.4))
    assert bar.title.text == "scale"


def test_parts_are_left_as_they_are():
    before = {name: part.to_json() for name, part in PARTS.items()}
    together(*list(PARTS)[:4])
    together(*list(PARTS)[4:])
    assert {name: part.to_json() for name, part in PARTS.items()} == before


def test_points_can_be_exchanged_without_drawing_anew():
    panel = Panel("training", PARTS["training"], x=(0.0, 1.0), y=(0.0, 1.0))
    moved = compose(
        [panel.with_points({"loss": {"x": [1, 2], "y": [3.0, 4.0]}})], height=300
    ).figure()
    for trace, original in zip(moved.data, PARTS["training"].data, strict=True):
        if trace.meta["kind"] == "loss":
            assert (list(trace.x), list(trace.y)) == ([1, 2], [3.0, 4.0])
        else:
            assert np.array_equal(trace.y, original.y)
    assert PARTS["training"].data[0].y[0] != 3.0
