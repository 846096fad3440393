"""Where prompts are from is read, kept and shown, and held out whole when asked for.

The laws: a source comes through every format and mixture; it makes no other prompts of them, by
fingerprint; by source, no source of a label lies in two splits, each split has every label, and no
prompt resembles one of a later split; a label from one source is warned of where that matters.
"""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actor_lens as al
from actor_lens.errors import UserError
from actor_lens.prompts.checks import check_prompts, overlap_report, source_warnings
from actor_lens.prompts.rows import LABELS, Prompt, PromptWarning
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts
from tests.support.labelled import words

ROWS = [
    {"prompt": "kill it", "label": "harmful", "split": "train", "source": "xstest"},
    {"prompt": "bake it", "label": "benign", "split": "test", "source": " ours "},
    {"prompt": "paint it", "label": "benign", "split": "test"},
]
SOURCES = ["xstest", "ours", None]


def sourced(sizes):
    """So many prompts of each label and source, all different."""
    supply = iter(f"{a} {b}" for a, b in zip(words, reversed(words), strict=True))
    return PromptSet(
        tuple(
            Prompt(next(supply), label, source=source)
            for (label, source), count in sizes.items()
            for _ in range(count)
        )
    )


def spread(harmful=4, pseudo_harmful=4, benign=4, size=3):
    """So many sources of each label; sets with two labels are among them."""
    numbers = dict(zip(LABELS, (harmful, pseudo_harmful, benign), strict=True))
    return sourced({(label, f"set {n}"): size for label in LABELS for n in range(numbers[label])})


# ---- Reading, keeping, showing ----


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tabs", "frame", "rows"])
def test_every_format_takes_sources(kind, tmp_path):
    path = tmp_path / f"mine.{'jsonl' if kind == 'jsonl' else 'csv'}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind in ("csv", "tabs"):
        pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t" if kind == "tabs" else ",")
    given = {"frame": pd.DataFrame(ROWS), "rows": ROWS}.get(kind, path)
    prompts = al.load_prompts(given)
    assert [prompt.source for prompt in prompts] == prompts.frame()["source"].tolist() == SOURCES
    assert prompts.where(source="ours").texts == ("bake it",)
    prompts.save(tmp_path / "again.jsonl")
    assert al.load_prompts(tmp_path / "again.jsonl") == prompts


def test_what_is_no_source_is_read_past():
    """Files that other keys than ours were read past in still open."""
    for key in ("source", "twin"):
        odd = [{**ROWS[0], key: value} for value in ("", 3, ["a"], {"url": "b"})]
        assert [getattr(al.load_prompts([row])[0], key) for row in odd] == [None] * 4
    assert al.load_prompts([{**ROWS[2], "resource": "a", "Source": "b"}])[0].source is None


def test_naming_sources_makes_no_other_prompts():
    bare = PromptSet((Prompt("kill it", "harmful", "train", "a", "No."), Prompt("x", "benign")))
    named = PromptSet(
        (Prompt("kill it", "harmful", "train", "a", "No.", "b", "c"), Prompt("x", "benign"))
    )
    assert named.fingerprint == bare.fingerprint
    # As it was before prompts had a source: saved runs know their prompts by it.
    assert bare.fingerprint == FINGERPRINT


FINGERPRINT = "542505935e3fe2b2cfd8e6bb759811c2ef864f795fd56bbd8ef230f1e94bd27a"


def test_a_part_of_a_mixture_is_the_source_of_its_prompts(tmp_path):
    paths = [tmp_path / "mine.jsonl", tmp_path / "yours.jsonl"]
    for path, rows in zip(paths, (ROWS[:1], ROWS[2:]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.source for one in al.load_prompts(f"{paths[0]},{paths[1]}")] == ["xstest", "yours"]
    assert [one.source for one in al.load_prompts(paths[1])] == [None]


def test_parts_of_a_mixture_share_no_twins(tmp_path):
    paths = [tmp_path / "mine.jsonl", tmp_path / "yours.jsonl"]
    for path, rows in zip(paths, (ROWS[:1], ROWS[2:]), strict=True):
        path.write_text("".join(json.dumps({**row, "twin": "1"}) + "\n" for row in rows))
    assert al.load_prompts(f"{paths[0]},{paths[1]}").twins == ("mine 1", "yours 1")
    assert al.load_prompts(paths[0]).twins == ("1",)


# ---- Splits by source ----


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(3, 7), min_size=3, max_size=3), st.integers())
def test_whole_sources_are_held_out_and_every_split_has_every_label(numbers, seed):
    prompts = spread(*numbers)
    split = split_prompts(prompts, seed=seed, by_source=True)
    assert split.texts == prompts.texts
    assert split == split_prompts(prompts, seed=seed, by_source=True)
    sides = split.frame().groupby("source")["split"].nunique()
    assert (sides == 1).all()
    for part in split.by_split():
        assert all(part.counts().values())


def test_seeds_hold_out_other_sources_and_training_has_several():
    held_out = set()
    for seed in range(20):
        train, validation, test = split_prompts(
            sourced(
                {(label, f"{label} {n}"): 2 + 40 * (n == 0) for label in LABELS for n in range(5)}
            ),
            seed=seed,
            by_source=True,
        ).by_split()
        for part, least in ((train, 2), (validation, 1), (test, 1)):
            for label in LABELS:
                assert len({one.source for one in part.where(label=label)}) >= least
        held_out.add(frozenset(one.source for one in validation))
    assert len(held_out) > 5


def test_a_label_with_few_sources_is_split_prompt_by_prompt_and_said():
    prompts = spread(benign=1, pseudo_harmful=2, size=10)
    with pytest.warns(
        PromptWarning, match="pseudo_harmful prompts from 2 .+; benign prompts from 1"
    ):
        parts = split_prompts(prompts, by_source=True).by_split()
    assert [part.counts()["benign"] for part in parts] == [5, 2, 3]
    sources = [{one.source for one in part.where(label="harmful")} for part in parts]
    assert sorted(map(len, sources)) == [1, 1, 2]


def test_near_duplicates_of_held_out_prompts_are_left_out():
    prompts = spread()
    copies = [Prompt(f"{one.prompt}!", one.label, source="set 9") for one in prompts[:12]]
    with pytest.warns(PromptWarning, match="prompts left out, as they resemble"):
        split = split_prompts(PromptSet((*prompts, *copies)), by_source=True)
    assert len(overlap_report(split)) == 0
    held_out = {text.rstrip("!") for text in split.where(split="test").texts}
    assert held_out.isdisjoint(text.rstrip("!") for text in split.where(split="train").texts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (spread(harmful=2), "harmful prompts from 2 known sources; .+ at least 3"),
        (
            PromptSet((*spread(), Prompt("far off", "harmful"))),
            "harmful prompts from 4 known sources and unknown",
        ),
    ],
)
def test_too_few_sources_of_harmful_prompts_are_refused_in_one_line(prompts, message):
    with pytest.raises(UserError, match=message) as error:
        split_prompts(prompts, by_source=True)
    assert "\n" not in str(error.value)
    assert "split prompt by prompt" in str(error.value)


def test_two_sources_do_without_a_test_and_ood_stays():
    far = Prompt("far off", "harmful", "ood", source="set 0")
    prompts = PromptSet((*spread(2, 2, 2), far))
    split = split_prompts(prompts, fractions=(0.5, 0.5, 0), by_source=True)
    assert [len(part) for part in split.by_split()] == [9, 9, 0]
    assert split[-1] == far


# ---- Warnings ----


@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        ((1, 1, 1), ["harmful"]),
        ((1, 3, 3), ["harmful"]),
        ((3, 1, 3), ["pseudo-harmful"]),
        ((1, 1, 3), ["harmful", "pseudo-harmful"]),
        ((3, 3, 3), []),
    ],
)
def test_labels_from_one_source_are_warned_of(sizes, labels):
    prompts = spread(*sizes)
    lines = source_warnings(prompts)
    assert [line.split()[1] for line in lines] == labels
    assert check_prompts(prompts).warnings == lines
    unknown = source_warnings(PromptSet((*prompts, Prompt("?", "harmful"))))
    assert unknown == tuple(line for line in lines if "all harmful" not in line)


def test_prompts_without_sources_are_not_warned_of():
    assert source_warnings(al.load_prompts("starter")) == ()
