"""The preview draws each prompt before and at its target, and says in words what goes wrong."""

import numpy as np
import pytest

from actor_lens.figures import target_preview
from actor_lens.figures.targets import STRIP_POINTS
from tests.figures.results import LABELS, NASTY, targets
from tests.figures.traces import trace, traces


def test_strips_hold_the_prompts_before_and_their_targets():
    result = targets()
    figure = target_preview(result)
    for label in LABELS:
        rows = result.table.query("label == @label")
        assert np.array_equal(trace(figure, "before", label=label).x, rows["before"])
        assert np.array_equal(trace(figure, "after", label=label).x, rows["after"])
    assert trace(figure, "before", label="benign").marker.symbol == "circle-open"
    assert trace(figure, "after", label="benign").marker.symbol == "circle"


def test_arrows_go_from_mean_to_mean():
    result = targets()
    figure = target_preview(result)
    for label, head in (("harmful", 90), ("pseudo_harmful", -90)):
        rows = result.table.query("label == @label")
        arrow = trace(figure, "mean", label=label)
        assert arrow.x == pytest.approx((rows["before"].mean(), rows["after"].mean()))
        assert arrow.marker.symbol == ("line-ns", "arrow")
        assert tuple(arrow.marker.angle) == (0, head)


def test_a_mean_that_stays_has_no_head():
    result = targets()
    result.means.table["toward"] = "neither"
    for arrow in traces(target_preview(result), "mean"):
        assert arrow.marker.symbol == ("line-ns", "line-ns")
        assert not any(arrow.marker.angle)


def test_the_first_label_is_on_top():
    axis = target_preview(targets()).layout.yaxis
    assert [text.split("<br>")[0] for text in axis.ticktext] == [
        "<b>benign</b>",
        "<b>pseudo-harmful</b>",
        "<b>harmful</b>",
    ]


def test_a_wrong_way_is_said_in_words_and_warned_of():
    figure = target_preview(targets(origin=0.0))
    names = dict(zip(LABELS[::-1], figure.layout.yaxis.ticktext, strict=True))
    assert "toward refusal<br><b>⚠ wrong way</b>" in names["benign"]
    assert "wrong way" not in names["harmful"]
    assert "⚠ benign prompts would move toward refusal" in figure.layout.title.subtitle.text
    right = target_preview(targets())
    assert not any("wrong way" in text for text in right.layout.yaxis.ticktext)


def references(figure):
    lines = [s.x0 for s in figure.layout.shapes]
    names = [a.text for a in figure.layout.annotations]
    return dict(zip(names, lines, strict=True))


def test_reference_lines_are_named_and_those_that_coincide_share_a_name():
    assert references(target_preview(targets(origin=0.0))) == {
        **{"benign mean": -2.0, "origin": 0.0, "harmful mean": 6.0}
    }
    assert references(target_preview(targets())) == {
        "benign mean = origin": -2.0,
        "harmful mean": 6.0,
    }


def test_names_of_near_lines_stand_on_separate_levels():
    figure = target_preview(targets(origin=-1.5))
    shifts = {a.text: a.yshift for a in figure.layout.annotations}
    assert shifts["benign mean"] != shifts["origin"]


def test_warnings_and_prompts_are_escaped():
    result = targets()
    result.table["prompt"] = NASTY
    result.means.warnings = ("<script>x</script>",)
    assert "<script" not in str(target_preview(result).to_plotly_json())


def test_one_prompt_missing_labels_many_prompts_and_none_draw():
    assert len(traces(target_preview(targets(1, ("harmful",))), "before")) == 1
    many = target_preview(targets(1000))
    assert all(len(t.x) == STRIP_POINTS for t in traces(many, "before"))
    result = targets(2)
    result.table["after"] = np.nan
    assert target_preview(result).layout.annotations[0].text == "no targets to show"
