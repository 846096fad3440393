"""An answer is right when it says the same; a wrong one gets the hint, none gets neither."""

import pytest

from actor_lens.toy.exercises import verdict


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (3, 3),
        (0.504, 0.5),
        ([4, 3], (3, 4)),
        ({3, 4}, [4, 3]),
        ([4.0, 5.0], (5, 4)),
        ([0.5000001], [0.5]),
        (["b", "A"], ["a", "b"]),
        (" Benign", "benign"),
        (True, True),
    ],
)
def test_the_same_in_other_words_is_right(answer, right):
    assert verdict(answer, right, hint="Look.") == "Right."


@pytest.mark.parametrize(
    ("answer", "right"),
    [(3, 4), (0.52, 0.5), ([3], [3, 4]), (3, [3, 4]), ("harmful", "benign"), ("3", 4), ([], 3)],
)
def test_anything_else_gets_the_hint(answer, right):
    assert verdict(answer, right, hint="Look.") == "Not yet. Look."


def test_nothing_written_is_not_wrong():
    assert verdict(None, 3, hint="Look.") == "No answer yet."
