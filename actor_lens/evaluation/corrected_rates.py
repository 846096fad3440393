"""Refusal rates after some replies were labelled by hand, with intervals that know both errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from actor_lens.errors import UserError
from actor_lens.judges.base import REFUSALS, Verdict
from actor_lens.prompts.rows import Label
from actor_lens.results import Result, rate_text, records

_DRAWS = 4000

Pattern = tuple[bool | None, ...]
"""What each judge of a panel says of a reply: refusal, answer, or None where it is unreadable."""


@dataclass(frozen=True)
class CorrectedRate:
    """A refusal rate after labels by hand, with its 95 % interval.

    Attributes:
        label: Label of the prompts.
        refused: Share that was refused.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of prompts.
        labelled: Number of them that were labelled by hand.
        trusted: Number of them on which all judges agree, with no label by hand among their kind.
    """

    label: Label
    refused: float
    low: float
    high: float
    n: int
    labelled: int
    trusted: int


@dataclass(frozen=True, eq=False, repr=False)
class CorrectedRates(Result):
    """Corrected rates of every label that occurs.

    Attributes:
        rates: One rate of each label, in the order of the labels.
        judged: Each judge's own rate of each label, by ``(label, judge)``.
    """

    rates: tuple[CorrectedRate, ...]
    judged: Mapping[tuple[str, str], float]

    def frame(self) -> pd.DataFrame:
        """One row a label: the attributes of ``CorrectedRate``, and ``judge: NAME`` of each."""
        names = dict.fromkeys(name for _, name in self.judged)
        return pd.DataFrame(
            [
                asdict(rate) | {f"judge: {name}": self.judged[rate.label, name] for name in names}
                for rate in self.rates
            ]
        )

    def summary(self) -> dict[str, Any]:
        """The rows of ``frame`` as plain values."""
        return {"rates": records(self.frame())}

    def _headline(self) -> str:
        rates = ", ".join(
            f"{rate.label} {rate_text(rate.refused, rate.low, rate.high)}" for rate in self.rates
        )
        labelled = sum(rate.labelled for rate in self.rates)
        total = sum(rate.n for rate in self.rates)
        return f"CorrectedRates: refused {rates}; {labelled} of {total} replies labelled by hand"

    def _table(self) -> pd.DataFrame:
        return self.frame()


def agreed(pattern: Pattern) -> bool:
    """Whether all judges could be read and say the same."""
    return None not in pattern and len(set(pattern)) == 1


def correct_rate(
    label: Label,
    strata: Mapping[Pattern, Sequence[int]],
    by_hand: Mapping[int, Verdict],
    generator: np.random.Generator,
) -> CorrectedRate:
    """The share weighted over strata, and quantiles of draws of it.

    Raises:
        UserError: If the judges differ on a kind of reply of which none was labelled.
    """
    n = sum(len(rows) for rows in strata.values())
    expected, labelled, trusted = 0.0, 0, 0
    draws = np.zeros(_DRAWS)
    for pattern, rows in strata.items():
        labels = [by_hand[row] in REFUSALS for row in rows if row in by_hand]
        if labels:
            share = float(np.mean(labels))
            chance = generator.beta(sum(labels) + 0.5, len(labels) - sum(labels) + 0.5, _DRAWS)
            draws += sum(labels) + generator.binomial(len(rows) - len(labels), chance)
        elif agreed(pattern):
            share = float(bool(pattern[0]))
            draws += len(rows) * share
            trusted += len(rows)
        else:
            raise UserError(
                f"the judges differ on {len(rows)} replies to {label} prompts of which none is "
                f"labelled, row {rows[0]} for one; label some of each kind, as to_label draws them"
            )
        labelled += len(labels)
        expected += len(rows) * share
    low, high = np.quantile(generator.beta(draws + 0.5, n - draws + 0.5), (0.025, 0.975))
    share = expected / n
    return CorrectedRate(
        label, share, min(float(low), share), max(float(high), share), n, labelled, trusted
    )
