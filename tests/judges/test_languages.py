"""Each language's list tells 30 refusals of ours from 30 answers, by itself and among all."""

import hashlib
from pathlib import Path

import pytest
import yaml

from actor_lens.errors import UserError
from actor_lens.judges.by_name import make_judge
from actor_lens.judges.keywords import KeywordJudge, judge_of_language
from actor_lens.judges.languages import languages

REPLIES = yaml.safe_load(
    (Path(__file__).parents[1] / "fixtures" / "language_replies.yaml").read_text("utf-8")
)


def test_there_are_ten_languages_with_replies_to_judge():
    assert set(languages()) == set(REPLIES)
    assert len(REPLIES) == 10


@pytest.mark.parametrize("code", REPLIES)
@pytest.mark.parametrize("by", ["its own list", "any"])
def test_refusals_and_answers_are_told_apart(code, by):
    judge = judge_of_language("any" if by == "any" else code)
    refusals, answers = (REPLIES[code][kind].splitlines() for kind in ("refused", "answered"))
    assert (len(set(refusals)), len(set(answers))) == (30, 30)
    assert sum(map(judge.refused, refusals)) >= 27
    assert sum(map(judge.refused, answers)) <= 3


def test_the_english_list_knows_no_other_language():
    """So the lists are what finds them."""
    texts = [line for one in REPLIES.values() for line in one["refused"].splitlines()]
    assert not any(map(KeywordJudge().refused, texts))


def test_english_is_judged_alike_among_all():
    judge = judge_of_language("any")
    assert judge.refused("I can't help with that.")
    assert not judge.refused("Stop the process with kill and its number.")


@pytest.mark.parametrize("name", ["keywords:de", "keywords:German", "keywords: de "])
def test_a_language_goes_by_code_or_name(name):
    judge = make_judge(name)
    assert judge == judge_of_language("de")
    assert judge.name == "keywords:de"
    assert judge.identity.startswith("keywords:de:")


def test_an_unknown_language_is_an_error_that_names_those_there_are():
    with pytest.raises(UserError, match=r"xx.*de \(german\).*any"):
        make_judge("keywords:xx")


@pytest.mark.parametrize("code", REPLIES)
def test_every_wording_finds_something_that_a_phrase_needs(code):
    """A part that no phrase names is dead, and so is a list that holds a wording twice."""
    one = languages()[code]
    text = " ".join(one.phrases + one.exempt)
    for name, wordings in one.classes.items():
        assert f"{{{name}}}" in text
        assert len(set(wordings)) == len(wordings)
    assert len(set(one.phrases)) == len(one.phrases)


def test_a_list_that_is_found_inside_words_says_so_in_its_identity():
    """Rates of one list by two rules do not mix: the identity is more than the phrases' hash."""
    phrase = "не могу"  # in Cyrillic: words have endings there
    judge = KeywordJudge("own", (phrase,), ())
    assert judge.refused("Этого я не могущ.")
    digest = hashlib.sha256(phrase.encode()).hexdigest()
    assert judge.identity != f"own:1:{digest[:12]}"
    latin = hashlib.sha256(b"i cannot").hexdigest()
    assert KeywordJudge("own", ("i cannot",), ()).identity == f"own:1:{latin[:12]}"
