"""The plain records that ``summary.json`` is made of."""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.prompts.rows import LABELS

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("compliance_rate", "safety_score", "tradeoff_score")
_PACKAGES = ("torch", "transformers", "transformer_lens", "scikit-learn", "numpy", "pandas")


def rates(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """``refused``, ``n``, ``low``, ``high`` and ``n_unreadable`` of each label that occurs."""
    labels = [label for label in LABELS if label in evaluation.prompts.labels]
    found = {label: evaluation.rate(label) for label in labels}
    return {label: {**vars(rate), "refused": plain(rate.refused)} for label, rate in found.items()}


def rates_and_scores(evaluation: Evaluation) -> dict[str, Any]:
    """Rates on the test and out-of-distribution prompts, and the scores on the test prompts."""
    test = evaluation.where("test")
    return {
        "test": rates(test),
        "ood": rates(evaluation.where("ood")),
        **{score: plain(getattr(test, score)) for score in SCORES},
    }


def before_after(before: Evaluation, after: Evaluation | None) -> dict[str, Any]:
    """Rates, scores and paired tests of two evaluations of the same prompts.

    Args:
        before: The untouched model.
        after: With a run applied, or None where there is no run.
    """
    first = rates_and_scores(before)
    second = rates_and_scores(after) if after is not None else {}
    change = compare_evaluations(before.where("test"), after.where("test")) if after else None
    return {
        "before": first["test"],
        "after": second.get("test", {}),
        "ood": {"before": first["ood"], "after": second.get("ood", {})},
        **{score: {"before": first[score], "after": second.get(score)} for score in SCORES},
        "change": records(change.frame()) if change is not None else [],
        "judge": before.judge,
        "new_tokens": before.new_tokens,
        "decoding": "greedy",
    }


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values."""
    return [
        {str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")
    ]


def plain(value: Any) -> Any:
    """A value for JSON, which has neither NaN nor infinity: null stands for "not measured"."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    found = {package: version(package) for package in _PACKAGES}
    return {"actor_lens": version("actor-lens"), "python": platform.python_version(), **found}
