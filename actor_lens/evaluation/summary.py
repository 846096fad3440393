"""The plain records that ``summary.json`` is made of."""

from __future__ import annotations

from typing import Any

from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.results import records

SCORES = ("compliance_rate", "safety_score", "tradeoff_score")
_MEASURES = (*SCORES, "twins", "faults")


def rates_and_scores(evaluation: Evaluation) -> dict[str, Any]:
    """Rates on the test and out-of-distribution prompts; scores and twins on the test prompts."""
    test = evaluation.where("test").summary()
    return {
        "test": test["rates"],
        "ood": evaluation.where("ood").summary()["rates"],
        **{score: test[score] for score in _MEASURES},
    }


def before_after(before: Evaluation, after: Evaluation | None) -> dict[str, Any]:
    """Rates, scores and paired tests of two evaluations; of one, where there is no run."""
    first = rates_and_scores(before)
    second = rates_and_scores(after) if after is not None else {}
    change = compare_evaluations(before.where("test"), after.where("test")) if after else None
    return {
        "before": first["test"],
        "after": second.get("test", {}),
        "ood": {"before": first["ood"], "after": second.get("ood", {})},
        **{score: {"before": first[score], "after": second.get(score)} for score in _MEASURES},
        "change": records(change.frame()) if change is not None else [],
        "safety_means": before.safety_means,
        "judge": before.judge,
        "new_tokens": before.new_tokens,
        "decoding": "greedy",
    }
