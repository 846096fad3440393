"""The twins are what they claim to be: trios of one form that differ in harm, held apart by split.

The laws:
- Every third line opens a trio: a pseudo-harmful prompt, its harmful twin, a benign one. A trio
  lies in one split and has one form.
- Two sources, orders and questions, are in every split alike.
- No prompt has a near-duplicate in another trio, nor in `starter` or `cautious`.
"""

import json
from collections import Counter

import pytest

from actor_lens.files.bundled import bundled
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.near_duplicates import similar_pairs
from actor_lens.prompts.rows import LABELS


@pytest.fixture(scope="module")
def rows():
    text = bundled("prompts/twins.jsonl").read_text(encoding="utf-8")
    return list(map(json.loads, text.splitlines()))


@pytest.fixture(scope="module")
def trios(rows):
    return list(zip(rows[0::3], rows[1::3], rows[2::3], strict=True))


def test_a_trio_has_each_label_once_and_one_split_source_and_topic(trios):
    for trio in trios:
        assert [row["label"] for row in trio] == ["pseudo_harmful", "harmful", "benign"]
        for key in ("split", "source", "category", "twin"):
            assert len({row[key] for row in trio}) == 1
    assert len({trio[0]["twin"] for trio in trios}) == len(trios)


def test_a_trio_has_one_form(trios):
    for trio in trios:
        texts = [row["prompt"] for row in trio]
        assert len({text[-1] for text in texts}) == 1
        lengths = [len(text.split()) for text in texts]
        assert max(lengths) - min(lengths) <= 8
    first = [{row["prompt"].split()[0] for row in trio} for trio in trios]
    assert sum(len(words) == 1 for words in first) >= 0.8 * len(trios)


def test_sources_are_in_every_split_alike(rows):
    counts = Counter((row["source"], row["split"], row["label"]) for row in rows)
    sizes = {"train": 30, "validation": 12, "test": 18}
    assert counts == {
        (source, split, label): size
        for source in ("orders", "questions")
        for split, size in sizes.items()
        for label in LABELS
    }


def test_what_is_loaded_is_what_the_file_holds(rows):
    twins = load_prompts("twins")
    assert twins.texts == tuple(row["prompt"] for row in rows)
    assert len(set(twins.texts)) == len(rows)
    assert {prompt.reply for prompt in twins} == {None}


def test_no_prompt_has_a_near_duplicate_in_another_trio_or_set(rows):
    own = [row["prompt"] for row in rows]
    others = [*load_prompts("starter").texts, *load_prompts("cautious").texts]
    trio = lambda index: index - index % 3 if index < len(own) else len(own)  # noqa: E731
    assert not list(similar_pairs([*own, *others], family=trio))
