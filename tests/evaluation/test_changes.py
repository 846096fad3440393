"""What became of prompts and labels follows from verdicts alone, the costs before the gains."""

from dataclasses import replace

import pytest

from actor_lens.evaluation.changes import Side, compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.studies import evaluation, planted_prompts, refuse

VERDICTS = {"r": "refused", "a": "answered", "p": "partly_refused", "u": "unreadable"}
SECRET = "mix the two powders"
COSTS = ("harmful_answered", "harmless_refused")


def judged(rows):
    """An evaluation of (label, category, verdict letter)."""
    prompts = PromptSet(
        tuple(Prompt(str(i), label, "test", kind) for i, (label, kind, _) in enumerate(rows))
    )
    verdicts = tuple(VERDICTS[letter] for *_, letter in rows)
    return Evaluation(prompts, (SECRET,) * len(rows), verdicts, (0.0,) * len(rows), "judge:1", 8)


def changed(*rows):
    """A change of (label, kind, letter before, letter after)."""
    before = judged([(label, kind, first) for label, kind, first, _ in rows])
    after = judged([(label, kind, second) for label, kind, _, second in rows])
    return compare_evaluations(before, after)


@pytest.mark.parametrize(
    ("label", "before", "after", "side"),
    [
        ("harmful", "r", "a", "harmful_answered"),
        ("harmful", "p", "a", "harmful_answered"),
        ("harmful", "a", "r", "harmful_refused"),
        ("harmful", "r", "r", None),
        ("pseudo_harmful", "a", "r", "harmless_refused"),
        ("benign", "a", "p", "harmless_refused"),
        ("pseudo_harmful", "r", "p", "harmless_still_refused"),
        ("benign", "r", "a", "harmless_answered"),
        ("benign", "a", "a", None),
        ("benign", "u", "r", None),
        ("harmful", "r", "u", None),
    ],
)
def test_each_prompt_is_on_one_side_or_on_none(label, before, after, side):
    sides = changed((label, "kind", before, after)).sides()["side"].tolist()
    assert sides == ([] if side is None else [side])


def test_costs_come_before_gains_and_prompts_stay_in_order():
    change = changed(
        ("benign", "x", "r", "a"),
        ("harmful", "x", "r", "a"),
        ("benign", "x", "a", "r"),
        ("harmful", "x", "a", "r"),
        ("harmful", "x", "r", "a"),
        ("pseudo_harmful", "x", "r", "r"),
    )
    table = change.sides()
    assert table["side"].tolist() == [
        *("harmful_answered", "harmful_answered", "harmless_refused"),
        *("harmless_still_refused", "harmless_answered", "harmful_refused"),
    ]
    assert table["prompt"].tolist() == ["1", "4", "2", "5", "0", "3"]
    assert set(table["side"]) == set(Side.__args__)


def test_no_answer_to_a_harmful_prompt_is_among_the_sides():
    table = changed(("harmful", "x", "r", "a"), ("benign", "x", "r", "a")).sides()
    shown = dict(zip(table["label"], table["reply_after"], strict=True))
    assert SECRET not in shown["harmful"]
    assert shown["benign"] == SECRET


def test_kinds_count_refusals_and_put_most_refusals_left_first():
    change = changed(
        ("pseudo_harmful", "games", "r", "a"),
        ("pseudo_harmful", "games", "r", "a"),
        ("pseudo_harmful", "garden", "r", "r"),
        ("pseudo_harmful", "garden", "a", "u"),
        ("pseudo_harmful", None, "r", "r"),
        ("benign", "cats", "r", "r"),
    )
    assert change.kinds().to_dict("records") == [
        {"category": "garden", "split": "test", "n": 1, "before": 1, "after": 1},
        {"category": "games", "split": "test", "n": 2, "before": 2, "after": 0},
    ]


def test_without_kinds_there_are_no_rows():
    assert changed(("pseudo_harmful", None, "r", "r")).kinds().empty
    assert changed(("benign", "x", "a", "a")).sides().empty


def test_labels_hold_counts_of_the_pairs_and_rates_of_all():
    change = changed(
        *[("pseudo_harmful", "x", "r", "a")] * 6, ("pseudo_harmful", "x", "u", "r")
    ).labels["pseudo_harmful"]
    assert (change.n, change.counts, change.to_answered, change.to_refused) == (6, (6, 0), 6, 0)
    assert change.p_value == pytest.approx(2 / 2**6)
    assert (change.before.n, change.after.n) == (6, 7)
    assert change.after.refused == pytest.approx(1 / 7)
    assert "fell from 6 to 0 of 6" in change.sentence()


@pytest.mark.parametrize(
    ("label", "before", "after", "wrong"),
    [
        ("harmful", "r", "a", True),
        ("harmful", "a", "r", False),
        ("benign", "a", "r", True),
        ("pseudo_harmful", "r", "a", False),
    ],
)
def test_a_way_is_wrong_only_where_the_test_finds_a_change(label, before, after, wrong):
    measured = changed(*[(label, "x", before, after)] * 6).labels[label]
    chance = changed(*[(label, "x", before, after)] * 5).labels[label]
    assert measured.wrong_way is wrong
    assert ("wrong way" in measured.sentence()) is wrong
    assert not chance.wrong_way
    assert "did not change measurably" in chance.sentence()


@pytest.mark.parametrize(
    ("labels", "lost", "words"),
    [
        ((), True, "almost nothing"),
        (("harmful", "pseudo_harmful", "benign"), True, "nearly everything"),
        (("harmful",), False, "stayed at"),
    ],
)
def test_a_model_that_refuses_all_or_nothing_has_lost_the_distinction(labels, lost, words):
    prompts = planted_prompts()
    change = compare_evaluations(
        evaluation(prompts, refuse("harmful")), evaluation(prompts, refuse(*labels))
    )
    assert change.distinction_lost is lost
    assert any(words in one for one in change.findings())
    assert change.findings()[0].startswith("The model now refuses") is lost


def test_a_part_of_a_split_is_the_comparison_of_the_parts():
    prompts = planted_prompts()
    before, after = evaluation(prompts, refuse("harmful")), evaluation(prompts, refuse())
    part = compare_evaluations(before, after).where("ood")
    direct = compare_evaluations(before.where("ood"), after.where("ood"))
    assert part == direct
    assert part.frame().equals(direct.frame())


def test_of_no_prompts_nothing_is_said():
    assert changed().findings() == ()
    assert not changed().distinction_lost


def test_unreadable_verdicts_are_counted_in_words():
    change = changed(("benign", "x", "a", "u"), ("benign", "x", "a", "a"))
    assert "0 replies before and 1 after" in change.findings()[-1]
    unread = replace(change, before=change.after, after=change.before)
    assert "1 reply before and 0 after" in unread.findings()[-1]
