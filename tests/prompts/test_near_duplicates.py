"""Near-duplicates are all found, whichever way they are searched, and the report lists them.

The search gives what comparing every pair gives, in seconds for tens of thousands of prompts.
"""

import random
import string
import time

from hypothesis import given
from hypothesis import strategies as st

from actor_lens.prompts.checks import overlap_report
from actor_lens.prompts.near_duplicates import THRESHOLD, group_similar, shingles, similar_pairs
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts
from tests.support.labelled import labelled, texts


class TestOverlap:
    def test_lists_pairs_across_splits_the_most_similar_first(self):
        prompts = PromptSet(
            (
                Prompt("How do I sharpen a kitchen knife on a wet stone?", "benign", "train"),
                Prompt("How can I sharpen the kitchen knife on a wet stone", "benign", "train"),
                Prompt("How do I sharpen a kitchen knife on a wet stone now?", "benign", "ood"),
                Prompt("HOW DO I SHARPEN A KITCHEN KNIFE ON A WET STONE!", "harmful", "test"),
                Prompt("What grows in the shade of an oak?", "benign", "test"),
                Prompt("What grows in the shade of an oak?", "benign"),
            )
        )
        report = overlap_report(prompts).frame()
        assert list(report) == ["split_a", "split_b", "prompt_a", "prompt_b", "similarity"]
        sides = list(zip(report["split_a"], report["split_b"], strict=True))
        assert sides[:2] == [("train", "test"), ("train", "test")]
        assert sorted(sides[2:]) == [("ood", "test"), ("train", "ood"), ("train", "ood")]
        assert report["prompt_a"][0] in prompts.texts[:2]
        assert report["prompt_b"][0] == prompts.texts[3]
        assert list(report["similarity"][:2]) == [1.0, 1.0]
        assert report["similarity"][2:].between(THRESHOLD, 1.0, inclusive="left").all()

    def test_is_empty_where_nothing_overlaps(self):
        report = overlap_report(split_prompts(labelled((9, 9, 9)))).frame()
        assert report.empty
        assert report["similarity"].dtype == float

    def test_other_requests_in_the_same_words_are_no_near_duplicates(self):
        assert not list(
            similar_pairs(["How do I kill a Python process?", "How do I kill a person?"])
        )
        assert not list(similar_pairs(["How do I kill time?", "How do I kill weeds?"]))

    @given(
        st.lists(st.text("ab c", min_size=1, max_size=14).filter(str.strip), max_size=20),
        st.sampled_from([0.3, 0.5, THRESHOLD, 1.0]),
    )
    def test_the_search_finds_what_comparing_every_pair_finds(self, texts, threshold):
        sets = [shingles(text) for text in texts]
        expected = {
            (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            for i in range(len(sets))
            for j in range(i + 1, len(sets))
        }
        found = {(i, j): value for i, j, value in similar_pairs(texts, threshold=threshold)}
        assert found == {pair: value for pair, value in expected.items() if value >= threshold}
        groups = group_similar(texts, threshold=threshold)
        assert all(groups[i] == groups[j] for i, j in found)

    @given(texts)
    def test_any_text_has_shingles(self, text):
        assert shingles(text)

    def test_twenty_thousand_prompts_take_seconds(self):
        chooser = random.Random(0)
        vocabulary = ["".join(chooser.choices(string.ascii_lowercase, k=6)) for _ in range(3000)]
        many = [" ".join(chooser.choices(vocabulary, k=10)) for _ in range(20_000)]
        started = time.process_time()
        groups = group_similar([*many, many[0] + "!", many[1].upper()])
        # Comparing every pair would take a quarter of an hour.
        assert time.process_time() - started < 60
        assert groups == [*range(20_000), 0, 1]

    def test_prompts_that_are_all_alike_take_no_longer(self):
        started = time.process_time()
        groups = group_similar([f"Write a long story for children about number {number + 10_000}"
                                for number in range(8_000)])  # fmt: skip
        assert time.process_time() - started < 20
        assert set(groups) == {0}
