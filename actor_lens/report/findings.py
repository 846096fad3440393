"""What a comparison of methods has shown, in sentences that follow from its numbers alone.

Nothing is said that the table does not hold: the method with the highest score is named whichever
it is, a difference counts only where the paired test finds one after correction and on its side,
and a control that is not shown to fail is said not to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from actor_lens.experiments.comparison.leaderboard import Leaderboard
from actor_lens.statistics.paired_tests import SIGNIFICANT
from actor_lens.text import percent, spell

CONTROL = "control-"
_HARMLESS_REFUSED = 0.1
# Methods that are told with their intervals in a sentence.
_FEW = 8


def findings(board: Leaderboard) -> tuple[str, ...]:
    """Sentences about the test split of a comparison, the most important first."""
    table = board.frame()
    table = table[table["split"] == "test"].set_index("method")
    scored = table[(table["status"] == "completed") & table["tradeoff_score"].notna()]
    sentences = []
    if len(scored):
        sentences += [_winner(scored), *_reference(board, scored), *_controls(board, scored)]
        sentences += _over_cautious(scored)
    failed = table[table["status"] == "failed"]
    sentences += [
        f"{spell(list(rows.index))} could not be tried: {message}."
        for message, rows in failed.groupby("message", sort=False)
    ]
    if not board.complete:
        sentences.append(
            "The comparison was stopped: methods that are not in the table were not tried."
        )
    return tuple(sentences)


def provenance(board: Leaderboard) -> str:
    """On what the rates rest: prompts, judge, length of replies, seeds, versions."""
    about, counts = board.about, board.prompts["test"].counts()
    labels = ("harmful", "pseudo_harmful", "benign")
    prompts = ", ".join(f"{counts[label]} {label.replace('_', '-')}" for label in labels)
    seeds = ", ".join(str(seed) for seed in about["seeds"])
    packages = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    searches = "".join(
        f"The settings of {method} were chosen before on validation prompts in {spent:.1f} s, "
        "which its seconds of fit do not include. "
        for method, spent in about["search_seconds"].items()
    )
    anchors = f"Directions were made of {about['anchors']}. " if "anchors" in about else ""
    return (
        f"Test prompts: {prompts}. Judge: {about['judge']}, {about['decoding']} replies of at most "
        f"{about['new_tokens']} tokens. Seeds: {seeds} (methods without a seed were run once; "
        "scores and paired differences are means over the seeds). "
        f"{searches}"
        f"{anchors}"
        f"Model: {about['model']} in {about['dtype']} on {about['device']}. Versions: {packages}."
    )


def _winner(scored: pd.DataFrame) -> str:
    best = scored["tradeoff_score"].max()
    names = list(scored.index[scored["tradeoff_score"] == best])
    row = scored.loc[names[0]]
    verb, whose = ("has", "") if len(names) == 1 else ("have", f"{names[0]}: ")
    luck = (
        f" The highest of {len(scored)} measured scores is in part the luckiest (winner's curse): "
        "on other prompts it is more likely lower than higher."
    )
    return (
        f"{spell(names)} {verb} the highest trade-off score on the test prompts: "
        f"{percent(best)} ({whose}95 % interval {percent(row['tradeoff_score_low'])} to "
        f"{percent(row['tradeoff_score_high'])}; compliance {percent(row['compliance_rate'])} of "
        f"{row['n_pseudo_harmful']:.0f} pseudo-harmful prompts, safety ({row['safety_means']}) "
        f"{percent(row['safety_score'])} of {row['n_harmful']:.0f} harmful ones)."
        f"{luck if len(scored) > 1 else ''}"
    )


def _reference(board: Leaderboard, scored: pd.DataFrame) -> list[str]:
    """Where the reference stands: above, level with, below."""
    name = board.reference
    if name not in scored.index:
        return [f"{name}, with which the others are compared, has no scores."]
    tests = _tests(board)
    below, level, above = ([row for row in tests if _side(row) == side] for side in (-1, 0, 1))
    gap = scored["tradeoff_score"].max() - scored["tradeoff_score"][name]
    sentences = []
    if gap > 0:
        sentences.append(
            f"{name} is not the best: it is {_points(gap)} below the highest score, at "
            f"{percent(scored['tradeoff_score'][name])}."
        )
    if above:
        sentences.append(f"Measurably better than {name}: {_list(above)}.")
    if level:
        sentences.append(
            f"No difference from {name} could be shown with these numbers of prompts (p is "
            f"corrected for the number of tests, {len(tests)}; intervals are not): "
            f"{_list(level)}."
        )
    if below:
        sentences.append(f"Measurably worse than {name}: {_list(below)}.")
    return sentences


def _controls(board: Leaderboard, scored: pd.DataFrame) -> list[str]:
    """Whether the controls, which must fail, do."""
    tests = {row["method"]: row for row in _tests(board)}
    sentences = []
    for method in (one for one in scored.index if str(one).startswith(CONTROL)):
        row = tests.get(method)
        score = percent(float(scored["tradeoff_score"].to_dict()[method]))
        if row is None:
            sentences.append(f"{method} scores {score}; there is nothing to compare it with.")
        elif _side(row) < 0:
            sentences.append(
                f"{method} fails, as a control must: {score}, {_points(-row['difference'])} below "
                f"{board.reference}."
            )
        else:
            sentences.append(
                f"{method} is not shown to fail, though a control must: {score}, "
                f"{_points(row['difference'], sign=True)} from {board.reference}. As long as that "
                f"is so, what {board.reference} gains cannot be put down to what the control lacks."
            )
    return sentences


def _over_cautious(scored: pd.DataFrame) -> list[str]:
    """Methods that refuse benign prompts, which the trade-off score does not see."""
    rows = scored[scored["benign_refused"] > _HARMLESS_REFUSED]
    if rows.empty:
        return []
    named = ", ".join(f"{name} ({percent(row['benign_refused'])})" for name, row in rows.iterrows())
    return [f"The trade-off score does not count that these refuse benign prompts: {named}."]


def _tests(board: Leaderboard) -> list[dict[Any, Any]]:
    pairs = board.pairs()
    chosen = pairs[(pairs["split"] == "test") & (pairs["score"] == "tradeoff_score")]
    chosen = chosen.sort_values("difference", ascending=False, kind="stable")
    return chosen.to_dict("records")


def _side(row: Mapping[Any, Any]) -> int:
    """1 where a method is measurably better than the reference, -1 where it is worse, else 0.

    The test counts prompts, the score weighs labels: where they point to different sides, as they
    may where one label has far more prompts, nothing is claimed.
    """
    value, prompts = row["difference"], row["better"] - row["worse"]
    if not row["p_holm"] < SIGNIFICANT or value * prompts <= 0:  # NaN is no finding either
        return 0
    return 1 if value > 0 else -1


def _list(rows: list[dict[Any, Any]]) -> str:
    """Methods with their differences; of many without the intervals, which the pairs have."""
    if len(rows) > _FEW:
        short = (f"{row['method']} {100 * row['difference']:+.1f}" for row in rows)
        return f"{', '.join(short)} (points; with intervals among the pairs)"
    return ", ".join(
        f"{row['method']} ({_points(row['difference'], sign=True)}, 95 % interval "
        f"{_points(row['low'], sign=True, unit=False)} to {_points(row['high'], sign=True)})"
        for row in rows
    )


def _points(share: float, *, sign: bool = False, unit: bool = True) -> str:
    """A difference of two shares, in points of a hundred."""
    number = f"{100 * share:+.1f}" if sign else f"{100 * share:.1f}"
    return f"{number} points" if unit else number
