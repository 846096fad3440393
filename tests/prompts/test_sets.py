"""A set of prompts reads like a sequence, keeps its order, and shows no harmful prompt by itself.

The laws:
- Whatever is no prompt is refused where the set is made, not by a later stage.
- No text of a harmful prompt, and no reply, is in what a notebook cell shows.
- A sample with one seed is part of every larger sample with that seed.
- An experiment gets its three parts, or one line that names the split that has no prompts.
"""

from collections import Counter

import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st

import actor_lens as al
from actor_lens.errors import UserError
from actor_lens.prompts.checks import check_prompts, overlap_report
from actor_lens.prompts.rows import SPLITS, Prompt
from actor_lens.prompts.sets import PromptSet, require_labels
from tests.support.labelled import labelled


@pytest.fixture
def unchecked(monkeypatch):
    """Outside the tests nothing checks annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class TestPrompt:
    @pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
    def test_a_text_that_is_none_is_refused(self, text):
        with pytest.raises(UserError, match=r'"prompt" (is empty|holds half)'):
            Prompt(text, "benign")
        with pytest.raises(UserError, match=r'"category" (is empty|holds half)'):
            Prompt("text", "benign", category=text)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("text", [None, 5, ["How?"], b"How?"])
    def test_a_prompt_of_another_type_is_refused(self, text):
        with pytest.raises(UserError, match=r'"prompt" is .+ a string'):
            Prompt(text, "benign")

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("field", ["split", "category", "reply"])
    def test_another_value_of_another_type_is_refused(self, field):
        with pytest.raises(UserError, match=field):
            Prompt("text", "benign", **{field: 5})

    def test_it_shows_itself_on_one_line_unless_it_is_harmful(self):
        shown = repr(Prompt("How do I\nkill \u202ea process?" + "!" * 99, "benign", "test", "x\ny"))
        assert shown.startswith("Prompt('How do I kill a process?!!!")
        assert shown.endswith("…', 'benign', split='test', category='x y')")
        assert len(shown) < 120
        hidden = repr(Prompt("SECRET", "harmful", "test", reply="SECRET"))
        assert hidden == "Prompt((not shown), 'harmful', split='test')"
        assert "SECRET" not in repr(Prompt("text", "benign", reply="SECRET"))


class TestPromptSet:
    prompts = PromptSet(
        (
            Prompt("a", "harmful", "train", "x"),
            Prompt("b", "benign", "validation"),
            Prompt("c", "pseudo_harmful", "test", "x"),
            Prompt("d", "harmful", "ood", "y", reply="No."),
        ),
        name="letters",
    )

    def test_reads_like_a_sequence(self):
        assert len(self.prompts) == 4
        assert [prompt.prompt for prompt in self.prompts] == list(self.prompts.texts)
        assert self.prompts[-1].reply == "No."
        assert self.prompts[1:3].texts == ("b", "c")
        assert self.prompts[1:3].name == "letters"
        assert self.prompts.select([3, 0, 3]).texts == ("d", "a", "d")
        assert self.prompts.labels == ("harmful", "benign", "pseudo_harmful", "harmful")
        assert self.prompts.counts() == {"harmful": 2, "pseudo_harmful": 1, "benign": 1}

    @pytest.mark.usefixtures("unchecked")
    def test_a_list_of_prompts_makes_the_same_set_as_a_tuple(self):
        same = PromptSet(list(self.prompts), name="list")
        assert same == self.prompts
        assert hash(same) == hash(self.prompts)
        assert same.fingerprint == self.prompts.fingerprint
        assert PromptSet(iter(self.prompts)) == self.prompts

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize(
        "wrong", [None, 5, "How?", ["How?"], [{"prompt": "How?", "label": "benign"}]]
    )
    def test_what_is_no_prompt_is_refused_at_once(self, wrong):
        with pytest.raises(UserError, match=r"give Prompt\(text, label\)"):
            PromptSet(wrong)

    @pytest.mark.parametrize(
        "ask", [lambda p: p["test"], PromptSet.by_split, PromptSet.for_testing]
    )
    def test_a_set_that_is_not_split_is_told_so(self, ask):
        unsplit = PromptSet((Prompt("a", "harmful"), Prompt("b", "benign")), name="mine")
        with pytest.raises(UserError, match=r"mine: the 2 prompts have no splits; .*split_prompts"):
            ask(unsplit)

    def test_a_split_is_picked_by_its_name(self):
        for split in SPLITS:
            assert self.prompts[split] == self.prompts.where(split=split)
        with pytest.raises(UserError, match=r"unknown split .+ use one of: train"):
            self.prompts["dev"]

    def test_texts_and_prompts_are_in_it(self):
        assert "a" in self.prompts
        assert self.prompts[0] in self.prompts
        assert "A" not in self.prompts
        assert Prompt("a", "benign") not in self.prompts
        assert None not in self.prompts

    def test_the_summary_holds_plain_counts(self):
        summary = self.prompts.summary()
        assert summary == {
            "name": "letters",
            "prompts": 4,
            "labels": {"harmful": 2, "pseudo_harmful": 1, "benign": 1},
            "splits": {"train": 1, "validation": 1, "test": 1, "ood": 1},
            "fingerprint": self.prompts.fingerprint,
        }
        assert PromptSet((Prompt("a", "benign"),)).summary()["splits"] == {"none": 1}

    def test_where_takes_all_conditions_together(self):
        assert self.prompts.where(label="harmful").texts == ("a", "d")
        assert self.prompts.where(label="harmful", category="x").texts == ("a",)
        assert self.prompts.where(split="ood").texts == ("d",)
        assert self.prompts.where(category="none such").texts == ()
        assert [part.texts for part in self.prompts.by_split()] == [("a",), ("b",), ("c",)]

    @pytest.mark.parametrize("query", [{"label": "pseudo-harmful"}, {"split": "dev"}])
    def test_where_refuses_words_that_match_nothing(self, query):
        with pytest.raises(UserError, match=r"unknown (label|split) .+ use one of:"):
            self.prompts.where(**query)

    def test_frame_has_a_row_per_prompt(self):
        frame = self.prompts.frame()
        assert list(frame) == ["prompt", "label", "split", "category", "reply", "source", "twin"]
        assert [Prompt(*values) for values in frame.itertuples(index=False)] == list(self.prompts)
        assert list(PromptSet(()).frame()) == list(frame)

    def test_fingerprint_follows_content_and_order_but_not_the_name(self):
        same = PromptSet(self.prompts.prompts, name="other")
        assert same.fingerprint == self.prompts.fingerprint
        assert len(same.fingerprint) == 64
        variants = [
            self.prompts,
            self.prompts[::-1],
            self.prompts[:3],
            PromptSet((Prompt("a", "harmful", "train", reply="x"), *self.prompts[1:])),
        ]
        assert len({variant.fingerprint for variant in variants}) == len(variants)

    def test_require_labels_says_how_many_are_missing(self):
        require_labels(self.prompts, 1)
        require_labels(self.prompts, 2, labels=["harmful"])
        with pytest.raises(UserError, match="letters: 1 pseudo_harmful prompts, at least 2 needed"):
            require_labels(self.prompts, 2)


class TestSample:
    everything = labelled((40, 30, 20), categories=7)

    @given(st.integers(0, 50), st.integers(0, 50), st.integers())
    def test_samples_are_nested_and_keep_the_order(self, first, second, seed):
        small, large = sorted((first, second))
        smaller = self.everything.sample(small, seed)
        larger = self.everything.sample(large, seed)
        assert set(smaller) <= set(larger)
        assert list(larger) == [prompt for prompt in self.everything if prompt in set(larger)]
        assert larger.counts() == {
            label: min(large, count) for label, count in self.everything.counts().items()
        }

    @given(st.integers(1, 40), st.integers())
    def test_categories_differ_by_one_while_they_last(self, number, seed):
        sampled = self.everything.sample({"harmful": number}, seed).where(label="harmful")
        drawn = Counter(prompt.category for prompt in sampled)
        there = Counter(prompt.category for prompt in self.everything.where(label="harmful"))
        counts = [drawn[category] for category in there]
        exhausted = min(there.values())
        assert max(counts) - min(min(counts), exhausted) <= 1

    def test_the_order_of_the_set_plays_no_part(self):
        assert set(self.everything[::-1].sample(9)) == set(self.everything.sample(9))

    def test_seeds_differ(self):
        assert self.everything.sample(9, seed=1) != self.everything.sample(9, seed=2)

    def test_labels_that_are_not_named_are_kept_whole(self):
        sampled = self.everything.sample({"harmful": 5, "benign": 0})
        assert sampled.counts() == {"harmful": 5, "pseudo_harmful": 30, "benign": 0}

    @pytest.mark.parametrize(
        ("per_label", "said"),
        [(-1, "per_label=-1 for harmful: give a number from 0"), ({"bad": 3}, "unknown label")],
    )
    def test_impossible_numbers_are_refused(self, per_label, said):
        with pytest.raises(UserError, match=said):
            self.everything.sample(per_label)


class TestExperiment:
    prompts = PromptSet(
        (
            Prompt("far", "harmful", "ood"),
            *(Prompt(f"train {n}", "benign", "train") for n in range(4)),
            Prompt("validation", "benign", "validation"),
            *(Prompt(f"test {n}", "benign", "test") for n in range(4)),
        ),
        name="mine",
    )

    def test_it_gets_three_parts_and_out_of_distribution_prompts_follow_the_test(self):
        train, validation, tested = self.prompts.for_experiment()
        assert train == self.prompts["train"]
        assert validation == self.prompts["validation"]
        assert tested.texts == ("test 0", "test 1", "test 2", "test 3", "far")
        assert {train.name, validation.name, tested.name} == {"mine"}

    def test_parts_are_sampled_by_the_seed(self):
        train, validation, tested = self.prompts.for_experiment(2, 3, seed=1)
        assert train == self.prompts["train"].sample(2, seed=1)
        assert len(validation) == 1
        assert tested[:3] == self.prompts["test"].sample(3, seed=1)
        assert tested.texts[3:] == ("far",)

    def test_test_prompts_keep_their_order(self):
        assert self.prompts.for_testing().texts == ("far", "test 0", "test 1", "test 2", "test 3")

    @pytest.mark.parametrize("missing", ["train", "validation", "test"])
    def test_an_empty_split_is_named(self, missing):
        some = PromptSet(tuple(p for p in self.prompts if p.split != missing), name="mine")
        with pytest.raises(UserError, match=f"mine: no prompts of the split '{missing}'"):
            some.for_experiment()

    def test_without_any_test_prompts_there_is_nothing_to_test(self):
        with pytest.raises(UserError, match="mine: no prompts in the test split"):
            PromptSet(self.prompts["train"].prompts, name="mine").for_testing()


class TestShowing:
    prompts = PromptSet(
        (
            *(Prompt(f"SECRET {n} plan of a heist", "harmful", "train") for n in range(9)),
            Prompt("SECRET 0 plan of a heist!", "harmful", "test"),
            *(
                Prompt(f"How do I <b>bake</b> {n}?", "benign", "test", reply="SECRET")
                for n in range(9)
            ),
        ),
        name="<mine>",
    )

    @pytest.mark.parametrize("of", [PromptSet, check_prompts, overlap_report])
    def test_no_harmful_prompt_and_no_reply_is_in_it(self, of):
        result = self.prompts if of is PromptSet else of(self.prompts)
        for shown in (repr(result), result._repr_html_()):
            assert "SECRET" not in shown
        assert len(repr(result).splitlines()) <= 3
        assert "<mine>" in repr(result)
        assert "<mine>" not in result._repr_html_()

    def test_counts_and_three_harmless_examples_are_in_a_cell(self):
        html = self.prompts._repr_html_()
        assert "19 prompts (10 harmful, 9 benign; train 9, test 10)" in html
        assert html.count("&lt;b&gt;bake&lt;/b&gt;") == 3
        assert "<td>train</td><td>9</td><td>0</td><td>0</td>" in html

    def test_a_set_of_another_split_or_none_shows_itself_too(self):
        for prompts in (PromptSet(()), self.prompts[:2], PromptSet((Prompt("a", "benign"),))):
            assert prompts.name in repr(prompts)
            assert prompts._repr_html_()
        assert "none 1" in repr(PromptSet((Prompt("a", "benign"),)))

    def test_the_room_names_its_functions(self):
        for name in ("load_prompts", "Prompt", "PromptSet", "overlap_report", "benchmark"):
            assert getattr(al.prompts, name) is getattr(al, name)
