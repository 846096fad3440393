"""Form is what can be seen without understanding; after balancing it says nothing of the label."""

from collections import Counter

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.prompts.form import FORM_PARTS, balance_form, form_features
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet

QUESTION, ORDER = "How do I cook {} rice?", "Cook {} rice now."


def prompts(split="train", **counts):
    """Harmful and other prompts, so many questions and so many orders of each label."""
    return tuple(
        Prompt(form.format(f"{label} number {i}"), label, split)
        for label, (questions, orders) in counts.items()
        for form, count in ((QUESTION, questions), (ORDER, orders))
        for i in range(count)
    )


def marks(some):
    return Counter((one.label, one.prompt[-1]) for one in some)


def test_features_are_what_they_say():
    texts = ["How is it?", "Stop, NOW 12!", "how", ""]
    features = form_features(texts)
    assert tuple(features) == FORM_PARTS
    assert all(len(values) == 4 and np.isfinite(values).all() for values in features.values())
    assert np.exp(features["length"][0]) == pytest.approx([11, 4, np.exp(10 / 3)])
    assert features["last mark"].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert features["first word"].shape == (4, 0)  # none is common
    assert form_features(["How so?", "how?", "HOW", "why"])["first word"].tolist() == [
        *([1.0], [1.0], [1.0]),
        [0.0],
    ]
    capital, capitals, digits, commas = features["characters"][1][:4]
    assert (capital, capitals, digits, commas) == (1, 4, 2, 1)


def test_words_of_one_form_have_one_form():
    one, other = (form_features([text] * 3) for text in ("Cook rice now.", "Dive deep low."))
    for part in ("length", "last mark", "characters"):
        assert (one[part] == other[part]).all()


def test_every_form_is_as_common_under_each_label_and_nothing_is_added():
    some = PromptSet(prompts(harmful=(3, 9), benign=(8, 4), pseudo_harmful=(10, 2)))
    balanced = balance_form(some)
    each = (("?", 3), (".", 2))
    assert marks(balanced) == {(label, mark): n for label in LABELS for mark, n in each}
    assert [one for one in some if one in balanced] == list(balanced)


def test_splits_are_balanced_each_by_itself_and_a_test_stays_as_it_is():
    some = PromptSet(
        prompts(harmful=(2, 5), benign=(4, 3))
        + prompts("validation", harmful=(4, 2), benign=(2, 4))
        + prompts("test", harmful=(1, 6), benign=(6, 1))
    )
    balanced = balance_form(some)
    assert balanced["test"] == some["test"]
    assert balanced.name == some.name
    for split, each in (("train", (2, 3)), ("validation", (2, 2))):
        counts = marks(balanced[split])
        assert {(counts[label, "?"], counts[label, "."]) for label in ("harmful", "benign")} == {
            each
        }


def test_the_choice_depends_on_seed_and_texts_not_on_the_order():
    some = PromptSet(prompts(harmful=(3, 3), benign=(30, 30)))
    backwards = some.select(range(len(some) - 1, -1, -1))
    assert {*balance_form(some)} == {*balance_form(backwards)}
    assert {*balance_form(some)} != {*balance_form(some, seed=1)}


def test_labels_that_share_no_form_are_an_error():
    some = PromptSet(prompts(harmful=(0, 9), benign=(9, 0)), name="mine")
    with pytest.raises(UserError, match="mine: no two train prompts of each label share a form"):
        balance_form(some)


def test_starter_prompts_keep_enough():
    some = load_prompts("starter")
    balanced = balance_form(some)
    assert min(balanced.where(split="train").counts().values()) >= 25
    assert len(set(balanced.where(split="train").counts().values())) == 1
