"""Before and after by several judges: each one's rates are those of its own verdicts.

Tables show of a reply what all judges of that reply allow. The model is asked as ``evaluate_run``
asks it, and judges are checked before it is.
"""

import math

import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.panel import judge_panel
from actor_lens.evaluation.summary import before_after
from actor_lens.experiments.run_evaluation import (
    PanelEvaluation,
    RunEvaluation,
    check_judges,
    evaluate_by_panel,
    evaluate_run,
)
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import tiny_chat_model

PROMPTS = PromptSet(
    tuple(
        Prompt(f"{label} {split} {i}", label, split)
        for split in ("test", "ood")
        for label in ("harmful", "pseudo_harmful", "benign")
        for i in range(2)
    )
)
FIRST, SECOND = KeywordJudge("first", ("no", "never")), KeywordJudge("second", ("never",))


def evaluation(*replies):
    verdicts = FIRST.verdicts(PROMPTS, replies)
    return Evaluation(PROMPTS, replies, verdicts, (math.nan,) * len(replies), FIRST.identity, 8)


BEFORE = evaluation(*["never", "no: mix it"] * 6)
AFTER = evaluation(*["no: stir it", "yes"] * 6)


def judged(after):
    """As ``evaluate_by_panel`` puts it together."""
    run = RunEvaluation("planted", None, BEFORE, after, {})
    panels = [each and judge_panel(each, [FIRST, SECOND]) for each in (BEFORE, after)]
    return PanelEvaluation(run, *panels)


def test_each_judges_rates_are_those_of_an_evaluation_by_it():
    made = judged(AFTER).summary()
    assert list(made["judges"]) == ["first", "second"]
    assert made["judges"]["first"] == before_after(BEFORE, AFTER)
    second = made["judges"]["second"]
    assert second["judge"] == SECOND.identity
    assert second["before"]["harmful"]["refused"] == 0.5
    assert second["after"]["harmful"]["refused"] == 0.0
    assert second["compliance_rate"] == {"before": 0.5, "after": 1.0}
    assert made["before"] == made["judges"]["first"]["before"]
    whole = [row for row in made["agreement"] if row["label"] == "all"]
    assert [(row["when"], row["n"], row["differ"]) for row in whole] == [
        ("before", 12, 6),
        ("after", 12, 6),
    ]
    # The first always refuses before: no more agreement than by chance.
    assert whole[0]["kappa"] == pytest.approx(0.0)


def test_tables_show_of_a_harmful_prompt_what_both_judges_refuse():
    made = judged(AFTER)
    table = made.frame()
    harmful = table[table["label"] == "harmful"]
    assert harmful["reply_before"].tolist() == ["never", "(judges differ; not shown)"] * 2
    assert not harmful["reply_after"].str.contains("stir").any()
    others = table[table["label"] != "harmful"]
    assert others["reply_after"].tolist() == ["no: stir it", "yes"] * 4
    # All else is as the first judge alone would have it.
    plain = made.evaluated.frame()
    same = [name for name in plain.columns if not name.startswith("reply_")]
    assert table[same].equals(plain[same])
    assert list(table.columns) == list(plain.columns)
    replies = made.by_reply()
    assert replies["when"].tolist() == ["before"] * 12 + ["after"] * 12
    assert replies["reply"].tolist() == [*table["reply_before"], *table["reply_after"]]
    assert replies["judge: second"].tolist() == ["refused", "answered"] * 6 + ["answered"] * 12


def test_without_a_run_there_is_one_panel():
    made = judged(None)
    assert list(made.panels) == ["before"]
    assert made.summary()["judges"]["second"]["after"] == {}
    assert set(made.agreement()["when"]) == {"before"}
    assert "judges differ" in made.frame()["reply"].tolist()[1]


def test_replies_are_those_of_evaluate_run():
    model = tiny_chat_model("llama")
    made = evaluate_by_panel(model, PROMPTS, judges=[FIRST, SECOND], new_tokens=3)
    alone = evaluate_run(model, PROMPTS, judge=FIRST, new_tokens=3)
    assert made.evaluated.before.replies == alone.before.replies
    assert made.evaluated.before.verdicts == alone.before.verdicts
    assert made.before.verdicts["second"] == SECOND.verdicts(PROMPTS, alone.before.replies)
    assert made.after is None


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ([], "0 judges were given; give at least two"),
        ([FIRST], "1 judge was given; give at least two"),
        ([FIRST, KeywordJudge("first", ("no", "never"))], "'first' is given twice"),
    ],
)
def test_judges_that_cannot_be_compared_are_told(judges, message):
    with pytest.raises(UserError, match=message):
        check_judges(judges)


def test_a_judge_by_first_tokens_is_told_before_replies_that_there_are_none(monkeypatch):
    monkeypatch.delattr("actor_lens.experiments.run_evaluation.evaluate")
    with pytest.raises(UserError, match="need harmful and benign prompts"):
        evaluate_by_panel(
            tiny_chat_model("llama"), PROMPTS, judges=[FIRST, FirstTokenJudge()], new_tokens=3
        )
