"""Bars, whiskers and percents are those of the rates; rows are told apart without colour."""

import numpy as np
import pytest

from actor_lens.figures import refusal_rates
from tests.figures.results import LABELS, evaluation
from tests.figures.traces import trace, traces


def test_bars_and_whiskers_are_the_rates_and_their_intervals():
    before, after = evaluation(1.0, 0.7, 0.02), evaluation(0.995, 0.03, 0.0)
    figure = refusal_rates(before=before, after=after)
    for name, result in (("before", before), ("after", after)):
        bars, rates = trace(figure, "rate", name=name), result.table
        assert bars.x == pytest.approx(rates["refused"].tolist())
        assert bars.x + bars.error_x.array == pytest.approx(rates["high"].tolist())
        assert bars.x - bars.error_x.arrayminus == pytest.approx(rates["low"].tolist())
        assert bars.customdata[:, 0].tolist() == [200, 200, 200]


def test_rows_are_named_in_groups_from_the_top():
    figure = refusal_rates(**{"before": evaluation(1, 1, 0), "raw formula": evaluation(1, 1, 1)})
    axis = figure.layout.yaxis
    assert list(axis.ticktext) == ["before", "raw formula"] * 3
    assert list(axis.tickvals) == sorted(axis.tickvals)
    assert axis.range[0] > axis.range[1]
    heads = [a.text for a in figure.layout.annotations]
    assert [head.split("<")[1] for head in heads] == ["b>harmful", "b>pseudo-harmful", "b>benign"]
    assert "should be refused" in heads[0]
    assert "should be answered" in heads[1]


def test_evaluations_differ_by_pattern():
    figure = refusal_rates(a=evaluation(1, 1, 1), b=evaluation(1, 1, 1), c=evaluation(1, 1, 1))
    assert len({t.marker.pattern.shape for t in traces(figure, "rate")}) == 3


def test_percents_do_not_round_exceptions_away():
    figure = refusal_rates(one=evaluation(0.996, 0.004, 0.0, n=500))
    assert list(trace(figure, "percent").text) == [
        "<b>99.6 %</b> of 500",
        "<b>0.4 %</b> of 500",
        "<b>0 %</b> of 500",
    ]


def test_names_are_escaped():
    figure = refusal_rates(**{"<b>x</b>": evaluation(1, 0, 0)})
    assert "<b>x" not in str(figure.to_plotly_json())
    assert figure.layout.yaxis.ticktext[0] == "&lt;b&gt;x&lt;/b&gt;"


def test_missing_labels_missing_rates_and_no_evaluations_draw():
    figure = refusal_rates(before=evaluation(1.0, 0.7, 0.0), after=evaluation(0.9))
    assert len(trace(figure, "rate", name="after").x) == 1
    unknown = evaluation(1.0, np.nan, 0.0)
    assert len(trace(refusal_rates(one=unknown), "rate").x) == 2
    assert refusal_rates().layout.annotations[0].text == "no evaluations to show"
    assert len(LABELS) == 3
