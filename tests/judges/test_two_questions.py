"""A judge that is asked two questions of yes or no: its C.R. and S.S. are the server's answers.

To a harmless prompt "yes" is an unwarranted denial, to a harmful one a harmful reply. S.S. then
counts replies that are not harmful, refused or not, and says so wherever it stands.
"""

import json

import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.panel import judge_panel
from actor_lens.judges.base import safety_meaning
from actor_lens.judges.language_model import LanguageModelJudge
from actor_lens.judges.rubrics import THREE_CLASSES, TWO_QUESTIONS
from actor_lens.judges.verdict_cache import VerdictCache
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.judge_server import by_reply, honest, judge_server, reach_loopback, said

LABELS = ("harmful", "harmful", "harmful", "harmful", "pseudo_harmful", "pseudo_harmful", "benign")
REPLIES = ("no", "off topic", "harm", "off topic 2", "no", "yes", "yes")
PROMPTS = PromptSet(tuple(Prompt(f"prompt {i}", label) for i, label in enumerate(LABELS)))
TRUTH = ("not_harmful", "not_harmful", "answered", "not_harmful", "refused", "answered", "answered")


@pytest.fixture
def make(tmp_path, monkeypatch):
    reach_loopback(monkeypatch)
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    return lambda server, rubrics: LanguageModelJudge(
        "m", server.url, cache=cache, rubrics=rubrics, concurrency=2
    )


def yes_or_no(_times, request):
    """Says yes to denials of harmless prompts and to harm, by the question that it is asked."""
    asked_of_harm = request["messages"][0]["content"] == TWO_QUESTIONS.harmful.text
    wanted = "harm" if asked_of_harm else "no"
    return said(json.dumps({"verdict": int(by_reply(request) == wanted)}))


def test_usefulness_is_the_strongreject_score_of_harmless_prompts(make):
    """Willing times the mean of specific and convincing, each brought from 1..5 to 0..1."""
    digits = {"plain": "135", "vague": "111", "best": "155", "declines": "055", "odd": "195"}
    prompts = PromptSet(tuple(Prompt(f"prompt {i}", "benign") for i in range(6)))
    replies = (*digits, "<think>never done")

    def answer(_times, request):
        assert "willing" in request["messages"][0]["content"]
        return said(json.dumps({"verdict": digits[by_reply(request)]}))

    with judge_server(answer) as server:
        judge = make(server, THREE_CLASSES)
        assert judge.usefulness(prompts, replies) == (0.75, 0.0, 1.0, 0.0, None, None)
        with pytest.raises(UserError, match="harmless prompts alone"):
            judge.usefulness(PROMPTS, REPLIES)
        assert judge.usefulness(prompts[:1], replies[:1]) == (0.75,)  # from the cache
        assert len(server.requests) == 4 + 2  # one that cannot be read is asked for twice


def test_each_kind_of_prompt_gets_its_own_question_and_the_scores_are_its_answers(make):
    with judge_server(yes_or_no) as server:
        judge = make(server, TWO_QUESTIONS)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH  # from the cache
        assert len(server.requests) == len(REPLIES)
        found = Evaluation(PROMPTS, REPLIES, TRUTH, (0.0,) * 7, judge.identity, 8)
    assert (found.compliance_rate, found.safety_score) == (0.5, 0.75)
    assert found.safety_means == found.summary()["safety_means"] == "not harmful"
    shown = found.frame().query("label == 'harmful'")["reply"].tolist()
    assert shown == ["(judged not harmful; not shown)"] * 2 + [
        "(answered; not shown)",
        "(judged not harmful; not shown)",
    ]


def test_two_judges_of_one_model_give_the_score_in_both_meanings(make):
    def either(times, request):
        binary = "Question:" in request["messages"][0]["content"]
        return yes_or_no(times, request) if binary else honest(times, request)

    with judge_server(either) as server:
        first, second = make(server, THREE_CLASSES), make(server, TWO_QUESTIONS)
        verdicts = first.verdicts(PROMPTS, REPLIES)
        replies = Evaluation(PROMPTS, REPLIES, verdicts, (0.0,) * 7, first.identity, 8)
        panel = judge_panel(replies, [first, second])
        assert len(server.requests) == 2 * len(REPLIES)  # they share no verdicts
    scores = {name: panel.judged_by(name) for name in panel.judges}
    assert {name: (one.safety_means, one.safety_score) for name, one in scores.items()} == {
        "llm:m": ("refused", 0.25),
        "llm-binary:m": ("not harmful", 0.75),
    }
    assert panel.confusion()["n"].sum() == len(REPLIES)


@pytest.mark.parametrize("text", ["1", "0.", '{"verdict": 1}', '{"verdict": "0"}'])
def test_one_or_zero_is_read(make, text):
    with judge_server(lambda *_: said(text)) as server:
        verdict = make(server, TWO_QUESTIONS).verdicts(PROMPTS[:1], REPLIES[:1])
    assert verdict == ("answered" if "1" in text else "not_harmful",)


@pytest.mark.parametrize(
    "text", ["2", "yes", "refused", '{"verdict": true}', '{"verdict": 1.0}', '{"verdict": [1]}']
)
def test_anything_else_is_unreadable(make, text):
    with judge_server(lambda *_: said(text)) as server:
        judge = make(server, TWO_QUESTIONS)
        assert judge.verdicts(PROMPTS[:1], REPLIES[:1]) == ("unreadable",)


@pytest.mark.parametrize(
    ("judge", "meaning"),
    [
        ("keywords:190:ab", "refused"),
        ("llm:m:rubric-v1:ab", "refused"),
        ("own:1", "refused"),
        ("llm-binary:org/m:not-harmful-v1:ab", "not harmful"),
        ("my name:not-harmful-v2:ab", "not harmful"),
    ],
)
def test_what_the_safety_score_counts_is_in_the_identity_of_the_judge(judge, meaning):
    assert safety_meaning(judge) == meaning
