"""Law: a judge that its name makes carries that name, and an unknown name is an error."""

import pytest

from actor_lens.errors import UserError
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import as_judge, make_judge
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.judges.keywords import KEYWORD_LISTS, KeywordJudge


@pytest.mark.parametrize("name", [*KEYWORD_LISTS, "first-token"])
def test_a_judge_by_its_name(name):
    judge = make_judge(name)
    assert isinstance(judge, Judge)
    assert judge.name == name
    assert judge.identity.startswith(name)


def test_the_default_is_the_keyword_judge():
    assert make_judge() == KeywordJudge()
    assert isinstance(make_judge("first-token"), FirstTokenJudge)


def test_a_language_model_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "v.jsonl"))
    judge = make_judge("llm:org/model=x")
    assert (judge.model, judge.name) == ("org/model=x", "llm:org/model=x")


@pytest.mark.parametrize(
    "name", ["", "gpt", "openings=x", "keywords=", "wildguard=", "first-token=1", "llama_guard"]
)
def test_an_unknown_name_is_an_error_that_lists_those_that_are_known(name):
    with pytest.raises(UserError, match=r"known; give one of keywords, .*llama-guard") as e:
        make_judge(name)
    assert "\n" not in str(e.value)


def test_a_classifier_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        make_judge(f"wildguard={tmp_path}")


def test_a_judge_is_given_as_one_or_by_its_name():
    judge = KeywordJudge()
    assert as_judge(judge) is judge
    assert as_judge(None) == as_judge("keywords") == judge
    assert as_judge("openings").name == "openings"


@pytest.mark.parametrize("judge", [1, KeywordJudge, print, ["keywords"]])
def test_what_is_no_judge_is_named(judge):
    with pytest.raises(UserError, match=r"judge is .*keywords"):
        as_judge.__wrapped__(judge)
