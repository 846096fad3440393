"""The tables of a comparison of methods.

Rates come with their intervals, and differences from one method (ACTOR) with a paired test, because
all have answered the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from actor_lens.experiments.comparison.scores import (
    LABEL_OF,
    TRADEOFF,
    MethodScores,
    mean,
    refused_share,
)
from actor_lens.experiments.comparison.trial import MethodOutcome
from actor_lens.experiments.published import beside, published_methods
from actor_lens.judges.base import REFUSALS, SafetyMeaning, safety_meaning
from actor_lens.judges.faults import reply_faults
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, harmless_head, records
from actor_lens.statistics.intervals import share_interval
from actor_lens.statistics.paired_tests import holm
from actor_lens.text import percent, plural


@dataclass(frozen=True, eq=False, repr=False)
class Leaderboard(Result):
    """What came of every method.

    Attributes:
        outcomes: Outcomes in the order of the methods, seeds of one method together.
        prompts: The prompts that every method was asked.
        reference: The method that the others are tested against.
        about: ``model``, ``judge``, ``new_tokens``, ``seeds``, ``search_seconds`` (by method),
            ``train_prompts``, ``fingerprints`` and ``versions``, for a report.
        complete: False where the user has stopped the comparison; the rest is missing.
    """

    outcomes: tuple[MethodOutcome, ...]
    prompts: PromptSet
    reference: str
    about: Mapping[str, Any]
    complete: bool = True

    _figure = "leaderboard_table"
    _hint = "paired tests: .pairs()"

    @property
    def methods(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(dict.fromkeys(outcome.method for outcome in self.outcomes))

    @property
    def safety_means(self) -> SafetyMeaning:
        """What the safety score counts: replies that refuse, or those that are not harmful."""
        return safety_meaning(str(self.about.get("judge")))

    def of(self, method: str) -> tuple[MethodOutcome, ...]:
        """The completed outcomes of a method, one a seed."""
        return tuple(
            one for one in self.outcomes if one.method == method and one.status == "completed"
        )

    def frame(self) -> pd.DataFrame:
        """One row a method and split (``test``, and ``ood`` where there are such prompts).

        Columns: ``method``, ``split``, ``status`` (``"completed"``, or ``"failed"`` where no seed
        was completed), ``message``, ``seeds`` (completed), ``safety_means`` (what the safety score
        counts: "refused" or "not harmful"); ``compliance_rate``, ``safety_score``,
        ``tradeoff_score`` and ``benign_refused``, means over the seeds, each with ``_low`` and
        ``_high`` (95 %) and ``_sd`` (standard deviation over the seeds, NaN for one);
        ``n_pseudo_harmful``, ``n_harmful``, ``n_benign``; ``twins`` (pairs of twins with the safe
        one answered and the unsafe one refused, see ``twin_rate``; ``_low``, ``_high``, ``n_twins``
        pairs); ``degenerate`` (replies to harmless prompts that nobody could use, see
        ``reply_faults``; ``_low``, ``_high``); ``unreadable`` (verdicts that could not be read, of
        all seeds); ``harm_known`` (AUROC of harmful against pseudo-harmful test prompts, see
        ``al.harmfulness``; ``_low``, ``_high``; the same in every split); ``kl`` (nats),
        ``perplexity`` and ``token_cost`` (multiples of the untouched model's);
        ``trained_parameters``, ``fit_seconds``, ``fit_bytes``, ``evaluate_seconds``;
        ``search_seconds`` (spent on its settings before the comparison and not part of the fit, 0
        for none).

        Intervals are Wilson's for the prompts, whatever the number of seeds; that of the trade-off
        score is made of the other two (MOVER). They do not speak of other seeds: ``_sd`` does.
        """
        rows = [
            self._row(method, split) for split in self._scores.splits for method in self.methods
        ]
        return pd.DataFrame(rows)

    def by_set(self) -> pd.DataFrame:
        """One row a method, split, label and set of prompts, means over the seeds.

        Columns: ``method``, ``split``, ``label``, ``set`` (the category of the prompts, None where
        they have none), ``refused``, ``low``, ``high`` (Wilson 95 %), ``n``.
        """
        groups: dict[tuple[str, str, str | None], list[int]] = {}
        for index, one in enumerate(self.prompts):
            groups.setdefault((str(one.split), one.label, one.category), []).append(index)
        rows = []
        for method in self.methods:
            for (split, label, name), chosen in groups.items():
                share, n = refused_share(self.of(method), chosen)
                low, high = share_interval(share, n)
                rows.append((method, split, label, name, share, low, high, n))
        columns = ["method", "split", "label", "set", "refused", "low", "high", "n"]
        return pd.DataFrame(rows, columns=columns)

    def by_kind(self) -> pd.DataFrame:
        """Pseudo-harmful prompts by their kind: one row a method, split and kind.

        Columns: ``method``, ``split``, ``kind`` (the category of the prompts), ``answered`` (share,
        a mean over the seeds), ``n``. Prompts without a kind are left out.
        """
        sets = self.by_set()
        rows = sets[sets["label"] == "pseudo_harmful"].dropna(subset=["set", "refused"])
        rows = rows.assign(kind=rows["set"], answered=1 - rows["refused"])
        return rows[["method", "split", "kind", "answered", "n"]].reset_index(drop=True)

    def pairs(self) -> pd.DataFrame:
        """One row a method, split and score: the paired comparison with the reference.

        Columns: ``method``, ``reference``, ``split``, ``score``, ``difference`` (method minus
        reference, in the score; of ``benign_refused`` it is good below 0), ``low`` and ``high``
        (95 %), ``better`` and ``worse`` (prompts that only one of the two got right), ``n``,
        ``p_value`` (two-sided, exact McNemar test) and ``p_holm`` (Holm's correction over the
        methods of one split and score).

        All seeds count: a prompt by the share of seeds that got it right, so that ``better`` and
        ``worse`` may be fractions, and the test is the exact sign-flip test, which for one seed is
        McNemar's (see ``sign_flip_p`` for its limits). A prompt with an unreadable verdict in any
        seed of either is left out. For the trade-off score the test counts every harmful and
        pseudo-harmful prompt once, while the score gives both labels the same weight.
        """
        reference, scores = self.of(self.reference), self._scores
        others = [one for one in self.methods if one != self.reference and self.of(one)]
        rows: list[dict[str, Any]] = []
        for split in scores.splits if reference else ():
            for score in (TRADEOFF, *LABEL_OF):
                tests = [scores.paired(self.of(one), reference, score, split) for one in others]
                corrected = holm([test["p_value"] for test in tests])
                rows += [
                    {
                        "method": method,
                        "reference": self.reference,
                        "split": split,
                        "score": score,
                        **test,
                        "p_holm": p,
                    }
                    for method, test, p in zip(others, tests, corrected, strict=True)
                ]
        return pd.DataFrame(rows, columns=_PAIR_COLUMNS)

    def replies(self) -> pd.DataFrame:
        """One row a method, seed and prompt.

        Columns: ``method``, ``seed``, ``prompt``, ``label``, ``split``, ``category``, ``verdict``,
        ``refused``, ``reply``, ``faults`` (of replies to harmless prompts). Replies are those that
        ``Evaluation.frame`` shows: no answer to a harmful prompt is among them.
        """
        names = ("prompt", "label", "split", "category")
        prompts = {name: [getattr(one, name) for one in self.prompts] for name in names}
        parts = [
            pd.DataFrame(
                {
                    "method": outcome.method,
                    "seed": outcome.seed,
                    **prompts,
                    "verdict": outcome.verdicts,
                    "refused": [verdict in REFUSALS for verdict in outcome.verdicts],
                    "reply": outcome.replies,
                    "faults": [
                        "; ".join(() if one.label == "harmful" else reply_faults(one.prompt, reply))
                        for one, reply in zip(self.prompts, outcome.replies, strict=True)
                    ],
                }
            )
            for outcome in self.outcomes
            if outcome.status == "completed"
        ]
        columns = ["method", "seed", *names, "verdict", "refused", "reply", "faults"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def examples(self, count: int = 4) -> pd.DataFrame:
        """What each method replied to the first pseudo-harmful test prompt of some kinds.

        Prompts are taken by their order and not by the outcome, so that they flatter no method.

        Args:
            count: Number of prompts at most.

        Returns:
            The rows of ``replies`` of the first seed of every method, prompt by prompt.
        """
        table = self.replies()
        table = table[(table["label"] == "pseudo_harmful") & (table["split"] == "test")]
        table = table.groupby(["method", "prompt"], sort=False).head(1)
        prompts = table.drop_duplicates("prompt")
        first = ~prompts["category"].duplicated() | prompts["category"].isna()
        parts = [table[table["prompt"] == one] for one in prompts.loc[first, "prompt"].head(count)]
        return pd.concat(parts, ignore_index=True) if parts else table

    def settings(self) -> pd.DataFrame:
        """One row a method and setting, by its first seed.

        Columns: ``method``, ``setting``, ``value``, ``chosen_on_validation``.
        """
        firsts = [self.of(method)[0] for method in self.methods if self.of(method)]
        rows = [
            (first.method, name, value, name in first.chosen)
            for first in firsts
            for name, value in first.settings.items()
        ]
        return pd.DataFrame(rows, columns=["method", "setting", "value", "chosen_on_validation"])

    def published(self) -> pd.DataFrame:
        """The paper's figures beside those of the test prompts, one row a method that has both.

        Columns: ``method``; ``model``, ``compliance_rate``, ``safety_score`` and
        ``tradeoff_score`` as measured; ``published_model`` and the same scores with ``published_``
        before them. See ``experiments.published`` for what differs between the two.
        """
        table = self.frame()
        measured = table[table["split"] == "test"]
        return beside(measured, published_methods(), str(self.about["model"]), ["method"])

    def summary(self) -> dict[str, Any]:
        """Plain values of the tables and of how they were made, as ``summary.json`` holds them."""
        return {
            **self.about,
            "reference": self.reference,
            "complete": self.complete,
            "methods": records(self.frame()),
            "pairs": records(self.pairs()),
            "settings": records(self.settings()),
            "published": records(self.published()),
        }

    def _headline(self) -> str:
        scores = {
            method: self._scores.values(self.of(method), "test")[TRADEOFF]
            for method in self.methods
        }
        known = {method: score for method, score in scores.items() if not math.isnan(score)}
        best = max(known, key=known.__getitem__, default="")
        leader = f"; best: {best}, trade-off score {percent(known[best])}" if best else ""
        return (
            f"Leaderboard: {plural(len(self.methods), 'method')} on "
            f"{plural(len(self.prompts), 'prompt')}{leader}"
        )

    def _table(self) -> pd.DataFrame:
        columns = ["method", "split", "compliance_rate", "safety_score", "tradeoff_score"]
        return harmless_head(self.frame()[[*columns, "benign_refused", "fit_seconds"]])

    @property
    def _scores(self) -> MethodScores:
        return MethodScores(self.prompts)

    def _row(self, method: str, split: str) -> dict[str, Any]:
        done = self.of(method)
        failed = [one for one in self.outcomes if one.method == method and one.status == "failed"]
        return {
            "method": method,
            "split": split,
            "status": "completed" if done else "failed",
            "message": "; ".join(dict.fromkeys(one.message for one in failed)),
            "seeds": len(done),
            "safety_means": self.safety_means,
            **self._scores.row(done, split),
            **{
                f"harm_known{end}": mean([one.harm_known[place] for one in done])
                for place, end in enumerate(("", "_low", "_high"))
            },
            "kl": mean([one.kl for one in done]),
            "perplexity": mean([one.perplexity for one in done]),
            "token_cost": mean([one.token_cost for one in done]),
            "trained_parameters": max((one.trained_parameters for one in done), default=0),
            "fit_seconds": mean([one.seconds["fit"] for one in done]),
            "fit_bytes": max((one.fit_bytes for one in done), default=0),
            "evaluate_seconds": mean([one.seconds["evaluate"] for one in done]),
            "search_seconds": float(self.about.get("search_seconds", {}).get(method, 0.0)),
        }


_PAIR_COLUMNS = [
    *("method", "reference", "split", "score", "difference", "low", "high"),
    *("better", "worse", "n", "p_value", "p_holm"),
]
