"""Text from outside is shown as text, whatever it is; painting happens only so often."""

import re

import pytest

from actor_lens.directions.options import SHIFTS
from actor_lens.training.config import FinetuneConfig
from actor_lens.widgets import parts
from actor_lens.widgets.parts import (
    Throttle,
    block,
    label_name,
    safe,
    setting_widget,
    short_line,
    table,
)
from tests.figures.results import NASTY


@pytest.mark.parametrize("make", [safe, block, lambda text: table([{"a": text}], {"a": text})])
def test_text_from_outside_is_text(make):
    made = make(NASTY)
    assert "<script" not in made
    assert "<b>bold" not in made
    assert "<a href" not in made
    assert "\u202e" not in made
    assert "&lt;script&gt;" in made
    assert len(made) < 3 * len(NASTY)


def test_long_text_is_cut_with_a_sign():
    assert safe("x" * 100, 10) == "x" * 9 + "…"
    assert safe("x" * 10, 10) == "x" * 10


def test_a_table_shows_what_it_is_given():
    made = table(
        [
            {"label": "harmful", "value": 1.23456, "ok": True, "empty": float("nan"), "more": 1},
            {"label": "benign", "value": 2.0, "ok": False, "empty": None},
        ],
        {"label": "Label", "value": "Value", "ok": "OK", "empty": "Empty"},
        caption="two <rows>",
    )
    assert made.count("<tr>") == 3
    assert ">1.23<" in made
    assert ">2<" in made
    assert ">yes<" in made
    assert ">no<" in made
    assert "nan" not in made
    assert "two &lt;rows&gt;" in made
    assert label_name("harmful") in made


def test_a_line_has_no_breaks_and_ends_where_it_is_cut():
    assert short_line("a\n\tb  c", 10) == "a b c"
    assert short_line("word " * 50, 10) == "word word…"


def test_a_control_of_a_setting_has_its_value_choices_and_help():
    names = {"projected": "just enough", "uniform": "all equally far"}
    menu = setting_widget("shift", FinetuneConfig(layer=0, shift="uniform"), choices=names)
    assert menu.value == "uniform"
    assert [value for _, value in menu.options] == list(SHIFTS)
    assert "targets" in menu.tooltip


def test_labels_differ_by_more_than_colour():
    names = [label_name(label) for label in ("harmful", "pseudo_harmful", "benign")]
    assert len({name.split(">")[1].split(" ")[0] for name in names}) == 3


def test_a_throttle_lets_the_first_through_and_then_waits(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])
    throttle = Throttle(per_second=5.0)
    due = []
    for moment in (0.0, 0.1, 0.19, 0.21, 0.3, 0.42):
        now[0] = 100.0 + moment
        due.append(throttle.due())
    assert due == [True, False, False, True, False, True]


def test_columns_of_numbers_end_on_one_line():
    rows = [{"n": 1.5, "word": "a", "gone": None}, {"n": None, "word": 2, "gone": None}]
    made = table(rows, {"n": "n", "word": "word", "gone": "gone"})
    styles = re.findall(r'<t[hd][^>]*style="([^"]*)"', made)
    assert ["text-align:right" in style for style in styles] == [True, False, False] * 3
