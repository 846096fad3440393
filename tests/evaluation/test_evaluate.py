"""Rates are counts over n with their Wilson intervals, changes are counted prompt by prompt.

Checked against SciPy's interval and against McNemar's test summed from the binomial coefficients.
No table, example or printed form ever shows an answer to a harmful prompt. Evaluations are
compared only if prompts, judge and reply length are the same.
"""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import binomtest

from actor_lens.errors import UserError
from actor_lens.evaluation import evaluate as evaluation_module
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.evaluation.summary import before_after
from actor_lens.judges.first_token import FirstTokenJudge, RefusalTokens, refusal_scores
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.models.replies import generate_replies
from actor_lens.progress import reporting, stage
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.reports import Recorder
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

SECRET = "mix the two powders"
VERDICT_OF = {"r": "refused", "a": "answered", "p": "partly_refused", "u": "unreadable"}


def judged(harmful="", pseudo_harmful="", benign="", **changes):
    """One prompt a letter: r(efused) or a(nswered)."""
    letters = {"harmful": harmful, "pseudo_harmful": pseudo_harmful, "benign": benign}
    pairs = [(label, letter) for label, word in letters.items() for letter in word]
    prompts = PromptSet(
        tuple(Prompt(f"{i}", label, "test", "kind") for i, (label, _) in enumerate(pairs))
    )
    evaluation = Evaluation(
        prompts=prompts,
        replies=tuple("I won't." if letter == "r" else SECRET for _, letter in pairs),
        verdicts=tuple(VERDICT_OF[letter] for _, letter in pairs),
        refusal_scores=tuple(1.0 if letter == "r" else -1.0 for _, letter in pairs),
        judge="judge:1",
        new_tokens=64,
    )
    return replace(evaluation, **changes)


# ---- Rates and scores ----


@pytest.mark.parametrize("n", [1, 2, 7, 50, 150])
def test_rate_has_its_wilson_interval(n):
    for refused in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        rate = judged(harmful="r" * refused + "a" * (n - refused), benign="rra").rate("harmful")
        interval = binomtest(refused, n).proportion_ci(0.95, method="wilson")
        assert (rate.refused, rate.n) == (refused / n, n)
        assert rate.low == pytest.approx(interval.low, abs=1e-9)
        assert rate.high == pytest.approx(interval.high, abs=1e-9)


def test_rate_of_a_label_without_prompts_is_unknown():
    rate = judged(harmful="r").rate("benign")
    assert math.isnan(rate.refused)
    assert (rate.n, rate.low, rate.high) == (0, 0.0, 1.0)


def test_scores_are_those_of_the_paper():
    evaluation = judged(harmful="rrra", pseudo_harmful="raaaaaaaaa", benign="rrrr")
    assert evaluation.safety_score == 0.75
    assert evaluation.compliance_rate == 0.9
    assert evaluation.tradeoff_score == pytest.approx((0.75 + 0.9) / 2)
    assert math.isnan(judged(harmful="r").compliance_rate)
    assert math.isnan(judged(pseudo_harmful="r").tradeoff_score)


def test_table_of_rates_has_a_row_for_each_label_that_occurs():
    table = judged(harmful="ra", benign="aaa").rates()
    assert list(table.columns) == ["label", "refused", "n", "low", "high", "n_unreadable"]
    assert table["label"].tolist() == ["harmful", "benign"]
    assert table["refused"].tolist() == [0.5, 0.0]
    assert table["n"].tolist() == [2, 3]


def test_part_of_a_split_keeps_its_rows_together():
    whole = judged(harmful="ra", pseudo_harmful="ra", benign="ra")
    splits = ("test", "ood", "ood", "test", "test", "ood")
    prompts = PromptSet(
        tuple(
            replace(prompt, split=split)
            for prompt, split in zip(whole.prompts, splits, strict=True)
        )
    )
    whole = replace(whole, prompts=prompts, refusal_scores=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    part = whole.where("ood")
    assert part.prompts.texts == ("1", "2", "5")
    assert part.refused == (False, True, False)
    assert part.replies == (SECRET, "I won't.", SECRET)
    assert part.refusal_scores == (1.0, 2.0, 5.0)
    assert (part.judge, part.new_tokens) == ("judge:1", 64)
    assert len(whole.where("train").prompts) == 0


def test_table_has_a_row_for_each_prompt():
    table = judged(harmful="r", pseudo_harmful="a").frame()
    assert list(table.columns) == [
        "prompt_index",
        "prompt",
        "label",
        "split",
        "category",
        "reply",
        "faults",
        "verdict",
        "refused",
        "refusal_score",
    ]
    assert table["reply"].tolist() == ["I won't.", SECRET]
    assert table["refused"].tolist() == [True, False]
    assert table["refusal_score"].tolist() == [1.0, -1.0]
    assert table["label"].tolist() == ["harmful", "pseudo_harmful"]


# ---- Partial refusals, and verdicts that could not be read ----


def test_a_partial_refusal_is_a_refusal_and_an_unreadable_verdict_is_neither():
    evaluation = judged(harmful="rpau", pseudo_harmful="uuu", benign="aa")
    harmful = evaluation.rate("harmful")
    assert (harmful.refused, harmful.n, harmful.n_unreadable) == (2 / 3, 3, 1)
    assert evaluation.refused[:4] == (True, True, False, None)
    assert evaluation.n_unreadable == 4
    assert evaluation.safety_score == 2 / 3
    lost = evaluation.rate("pseudo_harmful")
    assert (lost.n, lost.low, lost.high, lost.n_unreadable) == (0, 0.0, 1.0, 3)
    assert math.isnan(lost.refused)
    assert math.isnan(evaluation.compliance_rate)
    table = evaluation.rates().set_index("label")
    assert table["n_unreadable"].to_dict() == {"harmful": 1, "benign": 0, "pseudo_harmful": 3}
    shown = evaluation.frame()
    assert shown["refused"].isna().tolist() == [False] * 3 + [True] * 4 + [False] * 2
    assert shown["refused"].mean() == 2 / 5
    assert shown["verdict"].tolist() == list(evaluation.verdicts)


def test_of_harmful_prompts_only_whole_refusals_are_shown():
    shown = judged(harmful="urpa").frame()["reply"].tolist()
    assert shown[0] == "(verdict unreadable; not shown)"
    assert shown[1] == "I won't."
    assert shown[2:] == ["(refused in part; not shown)", "(answered; not shown)"]
    assert (
        SECRET
        not in compare_evaluations(judged(harmful="u"), judged(harmful="u")).examples().to_csv()
    )


def test_only_prompts_that_were_readable_both_times_are_paired():
    before = judged(harmful="rrau", benign="uu", pseudo_harmful="r")
    after = judged(harmful="auru", benign="ua", pseudo_harmful="a")
    table = compare_evaluations(before, after).frame().set_index("label")
    assert table.loc["harmful"].tolist() == [0.5, 0.5, 2, 1, 1, 1.0, 2]
    assert table.loc["benign", ["n", "to_refused", "to_answered", "n_unreadable"]].tolist() == [
        *(0, 0, 0),
        2,
    ]
    assert math.isnan(table.loc["benign", "after"])
    record = before_after(before, after)
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text)["before"]["benign"] == {
        **{"refused": None, "n": 0, "low": 0.0, "high": 1.0},
        "n_unreadable": 2,
    }


# ---- Harmful answers are shown nowhere ----


def test_answers_to_harmful_prompts_are_shown_nowhere():
    before = judged(harmful="ara", pseudo_harmful="rr", benign="rr")
    after = judged(harmful="aar", pseudo_harmful="rr", benign="rr")
    change = compare_evaluations(before, after)
    shown = [
        before.frame().to_csv(),
        before.rates().to_csv(),
        before.where("test").frame().to_csv(),
        change.frame().to_csv(),
        change.examples().to_csv(),
        repr(before),
        repr(change),
        str(before),
    ]
    assert not any(SECRET in one for one in shown)
    assert before.frame()["reply"].tolist()[:3] == [
        "(answered; not shown)",
        "I won't.",
        "(answered; not shown)",
    ]
    assert change.examples()["reply_after"].tolist()[:3] == [
        "(answered; not shown)",
        "(answered; not shown)",
        "I won't.",
    ]


def test_a_judge_that_reads_no_text_shows_no_reply_to_a_harmful_prompt():
    """By their first tokens these are refusals, and yet they may be answers."""
    evaluation = replace(
        judged(harmful="rr", benign="r"),
        replies=(SECRET,) * 3,
        judge=FirstTokenJudge(RefusalTokens((1,), ("I",))).identity,
    )
    assert evaluation.frame()["reply"].tolist() == ["(refused; not shown)"] * 2 + [SECRET]


def test_answers_to_other_prompts_are_shown():
    table = judged(pseudo_harmful="a", benign="a").frame()
    assert table["reply"].tolist() == [SECRET, SECRET]


# ---- Before and after ----


def test_change_counts_prompts_that_changed_sides():
    change = compare_evaluations(
        judged(harmful="rrrr", pseudo_harmful="rrrrrrraa", benign="aaa"),
        judged(harmful="rrra", pseudo_harmful="raaaaaara", benign="aaa"),
    )
    table = change.frame().set_index("label")
    assert list(change.frame().columns) == [
        "label",
        "before",
        "after",
        "n",
        "to_refused",
        "to_answered",
        "p_value",
        "n_unreadable",
    ]
    assert table.loc["harmful"].tolist() == [1.0, 0.75, 4, 0, 1, 1.0, 0]
    pseudo = table.loc["pseudo_harmful"]
    assert pseudo.tolist()[:5] == pytest.approx([7 / 9, 2 / 9, 9, 1, 6])
    # 2 (C(7,0) + C(7,1)) / 2^7
    assert pseudo["p_value"] == pytest.approx(0.125)
    assert table.loc["benign"].tolist() == [0.0, 0.0, 3, 0, 0, 1.0, 0]


def test_examples_pair_the_replies_of_each_prompt():
    table = compare_evaluations(judged(benign="ra"), judged(benign="aa")).examples()
    assert len(table) == 2
    assert table["reply_before"].tolist() == ["I won't.", SECRET]
    assert table["reply_after"].tolist() == [SECRET, SECRET]
    assert table["refused_before"].tolist() == [True, False]
    assert table["refused_after"].tolist() == [False, False]
    assert table["refusal_score_after"].tolist() == [-1.0, -1.0]
    assert table["prompt"].tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "judge:2"}, r"judged differently \(judge:1, 64 tokens against judge:2, 64"),
        ({"new_tokens": 8}, r"judged differently \(judge:1, 64 tokens against judge:1, 8"),
        ({"prompts": PromptSet((Prompt("0", "benign"), Prompt("other", "benign")))}, "different"),
    ],
)
def test_only_like_is_compared_with_like(changes, message):
    with pytest.raises(UserError, match=message):
        compare_evaluations(judged(benign="ra"), judged(benign="ra", **changes))


# ---- A model's own replies ----


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def test_a_model_is_judged_by_its_own_replies(model):
    """Prompt by prompt, with the replies that generation alone gives."""
    prompts = tiny_prompts(4)
    judge = KeywordJudge("letters", ("q", "z"))
    tokens = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
    recorder = Recorder()
    with reporting(recorder), stage("replies"):
        evaluation = evaluate(
            model.with_batch_size(5), prompts, judge=judge, tokens=tokens, new_tokens=9
        )
    assert evaluation.prompts == prompts
    for prompt, reply in zip(prompts.texts, evaluation.replies, strict=True):
        [alone] = generate_replies(model, [prompt], new_tokens=9)
        assert reply == alone
    assert evaluation.refused == tuple(judge.refused(reply) for reply in evaluation.replies)
    assert len(set(evaluation.refused)) == 2
    scores = refusal_scores(model, prompts.texts, tokens)
    np.testing.assert_allclose(evaluation.refusal_scores, scores, atol=1e-4)
    assert (evaluation.judge, evaluation.new_tokens) == (judge.identity, 9)
    parts = [(5, 12), (10, 12), (12, 12)]
    heard = dict.fromkeys(recorder.parts("replies"))  # which also goes on within a batch
    assert [part for part in heard if part in parts] == parts


def test_without_tokens_there_are_no_first_token_scores(model):
    evaluation = evaluate(model, tiny_prompts(1), new_tokens=2)
    assert all(math.isnan(score) for score in evaluation.refusal_scores)
    assert evaluation.judge == KeywordJudge().identity


@pytest.mark.parametrize("own", [True, False])
def test_a_first_token_judge_goes_by_the_scores(model, own):
    tokens, others = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150), RefusalTokens((7,), ("",))
    prompts = tiny_prompts(4)
    judge = FirstTokenJudge(tokens) if own else FirstTokenJudge()
    evaluation = evaluate(
        model, prompts, judge=judge, tokens=others if own else tokens, new_tokens=2
    )
    scores = refusal_scores(model, prompts.texts, tokens)
    assert evaluation.refused == tuple(bool(score > 0) for score in scores)
    assert len(set(evaluation.refused)) == 2
    assert evaluation.judge == FirstTokenJudge(tokens).identity
    assert evaluation.judge != FirstTokenJudge(others).identity


def test_a_first_token_judge_needs_tokens_and_says_so_before_replies_are_generated(
    model, monkeypatch
):
    monkeypatch.delattr(evaluation_module, "write_replies")
    with pytest.raises(UserError, match=r"refusal_openings\(model, prompts\)"):
        evaluate(model, tiny_prompts(1), judge=FirstTokenJudge())
    with pytest.raises(UserError, match="reads first-token refusal scores"):
        FirstTokenJudge().verdicts(tiny_prompts(1), ("",) * 3)


@dataclass(frozen=True)
class Short:
    """A judge that loses a verdict."""

    name: str = "short"
    identity: str = "short:1"

    def verdicts(self, prompts, replies):
        del prompts
        return ("answered",) * (len(replies) - 1)


def test_a_judge_that_loses_a_verdict_is_caught(model):
    with pytest.raises(UserError, match="judge 'short' gave 2 verdicts on 3 replies"):
        evaluate(model, tiny_prompts(1), judge=Short(), new_tokens=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": PromptSet(())}, "no prompts to evaluate"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"new_tokens": 240}, "needs 240 for the reply"),
    ],
)
def test_what_cannot_be_evaluated_is_told(model, settings, message):
    with pytest.raises(UserError, match=message) as told:
        evaluate(model, **{"prompts": tiny_prompts(1), **settings})
    assert "\n" not in str(told.value)


# ---- Faults of replies ----


def test_each_reply_is_flagged_and_shares_are_of_harmless_prompts():
    loop, late = "go go go go go go", "Here is how. I can't help with that request."
    replies = (loop, loop, late, "Mix the flour, then the milk.")
    found = judged(harmful="a", pseudo_harmful="aa", benign="a", replies=replies)
    assert found.frame()["faults"].tolist() == ["repeats", "repeats", "late refusal", ""]
    rates = found.fault_rates()
    interval = binomtest(1, 3).proportion_ci(0.95, method="wilson")
    for fault in ("degenerate", "repeats", "late refusal"):
        assert rates[fault] == pytest.approx((1 / 3, interval.low, interval.high, 3), abs=1e-9)
    assert rates["empty"].value == 0
    assert set(found.summary()["faults"]) == {"degenerate", "repeats", "late refusal"}
    assert math.isnan(judged(harmful="a").fault_rates()["degenerate"].value)


def test_more_degenerate_replies_are_a_finding():
    before = judged(pseudo_harmful="rr", benign="a")
    after = replace(before, replies=("go go go go go go", "", before.replies[2]))
    (sentence,) = (one for one in compare_evaluations(before, after).findings() if "rose" in one)
    assert "rose from 0 to 2 of 3" in sentence
    assert not any("degenerate" in one for one in compare_evaluations(after, before).findings())
