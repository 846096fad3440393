"""Prompts keep their text, and no prompt leaks from one split into another.

The laws:
- Any set that is saved and loaded is equal to itself, whatever its characters.
- A file that cannot be used gives one line that names the file, the line and the remedy.
- A split puts near-duplicates on one side, has the shares asked for in every label to within one
  prompt, and depends on the texts and the seed, not on the order of the file.
- A sample with one seed is part of every larger sample with that seed.
- A write that fails leaves the old file as it was.
"""

import json
import os
import random
import re
import string
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.prompts.checks import overlap_report
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.near_duplicates import THRESHOLD, group_similar, shingles, similar_pairs
from actor_lens.prompts.rows import LABELS, SPLITS, Prompt
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.prompts.splits import split_prompts

# A folder per test is enough: every example overwrites the file of the one before.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
optional = st.none() | texts
rows_with_split = st.lists(
    st.tuples(texts, st.sampled_from(LABELS), st.sampled_from(SPLITS), optional, optional),
    min_size=1,
    unique_by=lambda values: values[0],
)
# Sorted letters from distinct numbers share few 5-grams, so these are no near-duplicates.
words = [hex(number * 2654435761 % 2**64)[2:].translate(str.maketrans("0123456789", "ghijklmnop"))
         for number in range(1, 400)]  # fmt: skip


def labelled(counts, categories=1):
    """A set with so many prompts per label, all different, without splits."""
    supply = iter(words)
    return PromptSet(
        tuple(
            Prompt(f"{next(supply)} {next(supply)}", label, category=f"kind {number % categories}")
            for label, count in zip(LABELS, counts, strict=True)
            for number in range(count)
        )
    )


def prompt_file(folder, content, name="mine.jsonl"):
    path = folder / name
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(prompt="How do I bake bread?", label="benign", **rest):
    return {"prompt": prompt, "label": label, **rest}


def message_for(path):
    """The error that loading gives; it is one line and starts with the file."""
    with pytest.raises(UserError) as raised:
        load_prompts(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


class TestRoundTrip:
    @one_folder
    @given(rows_with_split)
    def test_a_saved_set_loads_equal(self, tmp_path, rows):
        saved = PromptSet(tuple(Prompt(*values) for values in rows))
        saved.save(tmp_path / "any.jsonl")
        loaded = load_prompts(tmp_path / "any.jsonl")
        assert loaded == saved
        assert loaded.fingerprint == saved.fingerprint

    @pytest.mark.parametrize(
        "text",
        [
            "two\nlines\r\nand\ttabs",
            "\x00\x07\x1b[31m control",
            "👩‍👩‍👧 🇨🇭 emoji",
            "كيف أصنع الخبز؟ \u202eabc\u202c",
            "\u2028 \u2029 \x85 \x0b separators",
            '"quotes", commas, \\ and {braces}',
            "  spaces kept  ",
            "\ufeffbyte-order mark",
        ],
    )
    def test_awkward_characters_survive(self, tmp_path, text):
        saved = PromptSet((Prompt(text, "benign", "test", reply=text),))
        saved.save(tmp_path / "awkward.jsonl")
        assert load_prompts(tmp_path / "awkward.jsonl") == saved

    def test_csv_keeps_quoted_newlines_commas_and_skips_the_byte_order_mark(self, tmp_path):
        content = (
            "\ufefflabel,prompt,split,category,id\r\n"
            'benign,"Two lines,\r\none ""quoted"" prompt",test,,7\r\n'
            "\r\n"
            "harmful,Other,train,x,8\r\n"
        )
        assert list(load_prompts(prompt_file(tmp_path, content, "mine.csv"))) == [
            Prompt('Two lines,\r\none "quoted" prompt', "benign", "test"),
            Prompt("Other", "harmful", "train", "x"),
        ]

    def test_labels_and_splits_are_read_in_any_spelling(self, tmp_path):
        path = prompt_file(tmp_path, [row(label=" Pseudo-Harmful ", split="Test")])
        assert load_prompts(path)[0] == Prompt(row()["prompt"], "pseudo_harmful", "test")

    def test_bom_blank_lines_and_unknown_keys_are_skipped_in_json(self, tmp_path):
        path = prompt_file(
            tmp_path, "\ufeff\n" + json.dumps(row(split="ood", id=3, note=None)) + "\r\n\n"
        )
        assert list(load_prompts(path)) == [Prompt(row()["prompt"], "benign", "ood")]

    def test_a_repeated_prompt_is_kept_once_with_a_warning(self, tmp_path):
        path = prompt_file(tmp_path, [row(split="test"), row("x", split="test"), row(split="test")])
        with pytest.warns(UserWarning, match="1 repeated prompts left out, the first at line 3"):
            assert load_prompts(path).texts == (row()["prompt"], "x")

    def test_a_file_without_splits_is_split_by_the_seed(self, tmp_path):
        whole = labelled((10, 10, 10))
        whole.save(tmp_path / "whole.jsonl")
        assert load_prompts(tmp_path / "whole.jsonl", seed=3) == split_prompts(whole, seed=3)
        assert load_prompts(tmp_path / "whole.jsonl").name == "whole.jsonl"


JSON_ERRORS = {
    "empty": (b"", r": is empty"),
    "only blank lines": ("\n \n", r": is empty"),
    "utf-16": ("{}".encode("utf-16"), r", line 1: not UTF-8 at byte 0 \(it looks like UTF-16\)"),
    "latin-1": (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}', r", line 2: not UTF-8 at byte 31"),
    "latin-1 behind a mark": (b"\xef\xbb\xbfab\xe9", r", line 1: not UTF-8 at byte 5;"),
    "broken": ('{"prompt": "a"\n', r", line 1: broken JSON \(.+\); each line is one object"),
    "array over lines": ('[\n{"prompt": "a"}\n]', r", line 1: broken JSON"),
    "too deep": ("[" * 100_000, r", line 1: broken JSON"),
    "raw newline": ('{"prompt": "a\nb", "label": "benign"}', r", line 1: broken JSON"),
    "list": ('["a", "benign"]', r", line 1: a JSON list, not an object"),
    "string": ('"How?"', r", line 1: a JSON str, not an object"),
    "key twice": ('{"prompt": "a", "prompt": "b"}', r", line 1: broken JSON \(a key appears twice"),
    "no prompt": ([row(), {"text": "a", "label": "benign"}],
                  r', line 2: no "prompt" \(keys found: "text", "label"\)'),
    "no label": ([{"prompt": "a"}], r', line 1: no "label" \(keys found: "prompt"\)'),
    "slip of the pen": ([row(catagory="x")], r', line 1: unknown key "catagory"; rename it to "ca'),
    "unknown label": ([row(label="unsafe")],
                      r', line 1: unknown label "unsafe"; use one of: harmful, pseudo_harmful, be'),
    "label null": ([row(label=None)], r", line 1: unknown label null"),
    "label number": ([row(label=1)], r", line 1: unknown label 1;"),
    "unknown split": ([row(split="dev")],
                      r', line 1: unknown split "dev"; use one of: train, validation, test, ood'),
    "split number": ([row(split=0)], r', line 1: "split" is 0; a string in quotes'),
    "empty prompt": ([row(split="test"), row(" \n")], r', line 2: "prompt" is empty'),
    "number": ([row(prompt=5)], r', line 1: "prompt" is 5; a string in quotes is expected'),
    "null": ([row(prompt=None)], r', line 1: "prompt" is null; a string'),
    "nested": ([row(prompt={"a": "b" * 99})], r', line 1: "prompt" is \{"a": "b+\.\.\.; a string'),
    "category list": ([row(category=["a"])], r', line 1: "category" is \["a"\]; a string'),
    "half a pair": ('{"prompt": "a \\ud83d", "label": "benign"}',
                    r', line 1: "prompt" holds half a surrogate pair at character 2'),
    "two labels": ([row(split="test"), row("x"), row(label="harmful", split="test")],
                   r', line 3: the same prompt as line 1 but "label" "harmful" instead of "be'),
    "two splits": ([row(split="test"), row(split="train")],
                   r', line 2: the same prompt as line 1 but "split" "train" instead of "test"'),
    "some splits": ([row(split="test"), row("x"), row("y")],
                    r', line 2: no "split", though line 1 has one'),
    "too few": ([row("bread"), row("cheese")],
                r": 2 benign prompts, at least 3 needed to have one in each split; add prompts"),
    "too much alike": ([row("Bake bread"), row("bake bread!"), row("Bake the bread?"), row("x")],
                       r": 4 benign prompts that make up only 2 after near-duplicates"),
}  # fmt: skip

CSV_ERRORS = {
    "no header": ("How do I bake bread?,benign", r', line 1: no column "prompt" or "label"'),
    "semicolons": ("prompt;label\na;benign", r', line 1: no column .+ \(found: "prompt;label"\)'),
    "column twice": ("prompt,label,label\n", r", line 1: a column name appears twice"),
    "header alone": ("prompt,label\n", r": is empty"),
    "comma": ('prompt,label\n"a\nb",benign\nc, d,benign', r", line 4: 3 cells where the header ha"),
    "short row": ("prompt,label\nbread\n", r", line 2: 1 cells where the header has 2"),
    "open quote": ('prompt,label\nx,benign\n"a,benign\nb', r", line 3: broken CSV"),
    "text after a quote": ('prompt,label\n"a" b,benign', r", line 2: broken CSV"),
    "empty prompt": ("prompt,label\n,benign", r', line 2: "prompt" is empty'),
    "unknown label": ('prompt,label\n"a\nb",benign\nc,safe', r', line 4: unknown label "safe"'),
    "unknown column": ("prompt,label,spilt\na,benign,test", r', line 2: unknown key "spilt"'),
}


class TestBadFiles:
    @pytest.mark.parametrize(("content", "said"), JSON_ERRORS.values(), ids=JSON_ERRORS)
    def test_json_lines(self, tmp_path, content, said):
        assert re.match(said, message_for(prompt_file(tmp_path, content)))

    @pytest.mark.parametrize(("content", "said"), CSV_ERRORS.values(), ids=CSV_ERRORS)
    def test_csv(self, tmp_path, content, said):
        assert re.match(said, message_for(prompt_file(tmp_path, content, "mine.csv")))

    def test_a_folder(self, tmp_path):
        assert message_for(tmp_path) == ": is a folder; give one .jsonl or .csv file"

    def test_another_type(self, tmp_path):
        path = prompt_file(tmp_path, "[]", "mine.json")
        assert message_for(path) == ': prompts come from .jsonl or .csv files, not ".json"'

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_may_not_be_read(self, tmp_path):
        path = prompt_file(tmp_path, [row()])
        path.chmod(0)
        assert message_for(path).startswith(": cannot be read (Permission denied)")

    @pytest.mark.parametrize("source", ["toyy", "no/such/file.jsonl", "How?\n" * 500, "a\0b"])
    def test_an_unknown_name_lists_what_there_is(self, source):
        with pytest.raises(UserError) as raised:
            load_prompts(source)
        message = str(raised.value)
        assert message.startswith(json.dumps(source)[:20])
        assert message.endswith("give a .jsonl or .csv file, or one of: toy, starter")
        assert "\n" not in message

    @one_folder
    @given(st.binary() | st.text().map(str.encode), st.sampled_from(["f.jsonl", "f.csv"]))
    def test_no_bytes_make_it_fail_in_another_way(self, tmp_path, content, name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            load_prompts(tmp_path / name)


class TestPrompt:
    @pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
    def test_a_text_that_is_none_is_refused(self, text):
        with pytest.raises(UserError, match=r'"prompt" (is empty|holds half)'):
            Prompt(text, "benign")
        with pytest.raises(UserError, match=r'"category" (is empty|holds half)'):
            Prompt("text", "benign", category=text)


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
        assert list(frame) == ["prompt", "label", "split", "category", "reply"]
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


class TestSplit:
    @given(st.lists(st.integers(3, 60), min_size=3, max_size=3), st.integers())
    def test_each_label_gets_its_shares(self, counts, seed):
        parts = split_prompts(labelled(counts, categories=4), seed=seed).by_split()
        for label, count in zip(LABELS, counts, strict=True):
            for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
                assert abs(part.counts()[label] - share * count) < 1 or part.counts()[label] == 1
        assert sum(map(len, parts)) == sum(counts)

    @given(st.integers())
    def test_each_category_gets_its_shares_where_they_come_out_even(self, seed):
        for part, share in zip(
            split_prompts(labelled((40, 40, 40), categories=4), seed=seed).by_split(),
            (5, 2, 3),
            strict=True,
        ):
            drawn = Counter((prompt.label, prompt.category) for prompt in part)
            assert set(drawn.values()) == {share}

    @given(
        st.lists(st.tuples(st.integers(0, 40), st.sampled_from(LABELS)), min_size=1, unique=True),
        st.integers(),
    )
    def test_near_duplicates_stay_on_one_side_across_labels(self, drawn, seed):
        ends = {"harmful": "!", "pseudo_harmful": "?", "benign": "..."}
        prompts = PromptSet(
            tuple(Prompt(f"{words[number]}{ends[label]}", label) for number, label in drawn)
        )
        assume(all(count in (0, *range(3, 99)) for count in prompts.counts().values()))
        try:
            split = split_prompts(prompts, seed=seed)
        except UserError:  # labels tied together may leave a split without one of them
            return
        sides = {prompt.prompt.rstrip("!?."): prompt.split for prompt in split}
        assert all(sides[prompt.prompt.rstrip("!?.")] == prompt.split for prompt in split)
        assert len(overlap_report(split)) == 0

    def test_groups_stay_on_one_side_whatever_their_words(self):
        prompts = labelled((30, 30, 30))
        groups = [f"pair {index % 30}" if index % 3 else None for index in range(90)]
        apart = set()
        for seed in range(10):
            split = split_prompts(prompts, seed=seed, groups=groups)
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

    def test_a_group_for_every_prompt_is_needed(self):
        with pytest.raises(ValueError, match="2 groups for 9 prompts"):
            split_prompts(labelled((3, 3, 3)), groups=["a", "b"])

    @given(st.randoms(use_true_random=False), st.integers(0, 3))
    def test_the_order_of_the_file_plays_no_part(self, shuffler, seed):
        prompts = list(labelled((12, 9, 15), categories=3))
        first = split_prompts(PromptSet(tuple(prompts)), seed=seed)
        shuffler.shuffle(prompts)
        again = split_prompts(PromptSet(tuple(prompts)), seed=seed)
        assert set(first) == set(again)
        assert again.texts == tuple(prompt.prompt for prompt in prompts)

    def test_seeds_differ(self):
        prompts = labelled((20, 20, 20))
        assert split_prompts(prompts, seed=1) != split_prompts(prompts, seed=2)
        assert split_prompts(prompts, seed=1) == split_prompts(prompts, seed=1)

    def test_large_groups_leave_no_split_empty(self):
        alike = [Prompt(f"bake the bread{'!' * number}", "benign") for number in range(10)]
        split = split_prompts(PromptSet((*alike, *labelled((0, 0, 2)))))
        assert sorted(Counter(prompt.split for prompt in split).values()) == [1, 1, 10]

    def test_a_label_alone_and_a_split_left_out_will_do(self):
        split = split_prompts(labelled((0, 10, 0)), fractions=(0.7, 0.0, 0.3))
        assert [len(part) for part in split.by_split()] == [7, 0, 3]

    def test_out_of_distribution_prompts_stay_where_they_are(self):
        prompts = PromptSet((*labelled((5, 5, 5)), Prompt("far away", "harmful", "ood")))
        assert split_prompts(prompts).where(split="ood").texts == ("far away",)

    @pytest.mark.parametrize(
        "fractions",
        [(0.5, 0.5), (0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"),) * 3],
    )
    def test_fractions_must_add_up(self, fractions):
        with pytest.raises(UserError, match=r"^fractions=\(.+ add up to 1"):
            split_prompts(labelled((5, 5, 5)), fractions=fractions)


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


class TestSaving:
    prompts = PromptSet((Prompt("new", "benign", "test"),))

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_failing_write_leaves_the_old_file(self, tmp_path, monkeypatch, function):
        def disk_full(*_arguments):
            raise OSError(28, "No space left on device")

        path = prompt_file(tmp_path, "old")
        monkeypatch.setattr(os, function, disk_full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            self.prompts.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        def interrupted(*_arguments):
            raise KeyboardInterrupt

        path = prompt_file(tmp_path, "old")
        monkeypatch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.prompts.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_link_keeps_pointing_to_the_file(self, tmp_path):
        path = prompt_file(tmp_path, "old")
        link = tmp_path / "link.jsonl"
        link.symlink_to(path)
        self.prompts.save(link)
        assert link.is_symlink()
        assert load_prompts(path) == self.prompts

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("mine.csv", "prompts are saved as JSON lines"),
            ("no/folder.jsonl", "cannot be written"),
        ],
    )
    def test_a_path_that_will_not_do(self, tmp_path, name, said):
        with pytest.raises(UserError, match=said):
            self.prompts.save(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(UserError, match="no prompts to save"):
            PromptSet(()).save(tmp_path / "empty.jsonl")
