"""Each score has one panel with its values, intervals and chance band; absent scores have none."""

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.figures import layer_scores
from tests.figures.results import Framed, Scores, scores
from tests.figures.traces import trace, traces


def test_lines_and_whiskers_are_those_of_the_table():
    result = scores()
    figure = layer_scores(result)
    for (score, pair), rows in result.table.groupby(["score", "pair"]):
        line = trace(figure, "score", score=score, pair=pair)
        assert line.y == pytest.approx(rows["value"].tolist())
        assert line.y + line.error_y.array == pytest.approx(rows["high"].tolist())
        assert line.y - line.error_y.arrayminus == pytest.approx(rows["low"].tolist())
        assert np.abs(np.asarray(line.x) - rows["layer"]).max() < 0.2


def test_the_chance_band_runs_from_low_to_high():
    band = trace(layer_scores(scores()), "null", score="auroc", pair="harmful_vs_benign")
    assert band.y == pytest.approx([-0.02] * 5 + [0.03] * 5)


def test_the_pairs_differ_by_colour_dash_and_symbol():
    lines = traces(layer_scores(scores()), "score", score="gap")
    assert len({line.line.color for line in lines}) == 2
    assert len({line.line.dash for line in lines}) == 2
    assert len({line.marker.symbol for line in lines}) == 2


def test_each_name_is_in_the_legend_once():
    figure = layer_scores(scores())
    shown = [t.name for t in figure.data if t.showlegend]
    assert sorted(shown) == sorted(set(shown))
    assert {t.name for t in figure.data} == set(shown)


def test_a_score_that_was_not_measured_has_no_panel():
    titles = [a.title.text for a in layer_scores(scores(causal=False)).select_yaxes()]
    assert titles == ["silhouette", "AUROC", "gap<br>(std. dev.)", "probe<br>accuracy"]
    assert len(list(layer_scores(scores()).select_yaxes())) == 5


def test_tied_layers_are_shaded_in_every_panel():
    shaded = [s for s in layer_scores(scores()).layout.shapes if s.name == "tie"]
    assert {(s.x0, s.x1) for s in shaded} == {(1.6, 3.4)}  # layers 2 and 3, as one
    assert len(shaded) == 5
    apart = scores()
    apart.ties = (0, 2, 3)
    spans = {(s.x0, s.x1) for s in layer_scores(apart).layout.shapes}
    assert spans == {(-0.4, 0.4), (1.6, 3.4)}


def test_a_score_without_a_best_layer_shades_nothing():
    class Undecided(Scores):
        def best(self, by):
            raise UserError(f"{by} was not measured")

    for result in (Undecided(scores().table), Framed(scores().table)):
        assert not layer_scores(result).layout.shapes


def test_the_chosen_layer_is_marked_through_all_panels():
    figure = layer_scores(scores(), layer=1)
    (mark,) = [s for s in figure.layout.shapes if s.name != "tie"]
    assert (mark.x0, mark.yref) == (1, "paper")
    with pytest.raises(UserError, match="layer 7"):
        layer_scores(scores(), layer=7)


def test_warnings_are_shown_wrapped_and_escaped():
    figure = layer_scores(scores(warnings=("<b>bad</b> " * 30,)))
    text = figure.layout.title.subtitle.text
    assert "⚠ &lt;b&gt;bad" in text
    assert text.count("<br>") >= 3


def test_missing_intervals_one_layer_and_no_scores_draw():
    table = scores(1).table.assign(low=np.nan, null_low=np.nan)
    figure = layer_scores(Framed(table))
    assert not traces(figure, "null")
    assert (trace(figure, "score", score="causal").error_y.arrayminus == [0]).all()
    empty = layer_scores(Framed(table.assign(value=np.nan)))
    assert empty.layout.annotations[0].text == "no scores to show"


def test_only_the_scores_asked_for_are_drawn():
    figure = layer_scores(scores(), only=["probe", "causal"])
    assert {t.meta["score"] for t in traces(figure, "score")} == {"probe", "causal"}
    assert layer_scores(scores(causal=False), only=["causal"]).data == ()
