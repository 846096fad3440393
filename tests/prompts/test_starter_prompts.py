"""The starter prompts are what they claim to be: balanced, paired and held apart.

The laws:
- Every third line opens a trio on one topic: a pseudo-harmful prompt, its harmful twin, a benign
  prompt. A trio lies in one split.
- The twins share a trigger word, and no benign prompt holds any.
- No prompt has a near-duplicate in another split, and every kind is in every split.
"""

import re
from collections import Counter

import pytest

from actor_lens.files.bundled import bundled
from actor_lens.prompts.checks import overlap_report
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.near_duplicates import similar_pairs
from actor_lens.prompts.rows import LABELS

KINDS = {
    "software", "games", "food", "garden", "figurative", "performance", "definitions", "history",
    "health", "sport", "crafts", "fiction",
}  # fmt: skip
# Stems: "execut" stands for execute, executed and executing.
TRIGGERS = (
    "abus acid ambush arson assassin attack beat behead blackmail bleed blood bomb break burn "
    "butcher chok chop counterfeit crash death destroy doping drown drug dump enslav execut "
    "explod exploit exterminat fight fire forge gas genocide gun hack hang hijack hit inject "
    "kidnap kill knife launder massacre murder nuke overdose phish plunder poison punch ransomware "
    "rob shoot slash slaughter smash smother smuggl sniper spike stab stalk starv steal strangl "
    "strike suffocat suicide terminat terroris torch torture trap weapon"
).split()
WITH_TRIGGER = re.compile(rf"\b({'|'.join(TRIGGERS)})(?:\w{{0,3}})\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def starter():
    return load_prompts("starter")


@pytest.fixture(scope="module")
def trios(starter):
    return list(zip(starter[0::3], starter[1::3], starter[2::3], strict=True))


def triggers_in(prompt):
    return {stem.lower() for stem in WITH_TRIGGER.findall(prompt.prompt)}


def test_each_label_has_a_hundred_and_twenty_prompts_split_alike(starter):
    shares = zip(starter.by_split(), (60, 24, 36), strict=True)
    assert all(part.counts() == dict.fromkeys(LABELS, count) for part, count in shares)
    assert starter.where(split="ood").counts() == dict.fromkeys(LABELS, 0)


def test_the_lines_are_the_loaded_prompts_in_order(starter):
    lines = bundled("prompts/starter.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(starter) == len(set(starter.texts))


def test_pseudo_harmful_prompts_are_spread_over_twelve_kinds_in_every_split(starter):
    for part, count in zip(starter.by_split(), (5, 2, 3), strict=True):
        kinds = Counter(prompt.category for prompt in part.where(label="pseudo_harmful"))
        assert kinds == dict.fromkeys(KINDS, count)


def test_a_trio_has_each_label_once_and_one_split(trios):
    for trio in trios:
        assert tuple(prompt.label for prompt in trio) == ("pseudo_harmful", "harmful", "benign")
        assert len({prompt.split for prompt in trio}) == 1
        assert len({prompt.twin for prompt in trio}) == 1
    assert len({trio[0].twin for trio in trios}) == len(trios)


def test_every_pseudo_harmful_prompt_has_a_twin_that_shares_its_trigger(trios):
    unpaired = [
        pseudo_harmful.prompt
        for pseudo_harmful, harmful, _ in trios
        if not triggers_in(pseudo_harmful) & triggers_in(harmful)
    ]
    assert unpaired == []


def test_no_benign_prompt_holds_a_trigger(starter):
    benign = starter.where(label="benign")
    assert [prompt.prompt for prompt in benign if triggers_in(prompt)] == []


def test_the_triggers_vary(starter):
    used = Counter(
        trigger
        for prompt in starter.where(label="pseudo_harmful")
        for trigger in triggers_in(prompt)
    )
    assert set(used) == set(TRIGGERS)
    assert max(used.values()) <= 8


def test_no_prompt_has_a_near_duplicate(starter):
    assert len(overlap_report(starter)) == 0
    assert not list(similar_pairs(starter.texts))


def test_lengths_do_not_give_the_label_away(starter):
    lengths = {
        label: [len(text.split()) for text in starter.where(label=label).texts] for label in LABELS
    }
    means = [sum(counts) / len(counts) for counts in lengths.values()]
    assert max(means) - min(means) < 3
    assert all(5 <= count <= 30 for counts in lengths.values() for count in counts)


def test_no_replies_are_stored(starter):
    assert {prompt.reply for prompt in starter} == {None}
