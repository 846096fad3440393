"""A split has the shares asked for in every label to within one prompt, and no prompt leaks.

It puts near-duplicates and twins on one side, and depends on the texts and the seed, not on the
order of the file.
"""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.prompts.checks import overlap_report
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts
from tests.support.labelled import labelled, words


@given(st.lists(st.integers(3, 60), min_size=3, max_size=3), st.integers())
def test_each_label_gets_its_shares(counts, seed):
    parts = split_prompts(labelled(counts, categories=4), seed=seed).by_split()
    for label, count in zip(LABELS, counts, strict=True):
        for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
            assert abs(part.counts()[label] - share * count) < 1 or part.counts()[label] == 1
    assert sum(map(len, parts)) == sum(counts)


@given(st.integers())
def test_each_category_gets_its_shares_where_they_come_out_even(seed):
    for part, share in zip(
        split_prompts(labelled((40, 40, 40), categories=4), seed=seed).by_split(),
        (5, 2, 3),
        strict=True,
    ):
        drawn = Counter((prompt.label, prompt.category) for prompt in part)
        assert set(drawn.values()) == {share}


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(LABELS)), min_size=20, unique=True),
    st.integers(),
)
def test_near_duplicates_stay_on_one_side_across_labels(drawn, seed):
    ends = {"harmful": "!", "pseudo_harmful": "?", "benign": "..."}
    prompts = PromptSet(
        tuple(Prompt(f"{words[number]}{ends[label]}", label) for number, label in drawn)
    )
    try:
        split = split_prompts(prompts, seed=seed)
    except UserError:  # a label may be too rare, or leave a split without it when tied to others
        return
    sides = {prompt.prompt.rstrip("!?."): prompt.split for prompt in split}
    assert all(sides[prompt.prompt.rstrip("!?.")] == prompt.split for prompt in split)
    assert len(overlap_report(split)) == 0


def test_groups_stay_on_one_side_whatever_their_words():
    prompts = labelled((30, 30, 30))
    groups = [f"pair {index % 30}" if index % 3 else None for index in range(90)]
    twins = PromptSet(
        tuple(replace(one, twin=group) for one, group in zip(prompts, groups, strict=True))
    )
    apart = set()
    for seed in range(10):
        split = split_prompts(prompts, seed=seed, groups=groups)
        assert [one.split for one in split_prompts(twins, seed=seed)] == [
            one.split for one in split
        ]
        sides = {}
        for prompt, group in zip(split, groups, strict=True):
            sides.setdefault(group, set()).add(prompt.split)
        assert len(sides.pop(None)) == 3  # bound to nothing
        assert all(len(side) == 1 for side in sides.values())
        free = split_prompts(prompts, seed=seed)
        apart |= {
            groups[i]
            for i in range(90)
            if groups[i] and free[i].split != free[groups.index(groups[i])].split
        }
    assert apart  # without groups the pairs part


def test_a_group_for_every_prompt_is_needed():
    with pytest.raises(ValueError, match="2 groups for 9 prompts"):
        split_prompts(labelled((3, 3, 3)), groups=["a", "b"])


@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_the_file_plays_no_part(shuffler, seed):
    prompts = list(labelled((12, 9, 15), categories=3))
    first = split_prompts(PromptSet(tuple(prompts)), seed=seed)
    shuffler.shuffle(prompts)
    again = split_prompts(PromptSet(tuple(prompts)), seed=seed)
    assert set(first) == set(again)
    assert again.texts == tuple(prompt.prompt for prompt in prompts)


def test_seeds_differ():
    prompts = labelled((20, 20, 20))
    assert split_prompts(prompts, seed=1) != split_prompts(prompts, seed=2)
    assert split_prompts(prompts, seed=1) == split_prompts(prompts, seed=1)


def test_large_groups_leave_no_split_empty():
    alike = [Prompt(f"bake the bread{'!' * number}", "benign") for number in range(10)]
    split = split_prompts(PromptSet((*alike, *labelled((0, 0, 2)))))
    assert sorted(Counter(prompt.split for prompt in split).values()) == [1, 1, 10]


def test_a_label_alone_and_a_split_left_out_will_do():
    split = split_prompts(labelled((0, 10, 0)), fractions=(0.7, 0.0, 0.3))
    assert [len(part) for part in split.by_split()] == [7, 0, 3]


def test_out_of_distribution_prompts_stay_where_they_are():
    prompts = PromptSet((*labelled((5, 5, 5)), Prompt("far away", "harmful", "ood")))
    assert split_prompts(prompts).where(split="ood").texts == ("far away",)


@pytest.mark.parametrize(
    "fractions",
    [(0.5, 0.5), (0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"),) * 3],
)
def test_fractions_must_add_up(fractions):
    with pytest.raises(UserError, match=r"^fractions=\(.+ add up to 1"):
        split_prompts(labelled((5, 5, 5)), fractions=fractions)
