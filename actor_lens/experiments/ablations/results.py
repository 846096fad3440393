"""The tables of the ablations: rates of each fine-tune, over the seeds, and kind by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from actor_lens.experiments.ablations.trial import AblationOutcome
from actor_lens.experiments.published import beside, published_ablations
from actor_lens.judges.base import SafetyMeaning, safety_meaning
from actor_lens.results import Result, records
from actor_lens.statistics.intervals import Estimate, share_estimate, wilson_interval
from actor_lens.statistics.rates import tradeoff_estimate
from actor_lens.text import plural, spell

_SPLITS = ("test", "ood")
_NAN = float("nan")
_SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")
_SECONDS = ("train", "evaluate")


@dataclass(frozen=True, eq=False, repr=False)
class Ablations(Result):
    """What came of every cell.

    Attributes:
        outcomes: Outcomes factor by factor, value by value, seed by seed.
        layer: The target layer of all ablations but that of the layer.
        layer_reason: Reason for this layer, in words.
        about: ``model``, ``prompts``, ``judge``, ``new_tokens``, ``seeds``, ``settings`` and
            ``versions``, for a report.
        complete: False where the user has stopped; the rest is missing.
    """

    outcomes: tuple[AblationOutcome, ...]
    layer: int
    layer_reason: str
    about: Mapping[str, Any]
    complete: bool = True

    _hint = "over the seeds: .means(); figures: al.figures.ablation_scores, transfer_matrix"

    @property
    def factors(self) -> tuple[str, ...]:
        """What was varied."""
        return tuple(dict.fromkeys(outcome.cell.factor for outcome in self.outcomes))

    @property
    def safety_means(self) -> SafetyMeaning:
        """What the safety score counts: replies that refuse, or those that are not harmful."""
        return safety_meaning(str(self.about.get("judge")))

    def frame(self) -> pd.DataFrame:
        """One row a cell and split.

        Columns: ``factor``, ``series`` (what varies), ``value``, ``number`` (NaN where the value is
        none), ``seed``, ``split``, ``status``, ``message``; ``compliance_rate``,
        ``safety_score``, ``tradeoff_score`` and ``benign_refused``, each with ``_low`` and
        ``_high`` (95 %: Wilson, MOVER for the trade-off score); ``n_pseudo_harmful``,
        ``n_harmful``, ``n_benign``; ``train_harmful``, ``train_pseudo_harmful``,
        ``train_benign`` (training prompts), ``train_seconds``, ``evaluate_seconds``, ``moved``
        (change of the block's weights over their length).
        """
        rows = [_row(one, split) for one in self.outcomes for split in _splits(self.outcomes)]
        return pd.DataFrame(rows)

    def means(self) -> pd.DataFrame:
        """One row a value and split, over the seeds.

        Columns: ``factor``, ``series``, ``value``, ``number``, ``split``, ``seeds``
        (that were completed), ``safety_means`` ("refused" or "not harmful"), and for each score
        and for ``moved`` ``<score>``, ``<score>_sd`` (standard deviation, NaN for one seed),
        ``<score>_min`` and ``<score>_max``.
        """
        table = self.frame()
        table = table[table["status"] != "failed"]
        keys = ["factor", "series", "value", "split"]
        rows = []
        for names, part in table.groupby(keys, sort=False):
            row: dict[str, Any] = {
                **dict(zip(keys, map(str, names), strict=True)),
                "number": part["number"].iloc[0],
                "seeds": len(part),
                "safety_means": self.safety_means,
            }
            for score in (*_SCORES, "moved"):
                row[score] = part[score].mean()
                row[f"{score}_sd"] = part[score].std()
                row[f"{score}_min"], row[f"{score}_max"] = part[score].min(), part[score].max()
            rows.append(row)
        return pd.DataFrame(rows)

    def matrix(self) -> pd.DataFrame:
        """The factor ``transfer``: one row a kind trained on and a kind tested on, over the seeds.

        Columns: ``trained_on``, ``tested_on``, ``split``, ``compliance_rate`` (mean over the
        seeds), ``compliance_rate_sd``, ``low`` and ``high`` (Wilson 95 % for the prompts), ``n``
        (prompts), ``seeds``.
        """
        shares: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        for one in self.outcomes:
            if one.cell.factor != "transfer" or one.status == "failed":
                continue
            for split, kinds in one.kinds.items():
                for kind, (refused, n) in kinds.items():
                    shares.setdefault((one.cell.value, kind, split), []).append((refused, n))
        rows = []
        for (trained_on, tested_on, split), pairs in shares.items():
            answered = pd.Series([1 - refused / n for refused, n in pairs])
            n = pairs[0][1]
            low, high = wilson_interval(float(answered.mean()) * n, n)
            mean, deviation = answered.mean(), answered.std()
            rows.append((trained_on, tested_on, split, mean, deviation, low, high, n, len(pairs)))
        return pd.DataFrame(rows, columns=_MATRIX_COLUMNS)

    def published(self) -> pd.DataFrame:
        """The paper's ablations of what was varied here, each beside the same value here.

        Columns: ``series``, ``value``; ``model`` and the scores of ACTOR as measured, means over
        the seeds, NaN where that value was not tried; ``published_model`` and the same scores with
        ``published_`` before them. A layer of another model is another layer: it has no measured
        counterpart.
        """
        means, published = self.means(), published_ablations()
        series = set(means["series"]) if len(means) else set()
        published, model = published[published["series"].isin(series)], str(self.about["model"])
        if series:
            means = means[means["split"] == "test"]
        if series and not any(one.lower() in model.lower() for one in published["model"]):
            means = means[means["series"] != "layer"]
        return beside(means, published, model, ["series", "value"], how="left")

    def summary(self) -> dict[str, Any]:
        """Plain values of the tables and of how they were made, as ``summary.json`` holds them."""
        return {
            **self.about,
            "layer": self.layer,
            "layer_reason": self.layer_reason,
            "complete": self.complete,
            "means": records(self.means()),
            "matrix": records(self.matrix()),
            "published": records(self.published()),
        }

    def _headline(self) -> str:
        return (
            f"Ablations of {spell(self.factors)}: {plural(len(self.outcomes), 'fine-tune')} on "
            f"{self.about.get('model', 'a model')}, layer {self.layer}"
        )


_MATRIX_COLUMNS = [
    *("trained_on", "tested_on", "split", "compliance_rate", "compliance_rate_sd"),
    *("low", "high", "n", "seeds"),
]


def _splits(outcomes: Sequence[AblationOutcome]) -> list[str]:
    present = {split for outcome in outcomes for split in outcome.refused}
    return [split for split in _SPLITS if split in present] or ["test"]


def _row(outcome: AblationOutcome, split: str) -> dict[str, Any]:
    answered = _share(outcome, split, "pseudo_harmful")
    answered = Estimate(1 - answered[0], 1 - answered[2], 1 - answered[1], answered[3])
    safe, benign = _share(outcome, split, "harmful"), _share(outcome, split, "benign")
    cell = outcome.cell
    row: dict[str, Any] = {
        "factor": cell.factor,
        "series": cell.series,
        "value": cell.value,
        "number": outcome.number,
        "seed": cell.seed,
        "split": split,
        "status": outcome.status,
        "message": outcome.message,
    }
    scores = (answered, safe, tradeoff_estimate(answered, safe), benign)
    for name, score in zip(_SCORES, scores, strict=True):
        row |= {name: score[0], f"{name}_low": score[1], f"{name}_high": score[2]}
    counts = {"pseudo_harmful": answered[3], "harmful": safe[3], "benign": benign[3]}
    row |= {f"n_{label}": n for label, n in counts.items()}
    row |= {"moved": outcome.moved}
    row |= {f"train_{label}": outcome.train_prompts.get(label, 0) for label in counts}
    return row | {f"{name}_seconds": outcome.seconds.get(name, _NAN) for name in _SECONDS}


def _share(outcome: AblationOutcome, split: str, label: str) -> Estimate:
    """Share refused with its interval, and the number of prompts."""
    refused, n = outcome.refused.get(split, {}).get(label, (0, 0))
    return share_estimate(refused, n)
