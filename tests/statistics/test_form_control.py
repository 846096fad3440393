"""A form that was planted is found and named; where there is none, chance is all that is left."""

import random

import numpy as np
import pytest

from actor_lens.directions.layer_scores import LayerScores
from actor_lens.prompts.form import FORM_PARTS, balance_form
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.statistics.form_control import form_control, form_scores

WORDS = "apple bread candle dough early forest garden honey island juice kettle lemon".split()


def planted(n, ends):
    """Prompts of random words; the last mark is drawn from those of the label."""
    draw = random.Random(0)
    return PromptSet(
        tuple(
            Prompt(f"{i} {' '.join(draw.choices(WORDS, k=6))}{draw.choice(marks)}", label, "train")
            for i in range(n)
            for label, marks in ends.items()
        )
    )


def accuracies(control, pair="harmful_vs_benign"):
    return {one.part: one.accuracy for one in control.scores if one.pair == pair}


def test_a_planted_mark_is_found_by_the_parts_that_see_it():
    found = accuracies(form_control(planted(40, {"harmful": "!", "benign": "?"})))
    assert set(found) == {"all", *FORM_PARTS}
    assert [found[part].value for part in ("all", "last mark", "characters")] == [1, 1, 1]
    for part in ("length", "first word"):
        assert found[part].null_low - 0.1 <= found[part].value <= found[part].null_high + 0.1


def test_a_mark_of_some_prompts_gives_the_share_that_it_tells_apart():
    """Half of the harmful prompts end as all benign ones do: 3 of 4, labels weighted equally."""
    found = accuracies(form_control(planted(300, {"harmful": "!?", "benign": "?"})))
    assert found["last mark"].value == pytest.approx(0.75, abs=0.04)


def test_prompts_of_one_form_are_told_apart_by_chance_alone():
    control = form_control(
        planted(150, dict.fromkeys(("harmful", "benign", "pseudo_harmful"), "?!"))
    )
    for pair in ("harmful_vs_benign", "harmful_vs_pseudo_harmful"):
        one = accuracies(control, pair)["all"]
        assert one.low <= 0.5 <= one.high
    assert control.warnings == ()


def test_the_warning_names_the_labels_and_the_ways_out():
    ends = {"harmful": ".", "pseudo_harmful": "?", "benign": "."}
    control = form_control(planted(40, ends), by_part=False)
    (warning,) = control.warnings
    for words in ("harmful from pseudo-harmful", "1.00", "twin", "XSTest", "--balance form"):
        assert words in warning
    assert control.summary()["harmful_vs_pseudo_harmful"] == 1
    assert warning in repr(control)
    assert warning in LayerScores((), 1, control).warnings
    assert form_control(planted(8, ends)).warnings == ()  # too few to say


def test_balancing_takes_a_planted_form_away():
    prompts = planted(120, {"harmful": "???!", "benign": "!!!?"})
    before, after = form_control(prompts), form_control(balance_form(prompts))
    assert accuracies(before)["all"].low > 0.6
    assert accuracies(after)["last mark"].value < 0.6


@pytest.mark.parametrize("name", ["toy", "starter"])
def test_bundled_prompts_are_not_explained_by_form(name):
    for split in ("train", "validation"):
        assert form_control(load_prompts(name)[split], by_part=False).warnings == ()


def test_tables_are_numbers_alone():
    frame = form_control(planted(5, {"harmful": "!", "benign": "?"})).frame()
    assert list(frame) == [
        *("pair", "part", "accuracy", "low", "high", "null_low", "null_high"),
        "n",
    ]
    assert len(frame) == 1 + len(FORM_PARTS)
    assert form_control(planted(1, {"harmful": "!", "benign": "?"})).frame().empty


def test_form_scores_are_higher_for_what_looks_harmful():
    prompts = planted(40, {"harmful": "!", "benign": "??!"})
    looks = form_scores(prompts)
    ends = np.array([text[-1] for text in prompts.texts])
    assert looks[ends == "!"].min() > looks[ends == "?"].max()
