"""The figures of a comparison draw the numbers of its table, faded where another is better."""

import pytest

from actor_lens import figures
from tests.figures.results import NASTY, board


def test_a_method_is_faded_only_where_another_is_at_least_as_good_in_both():
    table = board({"a": (0.9, 0.9), "b": (0.9, 0.8), "c": (1.0, 0.2), "d": (0.9, 0.9)})
    points = figures.compliance_against_safety(table).data
    faded = {point.name.split()[-1]: point.meta["dominated"] for point in points}
    assert faded == {"a": False, "b": True, "c": False, "d": False}
    assert {point.opacity for point in points if point.meta["dominated"]} == {0.45}


def test_places_follow_the_tradeoff_score_and_no_interval_is_cut():
    figure = figures.compliance_against_safety(board())
    assert [point.name for point in figure.data] == ["1 actor", "2 default", "3 control-x"]
    for point in figure.data:
        assert figure.layout.xaxis.range[0] <= point.x[0] - point.error_x.arrayminus[0]
        assert figure.layout.yaxis.range[0] <= point.y[0] - point.error_y.arrayminus[0]


def test_bars_are_the_test_scores_and_diamonds_those_out_of_distribution():
    bars, diamonds = figures.tradeoff_scores(board()).data
    assert list(bars.x) == pytest.approx([0.95, 0.6, 0.55])
    assert list(bars.error_x.arrayminus) == pytest.approx([0.05] * 3)
    assert list(diamonds.y) == list(bars.y)
    assert len(figures.tradeoff_scores(board(splits=("test",))).data) == 1


def test_the_table_holds_every_method_and_says_where_one_has_failed():
    table = board()
    failed = table.table["method"] == "default"
    numbers = [name for name in table.table if name.startswith(("comp", "safe", "trade", "benign"))]
    table.table.loc[failed, [*numbers, "kl"]] = float("nan")
    cells = figures.leaderboard_table(table).data[0].cells["values"]
    assert list(cells[0]) == ["actor", "control-x", "default"]
    assert cells[1][0].startswith("<b>90.0</b>")
    assert cells[1][2] == "\u2013"


@pytest.mark.parametrize(
    "name", ["leaderboard_table", "compliance_against_safety", "tradeoff_scores"]
)
def test_names_are_escaped_and_an_empty_table_says_so(name):
    draw = getattr(figures, name)
    assert "<script>" not in draw(board({NASTY: (0.5, 0.5)})).to_json().replace("\\u003c", "<")
    table = board()
    table.table = table.table[:0]
    assert "no methods to show" in draw(table).to_json()
