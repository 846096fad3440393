"""What nobody sees never gets through; what is read stays; a number is written in one way.

The same rule holds for text on its own, in pages, figures, tables of results and widgets.
"""

import html
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens import text
from actor_lens.export.model_card import escaped
from actor_lens.figures import theme
from actor_lens.report import pages
from actor_lens.results import html_table
from actor_lens.widgets import parts

HIDDEN = {
    "controls": "\x00\x07\x08\x1b\x7f\x80\x9f",
    "directions": "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "no width": "\u200b\u2060\u2061\u2064\ufeff\u00ad\u034f\u180e",
    "empty letters": "\u115f\u1160\u3164\uffa0\u17b4",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "notes": "\ufff9\ufffa\ufffb\U0001d173\U0001bca0",
}
KEPT = [
    "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 👍🏽 🇩🇪",  # joiners, a selector, a skin tone, a flag
    "می\u200cخواهم",  # Persian needs the non-joiner  # noqa: RUF001
    "क्\u200dष",  # Devanagari needs the joiner
    "كيف أقتل العملية",
    "葛\U000e0100",  # a variant of a Chinese character
    "naïve e\u0301 \ttab\nline\r\nline",
]
LINE_ENDS = ["\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\u2028", "\u2029"]


def in_page(value):
    """What a page shows of a text."""
    return pages.environment().from_string("<p>{{ value }}</p>").render(value=value)


WAYS = {
    "clean": text.clean,
    "escape": text.escape,
    "one line": text.one_line,
    "page": in_page,
    "figure": theme.escape,
    "hover": theme.hover_text,
    "model card": escaped,
    "result table": lambda value: html_table(pd.DataFrame({"a": [value]}, dtype=object)),
    "widget text": parts.safe,
    "widget block": parts.block,
    "widget table": lambda value: parts.table([{"a": value}], {"a": "a"}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_what_nobody_sees_gets_through_nowhere(hidden, way):
    shown = way(f"before{hidden.join('<b>')}after")
    assert not set(hidden) & set(shown)
    assert "before" in shown
    assert "after" in shown


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_half_of_a_surrogate_pair_becomes_a_question_mark(way):
    shown = way("one\ud83dtwo\udcff")
    assert "one?two?" in shown
    shown.encode("utf-8")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kept", KEPT[:5])
def test_scripts_and_emoji_stay_whole_everywhere(kept, way):
    assert kept in way(kept)


@pytest.mark.parametrize("kept", KEPT)
def test_what_is_read_is_not_touched(kept):
    assert text.clean(kept) == kept


@pytest.mark.parametrize("end", LINE_ENDS)
def test_unusual_line_ends_become_plain_ones(end):
    assert text.clean(f"a{end}b") == "a\nb"
    assert text.one_line(f"a{end}b") == "a b"


def test_joiners_and_selectors_in_a_row_hide_nothing():
    secret = "".join(chr(0xFE00 + n % 16) + chr(0xE0100 + n) for n in range(200))
    assert text.clean(f"🔥{secret}!") == "🔥\ufe00!"
    assert text.clean("a\u200c\u200d\u200c\u200db") == "a\u200cb"


@given(st.text())
def test_cleaning_is_done_once_for_all_and_leaves_no_invisible_character(value):
    cleaned = text.clean(value)
    assert text.clean(cleaned) == cleaned
    assert len(cleaned) <= len(value)
    allowed = "\t\n\r\u200c\u200d"
    unseen = [one for one in cleaned if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    # What is left of the format characters is seen: signs of numbers and verses, in a few scripts.
    visible = range(0x600, 0x606), range(0x890, 0x892), [0x6DD, 0x70F, 0x8E2, 0x110BD, 0x110CD]
    hieroglyphs = [range(0x13430, 0x13440)]
    assert all(
        one in allowed or any(ord(one) in marks for marks in (*visible, *hieroglyphs))
        for one in unseen
    )


@given(st.text())
def test_escaped_text_is_no_markup_and_reads_as_the_clean_text(value):
    escaped = text.escape(value)
    assert not set("<>\"'") & set(escaped)
    assert html.unescape(escaped.replace("&amp;", "&")) == html.unescape(text.clean(value))


@given(st.text(), st.integers(1, 50))
def test_one_line_has_no_line_breaks_and_is_bounded(value, most):
    line = text.one_line(value, most)
    assert len(line.splitlines()) <= 1
    assert len(line) <= most


def test_an_error_on_one_line_is_its_message():
    assert text.one_line(ValueError("a\n  b\x1b[31m")) == "a b[31m"


@given(st.text(), st.integers(2, 50))
def test_a_clipped_text_is_its_beginning_and_says_so(value, length):
    clipped = text.clip(value, length)
    assert len(clipped) <= length
    assert clipped == value or (clipped.endswith("…") and value.startswith(clipped[:-1]))


def test_clipping_leaves_no_joiner_at_the_end():
    assert text.clip("ab👩\u200d👧c", 5) == "ab👩…"


@pytest.mark.parametrize(
    ("share", "digits", "written"),
    [
        (0.1234, 1, "12.3 %"),
        (0.996, 0, "100 %"),
        (0.0, 1, "0.0 %"),
        (1.0, 0, "100 %"),
        (None, 1, text.NOT_MEASURED),
        (float("nan"), 1, text.NOT_MEASURED),
    ],
)
def test_a_share_is_written_in_percent_or_as_a_dash(share, digits, written):
    assert text.percent(share, digits) == written


def test_counts_and_names_are_written_as_they_are_spoken():
    assert text.plural(1, "prompt") == "1 prompt"
    assert text.plural(1200, "prompt") == "1,200 prompts"
    assert text.plural(2, "reply", "replies") == "2 replies"
    assert text.spell([2]) == "2"
    assert text.spell([2, "b"]) == "2 and b"
    assert text.spell([2, 3, 4]) == "2, 3 and 4"
