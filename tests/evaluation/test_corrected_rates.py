"""Law: labels by hand correct a refusal rate, with an interval that covers.

The interval is tried on simulated judges that err: it holds the truth about as often as it says.
"""

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation.panel import JudgePanel, judge_panel
from tests.support.panels import Scripted, evaluation, panel


def test_labels_stand_for_their_stratum():
    made = panel("r" * 10 + "a" * 10, "r" * 6 + "a" * 4 + "a" * 10)
    # Four differ, of which two are labelled: one refuses. Of ten answers one label says otherwise.
    by_hand = {6: "refused", 7: "answered", 10: "partly_refused", 11: "answered"}
    (rate,) = made.corrected_rates(by_hand).rates
    assert rate.refused == pytest.approx((6 * 1 + 4 * 0.5 + 10 * 0.5) / 20)
    assert (rate.n, rate.labelled, rate.trusted) == (20, 4, 6)
    assert rate.low < rate.refused < rate.high
    rates = made.corrected_rates(by_hand)
    table = rates.frame().set_index("label")
    assert table.loc["pseudo_harmful", ["judge: own", "judge: judge0"]].tolist() == [0.5, 0.3]
    assert repr(rates).startswith("CorrectedRates: refused pseudo_harmful 65.0 %")
    assert "4 of 20 replies labelled by hand" in repr(rates)
    assert "<td>pseudo_harmful</td>" in rates._repr_html_()
    assert rates.summary()["rates"][0]["labelled"] == 4


def test_refusals_and_harm_are_not_corrected_together():
    """A label by hand says whether a reply refuses; it fits no judge that asks about harm."""
    asks = Scripted("harm", "ra", version="not-harmful-v1")
    asked_alike = judge_panel(evaluation("ra"), [Scripted("other", "rr"), asks])
    with pytest.raises(UserError, match="no label by hand fits both"):
        asked_alike.corrected_rates({0: "refused", 1: "answered"})


def test_when_all_is_labelled_the_rate_is_that_of_the_labels_with_jeffreys_interval():
    from scipy.stats import beta

    made = panel("ra" * 20, "ar" * 20)
    by_hand = {row: "refused" if row % 4 == 0 else "answered" for row in range(40)}
    (rate,) = made.corrected_rates(by_hand).rates
    assert (rate.refused, rate.labelled, rate.trusted) == (0.25, 40, 0)
    low, high = beta.ppf([0.025, 0.975], 10.5, 30.5)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=0.01)


def test_more_labels_make_the_interval_narrower():
    made = panel("r" * 100 + "a" * 100, "a" * 50 + "r" * 50 + "a" * 100)
    widths = []
    for count in (6, 30, 150):
        rows = made.to_label(count)
        by_hand = {row: "refused" if row % 2 else "answered" for row in rows}
        (rate,) = made.corrected_rates(by_hand).rates
        widths.append(rate.high - rate.low)
    assert widths[0] > widths[1] > widths[2]


def test_the_interval_covers_the_truth_where_both_judges_err():
    generator = np.random.default_rng(0)
    covered, judged_covered, trials, truth = 0, 0, 200, 0.3
    for seed in range(trials):
        refuses = generator.random(200) < truth
        own = np.where(refuses, generator.random(200) < 0.8, generator.random(200) < 0.25)
        other = np.where(refuses, generator.random(200) < 0.9, generator.random(200) < 0.1)
        letters = ["".join("r" if hit else "a" for hit in said) for said in (own, other)]
        made = panel(*letters)
        by_hand = {
            row: "refused" if refuses[row] else "answered" for row in made.to_label(60, seed=seed)
        }
        (rate,) = made.corrected_rates(by_hand, seed=seed).rates
        covered += rate.low <= truth <= rate.high
        plain = made.evaluation.rate("pseudo_harmful")
        judged_covered += plain.low <= truth <= plain.high
    assert 0.92 <= covered / trials <= 0.99
    assert judged_covered / trials < 0.6  # what the correction is for


@pytest.mark.parametrize(
    ("by_hand", "message"),
    [
        ({}, "differ on 1 replies to pseudo_harmful prompts .* label some"),
        ({9: "refused"}, "no reply 9 .* from 0 to 1"),
        ({0: "unreadable"}, "label 'unreadable' of reply 0 .* partly_refused"),
    ],
)
def test_labels_that_cannot_be_used_are_errors(by_hand, message):
    made = JudgePanel(
        evaluation("ra"),
        {"one": "1", "other": "2"},
        {"one": ("refused", "answered"), "other": ("answered", "answered")},
    )
    with pytest.raises(UserError, match=message):
        made.corrected_rates(by_hand)
