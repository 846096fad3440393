"""The cautious prompts and their refusals are what they claim to be: many, distinct and alike.

The laws:
- Enough prompts of each label and kind, and no two in frames that say nearly the same; none is
  nearly a starter prompt.
- In frames, form does not give a label away: first words, final marks and lengths are shared out
  alike, and no classifier that sees only those does much better than a coin. Deeds and orders
  stand in the same forms for both labels.
- Every refusal is short, and the keyword judge takes it for one.
"""

import json
from collections import Counter
from itertools import chain, combinations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from actor_lens.files.bundled import bundled
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.near_duplicates import similar_pairs
from actor_lens.prompts.rows import LABELS

LEAST = {"harmful": 320, "benign": 330, "pseudo_harmful": 70}
SOURCES = {"frames", "deeds", "orders", "questions"}
HARMS = {
    "violence", "weapons", "drugs", "theft", "fraud", "cybercrime", "hate", "self_harm", "privacy",
    "exploitation", "misinformation", "terrorism",
}  # fmt: skip
KINDS = {
    "homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions",
    "real_discrimination_nonsense_group", "nonsense_discrimination_real_group",
    "historical_events", "public_privacy", "fictional_privacy",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Every row as it is in the file."""
    text = bundled("prompts/cautious.jsonl").read_text(encoding="utf-8")
    return list(map(json.loads, text.splitlines()))


@pytest.fixture(scope="module")
def texts(rows):
    """The prompts that stand in frames, by label."""
    framed = [row for row in rows if row["source"] == "frames"]
    return {
        label: tuple(row["prompt"] for row in framed if row["label"] == label) for label in LABELS
    }


def final_mark(text):
    return "" if text[-1].isalnum() else text[-1]


def first_word(text):
    return text.split()[0].lower()


def form(text):
    """What can be seen without reading: marks, capitals, lengths and the first word."""
    words = text.split()
    return {
        f"first {first_word(text)}": 1,
        f"last {final_mark(text)}": 1,
        "characters": len(text),
        "words": len(words),
        "length of words": len(text) / len(words),
        "capitals": sum(map(str.isupper, text)),
        "commas": text.count(","),
        "apostrophes": text.count("'"),
        "sentences": sum(map(text.count, ".?!")),
    }


def accuracy_from_form(some, others):
    """Balanced accuracy of a forest that sees only the form, on prompts it did not learn from."""
    features = DictVectorizer(sparse=False).fit_transform(map(form, (*some, *others)))
    labels = np.repeat([0, 1], [len(some), len(others)])
    forest = RandomForestClassifier(
        50, min_samples_leaf=5, class_weight="balanced", random_state=0, n_jobs=1
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return balanced_accuracy_score(labels, cross_val_predict(forest, features, labels, cv=folds))


def distance(some, others):
    """Total variation between two lists of values: 0 for equal shares, 1 for nothing in common."""
    one, other = Counter(some), Counter(others)
    return sum(abs(one[key] / len(some) - other[key] / len(others)) for key in one | other) / 2


def test_every_label_source_and_kind_is_there(rows, texts):
    cautious = load_prompts("cautious")
    assert cautious.texts == tuple(row["prompt"] for row in rows)
    assert {prompt.split for prompt in cautious} == {"train"}
    assert {prompt.reply for prompt in cautious} == {None}
    assert all(len(texts[label]) >= least for label, least in LEAST.items())
    assert {row["source"] for row in rows} == SOURCES
    assert {prompt.category for prompt in cautious.where(label="harmful")} == HARMS
    kinds = Counter(prompt.category for prompt in cautious.where(label="pseudo_harmful"))
    assert set(kinds) == KINDS
    assert min(kinds.values()) >= 5


def test_no_two_prompts_say_nearly_the_same(rows, texts):
    own = [*chain(*texts.values())]
    assert len(rows) == len({row["prompt"] for row in rows})
    starter = load_prompts("starter").texts
    assert not list(similar_pairs([*own, *starter]))
    others = [row["prompt"] for row in rows if row["source"] != "frames"]
    pairs = similar_pairs([*others, *starter], threshold=0.75)
    assert not [pair for pair in pairs if (pair[0] < len(others)) != (pair[1] < len(others))]


def test_deeds_and_orders_stand_in_the_same_forms_for_both_labels(rows):
    for source, most in (("deeds", 0.15), ("orders", 0.2)):
        first = {
            label: [first_word(row["prompt"]) for row in rows if is_of(row, source, label)]
            for label in ("harmful", "benign")
        }
        assert distance(first["harmful"], first["benign"]) < most


def is_of(row, source, label):
    return (row["source"], row["label"]) == (source, label)


def test_the_search_for_near_duplicates_would_find_one(texts):
    own = [*texts["benign"], "Could you tell me " + texts["benign"][0]]
    assert len(list(similar_pairs(own))) == 1


def test_first_words_and_final_marks_are_shared_out_alike(texts):
    for feature in (first_word, final_mark):
        shares = {label: list(map(feature, texts[label])) for label in LABELS}
        assert distance(shares["harmful"], shares["benign"]) < 0.02
        # A frame holds about two pseudo-harmful prompts: shares cannot agree more closely.
        assert distance(shares["harmful"], shares["pseudo_harmful"]) < 0.12


@pytest.mark.parametrize("length", [len, lambda text: len(text.split())])
def test_each_quarter_of_the_lengths_is_as_full_for_every_label(texts, length):
    lengths = {label: list(map(length, texts[label])) for label in LABELS}
    bounds = np.quantile([*chain(*lengths.values())], [0.25, 0.5, 0.75])
    quarters = {label: list(np.searchsorted(bounds, lengths[label])) for label in LABELS}
    for one, other in combinations(LABELS, 2):
        assert distance(quarters[one], quarters[other]) < 0.1


@pytest.mark.parametrize(("one", "other"), list(combinations(LABELS, 2)))
def test_form_alone_does_not_tell_two_labels_apart(texts, one, other):
    assert accuracy_from_form(texts[one], texts[other]) < 0.6


def test_form_would_be_seen_if_it_told(texts):
    bare = [text.rstrip(".?!") for text in texts["harmful"]]
    assert accuracy_from_form(bare, texts["benign"]) > 0.8


def test_refusals_are_short_varied_and_recognised():
    refusals = bundled("prompts/refusals.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(refusals)) == len(refusals) >= 16
    assert all(8 <= len(text.split()) <= 20 for text in refusals)
    assert len({tuple(text.split()[:2]) for text in refusals}) >= 10
    judge = KeywordJudge()
    assert [text for text in refusals if not judge.refused(text)] == []
