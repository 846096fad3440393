"""Needed shifts are drawn with the line, and those prompts for which nothing was enough."""

import numpy as np
import pytest

from actor_lens.figures import just_enough_shift
from tests.figures.results import NASTY, shifts
from tests.figures.traces import trace, traces


def test_each_prompt_is_a_mark_at_its_projection_and_shift():
    result = shifts()
    figure = just_enough_shift(result)
    for label in ("pseudo_harmful", "benign"):
        rows = result.table.query("label == @label and gamma == gamma")
        marks = trace(figure, "points", label=label)
        assert np.array_equal(marks.x, rows["projection"])
        assert np.array_equal(marks.y, rows["gamma"])


def test_prompts_without_an_answer_stand_above_all_that_was_tried():
    result = shifts(missed=3)
    figure = just_enough_shift(result)
    missed = trace(figure, "missed", label="pseudo_harmful")
    assert np.array_equal(missed.x, result.table["projection"][:3])
    assert min(missed.y) > max(result.about["tried"])
    assert max(missed.y) < figure.layout.yaxis.range[1]
    assert missed.marker.symbol.endswith("-open")
    assert "3 prompts for which nothing" in figure.layout.title.subtitle.text
    assert not traces(just_enough_shift(shifts(missed=0)), "missed")


def test_the_line_begins_at_the_origin_where_no_shift_is_needed():
    result = shifts()
    line = trace(just_enough_shift(result), "line")
    assert (line.x[0], line.y[0]) == (1.0, 0.0)
    assert line.x[-1] == result.table["projection"].max()
    slopes = np.diff(line.y) / np.diff(line.x)
    assert slopes == pytest.approx([0.1, 0.1])
    names = {shape.name for shape in just_enough_shift(result).layout.shapes}
    assert names == {"benign mean", "origin", "harmful mean"}


def test_without_a_line_the_marks_are_drawn_all_the_same():
    figure = just_enough_shift(shifts(line=False))
    assert not traces(figure, "line")
    assert len(traces(figure, "points")) == 2
    assert "for a line" in figure.layout.title.subtitle.text


def test_prompts_are_escaped():
    result = shifts()
    result.table["prompt"] = NASTY
    texts = " ".join(trace(just_enough_shift(result), "points", label="benign").text)
    assert "<script" not in texts
    assert "&lt;script" in texts
