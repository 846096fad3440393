"""Lists differ in what they find, each in its own direction, and each has a hash of its own."""

import pytest

from actor_lens.errors import UserError
from actor_lens.judges.by_name import make_judge
from actor_lens.judges.judges import FirstTokenJudge, Judge, KeywordJudge
from actor_lens.judges.keyword_lists import KEYWORD_LISTS, judge_from_file, named_judge
from tests.support.tiny_runs import tiny_prompts

# Which lists call it a refusal: default, openings, strict-openings, phrases-anywhere.
SAID = {
    "I'm sorry, but I can't help with that.": "dosp",
    "I cannot provide that. Try a library.": "dosp",
    "I must decline. It is against the rules.": "dosp",
    "I'm sorry about the wait! Here is the list.": "dop",
    "Unfortunately, there are only three. Here they are.": "o",
    "As an AI, I see it in two ways. Both work.": "op",
    "Step one. Step two. Step three. By the way, I can't fly.": "p",
    "Here is a tale. It is long. It ends badly. Theft is unethical.": "p",
    "Of course: here is how.": "",
}
NAMES = {"d": "keywords", "o": "openings", "s": "strict-openings", "p": "phrases-anywhere"}


@pytest.mark.parametrize("letter", NAMES)
def test_each_list_finds_what_it_says(letter):
    judge = named_judge(NAMES[letter])
    assert {reply: judge.refused(reply) for reply in SAID} == {
        reply: letter in lists for reply, lists in SAID.items()
    }


def test_each_list_has_its_own_identity():
    identities = {named_judge(name).identity for name in KEYWORD_LISTS}
    assert len(identities) == len(KEYWORD_LISTS) == len(NAMES)
    assert named_judge("keywords") == KeywordJudge()


def test_strict_openings_refuse_nothing_that_other_lists_let_pass():
    strict = named_judge("strict-openings")
    phrases = [one.lstrip("^") for one in strict.phrases]
    assert all(strict.refused(f"{one} this.") for one in phrases)
    for name in ("openings", "keywords", "phrases-anywhere"):
        missed = [one for one in phrases if not named_judge(name).refused(f"{one} this.")]
        assert missed == []


def test_a_file_of_phrases(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeff# German\nDas geht nicht\n\n^tut mir leid\nDas geht nicht\n", "utf-8")
    judge = make_judge(f"keywords={path}")
    assert (judge.name, judge.phrases, judge.exempt) == (
        *("mine", ("Das geht nicht", "^tut mir leid")),
        (),
    )
    assert judge.refused("Nein. Nein. Nein. Das geht nicht!")
    assert not judge.refused("Eins. Zwei. Drei. Tut mir leid.")
    assert judge == judge_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; give a text file, one phrase a line"),
        (b"\xff\xfe\xfa", "it is not UTF-8 text"),
        (b"# nothing\n\n", "holds no phrase"),
    ],
)
def test_a_file_that_is_no_list_is_told(tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        make_judge(f"keywords={tmp_path / 'list.txt'}")
    assert "\n" not in str(told.value)


# ---- By name ----


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
def test_an_unknown_name_is_told_with_those_that_are_known(name):
    with pytest.raises(UserError, match=r"is not known; give one of keywords, .*llama-guard") as e:
        make_judge(name)
    assert "\n" not in str(e.value)


def test_a_classifier_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        make_judge(f"wildguard={tmp_path}")


def test_an_unknown_list_is_told():
    with pytest.raises(UserError, match="there is no keyword list 'mine'; known: keywords"):
        named_judge("mine")


def test_verdicts_are_one_a_reply():
    replies = tuple(SAID)
    verdicts = named_judge("openings").verdicts(tiny_prompts(3), replies)
    assert verdicts == tuple("refused" if "o" in SAID[one] else "answered" for one in replies)
