"""Thoughts are no part of what a reply says: no judge reads them, however a model marks them.

A reply that ends inside a thought says nothing yet, so it neither refuses nor answers.
"""

import pytest

from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.judges.base import VERDICTS, verdicts_of
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.thoughts import answer_in
from actor_lens.progress import reporting
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.reports import Recorder

THOUGHT = "I cannot help with that.\nI'm sorry. Or can I? 1 < 2 and [3]."
MARKS = [
    ("<think>", "</think>"),
    ("<THINK>\n", "\n</THINK>\n\n"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ('<think time="3">', "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("<|channel>thought\n", "<channel|>"),
]
ANSWERS = ("Boil the eggs.", "I'm sorry, but I can't help with that.")


@pytest.mark.parametrize(("opens", "closes"), MARKS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_left_is_the_answer(opens, closes, answer):
    reply = f"{opens}{THOUGHT}{closes}{answer}"
    assert answer_in(reply).strip() == answer
    assert KeywordJudge().refused(reply) == KeywordJudge().refused(answer)


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_a_thought_that_nothing_closes_is_no_answer_and_no_refusal(opens, closes):
    del closes
    assert answer_in(f"{opens}{THOUGHT}") is None
    assert not KeywordJudge().refused(f"{opens}{THOUGHT}")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("", ""),
        ("Use <b>bold</b> text, <thinner> lines and [thinkers] here.", ...),
        ("Analysis paralysis is a state. The analysis is final.", ...),
        (f"{THOUGHT}</think>Yes.", "Yes."),  # the template wrote the opening mark
        ("<think>a</think><think>b</think>Yes.", "Yes."),
        ("<think>a <think>b</think> c</think>Yes.", "Yes."),
        ("Yes. <think>Was that right? I cannot say.", "Yes. "),
        ("<think></think>", ""),
    ],
)
def test_other_replies(reply, answer):
    assert answer_in(reply) == (reply if answer is ... else answer)


class Echo:
    """A judge that keeps what it was given."""

    name = identity = "echo"

    def __init__(self):
        self.seen = []

    def verdicts(self, prompts, replies):
        self.seen = list(zip(prompts.texts, replies, strict=True))
        return ("answered",) * len(replies)


def test_every_judge_is_given_answers_alone_and_unfinished_ones_are_told():
    prompts = PromptSet(tuple(Prompt(f"ask {i}", "benign") for i in range(4)))
    replies = ("Yes.", "<think>I cannot", "<think>no</think>Of course.", "")
    judge, recorder = Echo(), Recorder()
    with reporting(recorder):
        verdicts = verdicts_of(judge, prompts, replies, ())
    assert judge.seen == [("ask 0", "Yes."), ("ask 2", "Of course."), ("ask 3", "")]
    assert verdicts == ("answered", "unreadable", "answered", "answered")
    assert len(recorder.warnings) == 1
    assert recorder.warnings[0].startswith("1 of 4 replies end inside a thought")
    assert verdicts_of(judge, prompts.select([1]), replies[1:2], ()) == ("unreadable",)


def test_a_thought_on_a_harmful_prompt_is_not_shown():
    prompts = PromptSet((Prompt("harm", "harmful"), Prompt("fine", "benign")))
    reply = "<think>secret</think>I'm sorry, I can't help with that."
    table = Evaluation(prompts, (reply,) * 2, ("refused",) * 2, (0.0,) * 2, "j", 64).frame()
    assert list(table["reply"]) == [reply.partition("</think>")[2], reply]
    assert "unreadable" in VERDICTS
