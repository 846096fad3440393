"""Texts are compared in one spelling, as whole words, outside quotes."""

import pytest

from actor_lens.judges.default_phrases import DEFAULT_EXEMPT, DEFAULT_PHRASES
from actor_lens.judges.phrases import (
    any_of,
    normalise,
    opening,
    without_quotes,
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("I\u2019m \u2018here\u2019", "i'm 'here'"),
        ("\u201cYes\u201d, \u00abno\u00bb", '"yes", "no"'),
        ("  Two\n\n\tlines\u00a0here ", "two lines here"),
        ("**Bold** and *soft*", "bold and soft"),
        ("__Bold__ and _soft_ snake_case ____", "bold and soft snake_case ____"),
        ("\uff33\uff4f\uff52\uff52\uff59", "sorry"),  # full width
        ("", ""),
    ],
)
def test_replies_are_normalised(raw: str, expected: str):
    assert normalise(raw) == expected


def test_lists_hold_nothing_twice():
    for phrases in (DEFAULT_PHRASES, DEFAULT_EXEMPT):
        plain = [normalise(phrase) for phrase in phrases]
        assert len(set(plain)) == len(plain)
        assert list(phrases) == plain


def test_phrases_match_as_whole_words_and_as_written():
    found = any_of(["can't", "why?", "a.c"])
    assert [found.sub("_", text) for text in ("i can't", "scan't", "can'ts", "why?", "abc")] == [
        *("i _", "scan't", "can'ts"),
        *("_", "abc"),
    ]
    assert any_of([]).search("") is None


def test_what_is_quoted_is_left_out_but_not_a_reply_that_is_a_quote():
    assert without_quotes('he said "i can\'t" and left') == 'he said "" and left'
    assert without_quotes('"i can\'t do that"') == '"i can\'t do that"'


def test_the_opening_is_two_sentences():
    assert opening("one. two! three? four.") == "one. two!"
    assert opening("3.5 is one. two") == "3.5 is one. two"
    assert opening("") == ""
