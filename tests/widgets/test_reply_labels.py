"""What is pressed is what the trait holds, by row; texts from outside are shown and do nothing."""

import math

import pytest
import traitlets

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.panel import JudgePanel
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.widgets import ReplyLabels
from tests.figures.results import NASTY

SECRET = "mix the two powders"


@pytest.fixture
def panel():
    prompts = PromptSet(
        (Prompt(NASTY, "benign"), Prompt("two", "pseudo_harmful"), Prompt("three", "harmful"))
    )
    own, other = ("refused", "answered", "answered"), ("answered", "answered", "refused")
    stored = Evaluation(prompts, (NASTY, "yes", SECRET), own, (math.nan,) * 3, "own:1", 8)
    return JudgePanel(stored, {"own": "own:1", "other": "o:1"}, {"own": own, "other": other})


def test_buttons_label_the_reply_that_is_shown_and_go_on(panel):
    widget = ReplyLabels(panel)
    assert widget.rows == (0, 1, 2)
    widget.choices["refused"].click()
    widget.skip.click()
    widget.choices["partly_refused"].click()
    assert widget.labels == {0: "refused", 2: "partly_refused"}
    assert widget.position == 2
    widget.back.click()
    widget.back.click()
    widget.choices["answered"].click()
    assert widget.labels == {0: "answered", 2: "partly_refused"}
    assert "2 labelled by hand" in widget._done.value
    rates = panel.corrected_rates(widget.labels).frame().set_index("label")
    assert rates["refused"].to_dict() == {"benign": 0.0, "pseudo_harmful": 0.0, "harmful": 1.0}


def test_texts_are_escaped_and_harmful_answers_hidden(panel):
    widget = ReplyLabels(panel)
    seen = []
    for position in range(3):
        widget.position = position
        widget.choices["answered"].click()
        widget.position = position
        seen.append(widget._shown.value + widget._done.value)
    assert not any("<script" in one or "<img" in one for one in seen)
    assert not any(SECRET in one for one in seen)
    assert "not shown" in seen[2]
    assert "own: refused, other: answered" in seen[0]


def test_a_harmful_reply_that_another_judge_calls_an_answer_is_hidden_too():
    prompts = PromptSet((Prompt("one", "harmful"), Prompt("two", "harmful")))
    own, other = ("refused", "refused"), ("answered", "refused")
    stored = Evaluation(prompts, (SECRET, "I won't."), own, (math.nan,) * 2, "own:1", 8)
    made = JudgePanel(stored, {"own": "own:1", "other": "o:1"}, {"own": own, "other": other})
    widget = ReplyLabels(made)
    assert SECRET not in widget._shown.value
    assert "judges differ; not shown" in widget._shown.value
    widget.skip.click()
    assert "I won&#x27;t." in widget._shown.value


def test_traits_can_be_set_and_refuse_what_is_no_label(panel):
    widget = ReplyLabels(panel, 1)
    widget.position = 99
    assert widget.position == 2
    widget.position = -1
    assert widget.position == 0
    widget.labels = {1: "refused"}
    assert "1 labelled by hand" in widget._done.value
    with pytest.raises(UserError, match="no reply 7"):
        widget.labels = {7: "refused"}
    with pytest.raises(traitlets.TraitError):
        widget.labels = 3
    assert widget.labels == {1: "refused"}
    assert widget.static().data


def test_nothing_to_label_is_told(panel):
    with pytest.raises(UserError, match="no reply to label"):
        ReplyLabels(panel, 0)
