"""What is shown is the composition, whatever was shown before; what is alike is not sent again."""

import numpy as np
import plotly.graph_objects as go
import pytest

from actor_lens import figures
from actor_lens.figures import Panel, compose
from actor_lens.widgets.linked_figure import LinkedFigure
from tests.figures.results import Sweep, projections, scores, sweep_table
from tests.support.clicks import click

FOUND = projections()


def upper(layer, selected=()):
    return [
        Panel("layers", figures.projections_by_layer(FOUND, points=False), (0.0, 0.5), (0.5, 1.0)),
        Panel(
            "prompts",
            figures.prompts_at_layer(FOUND, layer, selected=selected),
            (0.6, 1.0),
            (0.5, 1.0),
        ),
    ]


LOWER = {
    "scores": Panel("scores", figures.layer_scores(scores()), (0.0, 1.0), (0.0, 0.4)),
    "outcomes": Panel(
        "outcomes", figures.layer_outcomes(Sweep(sweep_table())), (0.0, 1.0), (0.0, 0.4)
    ),
}


def composition(layer=1, lower=(), **options):
    return compose([*upper(layer, **options), *(LOWER[name] for name in lower)], height=600)


def assert_shows(linked, wanted):
    assert len(linked.widget.data) == len(wanted.traces)
    expected = wanted.figure()
    for shown, drawn in zip(linked.widget.data, expected.data, strict=True):
        for key in drawn.to_plotly_json():
            assert _plain(shown[key]) == _plain(drawn[key]), key
    for key in ("shapes", "annotations", "height"):
        assert _plain(linked.widget.layout[key]) == _plain(expected.layout[key])
    used = {f"xaxis{(trace.xaxis or 'x')[1:]}" for trace in expected.data}
    for name, axis in linked.widget.layout.to_plotly_json().items():
        if name in used:
            assert axis["domain"] == list(expected.layout[name].domain)
            assert axis["visible"] is True
        elif name.startswith("xaxis"):  # of a panel that is no longer there
            assert axis["visible"] is False


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "to_plotly_json"):
        return str(value.to_plotly_json())
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value


def test_a_change_of_layer_is_shown_in_place():
    linked = LinkedFigure(composition(1))
    traces = linked.widget.data
    for layer in (3, 0, 4):
        linked.show(composition(layer))
        assert_shows(linked, composition(layer))
    assert linked.widget.data == traces  # the very same traces


@pytest.mark.parametrize(
    "path",
    [
        [(), ("scores",), ()],
        [("scores",), ("outcomes",), ("scores",)],
        [("scores", "outcomes"), ("outcomes",), ("scores", "outcomes")],
    ],
)
def test_panels_can_be_exchanged_in_any_order(path):
    linked = LinkedFigure(composition(1, path[0]))
    for layer, lower in enumerate(path[1:]):
        linked.show(composition(layer, lower))
        assert_shows(linked, composition(layer, lower))


def test_a_selection_comes_and_goes():
    linked = LinkedFigure(composition(1))
    for selected in ([2, 3], [], [5]):
        linked.show(composition(1, selected=selected))
        assert_shows(linked, composition(1, selected=selected))


def test_what_is_alike_is_not_sent_again(monkeypatch):
    linked = LinkedFigure(composition(1))
    sent = []
    monkeypatch.setattr(go.FigureWidget, "_send_update_msg", lambda *_, **sent_: sent.append(sent_))
    linked.show(composition(1))
    assert [one for one in sent if one["restyle_data"] or one["relayout_data"]] == []
    linked.show(composition(2))
    (update,) = [one for one in sent if one["restyle_data"] or one["relayout_data"]]
    assert set(update["restyle_data"]) == {"y"}
    assert len(update["trace_indexes"]) == 3


def test_the_stored_state_is_what_is_shown_after_a_checkpoint():
    linked = LinkedFigure(composition(1))
    linked.show(composition(4, ("scores",)))
    linked.show(composition(2, ("scores",)))
    linked.checkpoint()
    stored = go.Figure(data=linked.widget._widget_data, layout=linked.widget._widget_layout)
    wanted = composition(2, ("scores",)).figure()
    assert [_plain(trace.y) for trace in stored.data] == [_plain(t.y) for t in wanted.data]


def test_a_click_names_trace_and_point():
    clicks = []
    linked = LinkedFigure(
        composition(1), on_click=lambda trace, point: clicks.append((trace, point))
    )
    place = [trace.meta["kind"] for trace in linked.widget.data].index("median")
    click(linked, place, 3)
    ((trace, point),) = clicks
    assert trace is linked.widget.data[place]
    assert trace.x[point] == 3


def test_a_click_on_a_trace_that_has_gone_meanwhile_is_nothing():
    clicks = []
    linked = LinkedFigure(
        composition(1, ("scores",)), on_click=lambda trace, _: clicks.append(trace.meta["panel"])
    )
    key = next(
        trace.meta["key"]
        for trace in linked.widget.data
        if (trace.meta["panel"], trace.meta["kind"]) == ("scores", "score")
    )
    events = {"event": "click", "points": {key: [3]}}
    linked.parts[1]._handle_custom_msg(events, [])
    linked.show(composition(1, ("outcomes",)))
    linked.parts[1]._handle_custom_msg(events, [])
    assert clicks == ["scores"]


def test_nothing_can_be_uploaded_from_the_widget():
    settings = LinkedFigure(composition(1)).widget._config
    assert settings["showSendToCloud"] is False
    assert settings["plotlyServerURL"] == ""
    assert settings["displaylogo"] is False
