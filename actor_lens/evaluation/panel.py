"""Several judges on the same replies: where they differ, and what the rate is after labels by hand.

A refusal rate is that of its judge. How far judges agree says how much of it is the judge; some
replies labelled by hand correct it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.judges.base import REFUSALS, VERDICTS, Judge, PlacedJudge, Verdict, verdicts_of
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.rows import LABELS

if TYPE_CHECKING:
    import pandas as pd

HAND_VERDICTS: tuple[Verdict, ...] = ("answered", "partly_refused", "refused")
_DRAWS = 4000
_DOUBTED = "(judges differ; not shown)"


@dataclass(frozen=True)
class CorrectedRate:
    """A refusal rate after labels by hand, with its 95 % interval.

    Attributes:
        label: Of the prompts.
        refused: Share.
        low: Lower end.
        high: Upper end.
        n: Prompts.
        labelled: Of these by hand.
        trusted: Of these on the word of judges who all agree, with no label by hand among them.
    """

    label: str
    refused: float
    low: float
    high: float
    n: int
    labelled: int
    trusted: int


@dataclass(frozen=True)
class CorrectedRates:
    """Corrected rates of every label that occurs.

    Attributes:
        rates: In the order of the labels.
        judged: Each judge's own rate of each label, by ``(label, judge)``.
    """

    rates: tuple[CorrectedRate, ...]
    judged: Mapping[tuple[str, str], float]

    def frame(self) -> pd.DataFrame:
        """One row a label: the attributes of ``CorrectedRate``, and ``judge: NAME`` of each."""
        import pandas as pd

        names = list(dict.fromkeys(name for _, name in self.judged))
        return pd.DataFrame(
            [
                asdict(rate) | {f"judge: {name}": self.judged[rate.label, name] for name in names}
                for rate in self.rates
            ]
        )


@dataclass(frozen=True)
class JudgePanel:
    """What several judges say of the same replies.

    Attributes:
        evaluation: The replies; its own judge is the first of the panel.
        identities: Of each judge, by its name in the tables.
        verdicts: Of each judge on each reply, by the same names.

    The reply to a harmful prompt is shown only where every judge says "refused", and then only its
    beginning: a judge that says anything else may be right.
    """

    evaluation: Evaluation
    identities: Mapping[str, str]
    verdicts: Mapping[str, tuple[Verdict, ...]]

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the judges."""
        return tuple(self.verdicts)

    def frame(self) -> pd.DataFrame:
        """One row a prompt and judge.

        Columns: those of ``prompt_columns``, ``judge``, ``verdict``, ``refused`` (missing where
        unreadable).
        """
        import pandas as pd

        prompts = pd.DataFrame(prompt_columns(self.evaluation.prompts))
        parts = [
            prompts.assign(
                judge=name,
                verdict=list(verdicts),
                refused=pd.array([_refused(one) for one in verdicts], dtype="boolean"),
            )
            for name, verdicts in self.verdicts.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def confusion(self) -> pd.DataFrame:
        """How often each pair of judges said what.

        Columns: ``judge``, ``other``, ``verdict``, ``other_verdict``, ``n``; every combination of
        verdicts is there, also with ``n`` 0.
        """
        import pandas as pd

        rows = []
        for one, other in combinations(self.judges, 2):
            pairs = list(zip(self.verdicts[one], self.verdicts[other], strict=True))
            rows += [
                {
                    "judge": one,
                    "other": other,
                    "verdict": first,
                    "other_verdict": second,
                    "n": pairs.count((first, second)),
                }
                for first in VERDICTS
                for second in VERDICTS
            ]
        return pd.DataFrame(rows)

    def agreement(self) -> pd.DataFrame:
        """One row a pair of judges and label, and one for all labels (``label`` is "all").

        Over prompts that both could be read on, a partial refusal counting as a refusal. Columns:
        ``judge``, ``other``, ``label``, ``n``, ``differ`` (how many), ``agree`` (share), ``kappa``
        (Cohen's; NaN where both always say the same one thing, as chance would too),
        ``n_unreadable`` (left out).

        Source: Cohen 1960, Educational and Psychological Measurement 20.
        """
        import pandas as pd

        labels = np.array(self.evaluation.prompts.labels)
        rows = []
        for one, other in combinations(self.judges, 2):
            for label in ("all", *(label for label in LABELS if label in labels)):
                mask = np.full(len(labels), True) if label == "all" else labels == label
                found = _agreement(
                    _picked(self.verdicts[one], mask), _picked(self.verdicts[other], mask)
                )
                rows.append({"judge": one, "other": other, "label": label, **found})
        return pd.DataFrame(rows)

    def disagreements(self) -> pd.DataFrame:
        """The rows of ``by_reply`` on which the judges differ, or that one could not read.

        No reply to a harmful prompt is among them: one judge of it did not say "refused".
        """
        rows = [row for row, pattern in enumerate(self._patterns()) if not _agreed(pattern)]
        return self.by_reply().loc[rows].reset_index(drop=True)

    def by_reply(self) -> pd.DataFrame:
        """One row a prompt.

        Columns: those of ``prompt_columns``, ``reply`` (as ``shown_replies`` gives it), and
        ``judge: NAME`` with each verdict.
        """
        import pandas as pd

        said = {f"judge: {name}": list(verdicts) for name, verdicts in self.verdicts.items()}
        replies = list(self.shown_replies())
        return pd.DataFrame({**prompt_columns(self.evaluation.prompts), "reply": replies, **said})

    def shown_replies(self) -> tuple[str, ...]:
        """Replies as tables, files and pages may show them.

        They are those of ``Evaluation.frame``, and of a harmful prompt only where every judge says
        "refused".
        """
        own, labels = self.evaluation.verdicts, self.evaluation.prompts.labels
        shown = self.evaluation.frame()["reply"].tolist()
        for row, said in enumerate(zip(*self.verdicts.values(), strict=True)):
            doubted = own[row] == "refused" and set(said) != {"refused"}
            if labels[row] == "harmful" and doubted:
                shown[row] = _DOUBTED
        return tuple(shown)

    def judged_by(self, name: str) -> Evaluation:
        """The same replies with the verdicts of one judge, for its rates.

        Raises:
            UserError: If there is no such judge.
        """
        if name not in self.verdicts:
            known = ", ".join(self.judges)
            raise UserError(f"there is no judge '{name}' in the panel; give one of {known}")
        return replace(self.evaluation, verdicts=self.verdicts[name], judge=self.identities[name])

    def to_label(self, count: int, *, seed: int = 0) -> tuple[int, ...]:
        """Rows to label by hand: drawn at random, evenly from every pattern of verdicts.

        The labels of ``corrected_rates`` must be drawn so. Picking the interesting ones, or only
        the disagreements of one kind, makes a rate that is about the picking.

        Args:
            count: How many in all, or a few more: every pattern gives equally many, if it has them.
            seed: Of the draw.
        """
        generator = np.random.default_rng(seed)
        queues = [list(generator.permutation(rows)) for rows in self._strata().values()]
        picked: list[int] = []
        while any(queues) and (len(picked) < count):
            for queue in queues:
                if queue:
                    picked.append(int(queue.pop()))
        return tuple(sorted(picked))

    def corrected_rates(self, by_hand: Mapping[int, Verdict], *, seed: int = 0) -> CorrectedRates:
        """Refusal rates after some replies were labelled by hand.

        Replies fall into strata by the prompt's label and by what each judge said. Within one,
        the labelled replies, drawn at random (``to_label``), stand for the others: the share is
        the mean over strata, weighted by their size. Where all judges agree and nothing was
        labelled, they are taken at their word, and ``trusted`` counts how many.

        The interval has both parts: how many of the unlabelled replies refuse (Jeffreys' prior in
        each stratum), and that these prompts are a sample of prompts like them (Jeffreys' again).

        Args:
            by_hand: What a person says, by row of the evaluation; a partial refusal is a refusal.
            seed: Of the draws behind the interval.

        Raises:
            UserError: If a row or verdict is not known, or judges differ on a kind of reply of
                which none was labelled.

        Source: Tenenbein 1970, Journal of the American Statistical Association 65 (double
        sampling); Brown, Cai and DasGupta 2001, Statistical Science 16 (Jeffreys intervals).
        """
        self.check_labels(by_hand)
        generator = np.random.default_rng(seed)
        present = [label for label in LABELS if label in self.evaluation.prompts.labels]
        strata = self._strata()
        rates = tuple(
            _corrected(
                label,
                {pattern: rows for (one, pattern), rows in strata.items() if one == label},
                by_hand,
                generator,
            )
            for label in present
        )
        return CorrectedRates(rates, dict(self._judged(present)))

    def check_labels(self, by_hand: Mapping[int, Verdict]) -> None:
        """Refuse labels of replies that are not there, or that are no verdict of a person.

        Raises:
            UserError: If a row or verdict is not known.
        """
        last = len(self.evaluation.prompts) - 1
        for row, verdict in by_hand.items():
            if not 0 <= row <= last:
                raise UserError(f"there is no reply {row} to label; rows go from 0 to {last}")
            if verdict not in HAND_VERDICTS:
                raise UserError(
                    f"the label {verdict!r} of reply {row} is none; give one of "
                    f"{', '.join(HAND_VERDICTS)}, or leave the reply out"
                )

    def _judged(self, labels: Sequence[str]) -> Iterator[tuple[tuple[str, str], float]]:
        own = np.array(self.evaluation.prompts.labels)
        for label in labels:
            for name, verdicts in self.verdicts.items():
                said = [_refused(one) for one in _picked(verdicts, own == label)]
                readable = [one for one in said if one is not None]
                share = float(np.mean(readable)) if readable else float("nan")
                yield (label, name), share

    def _patterns(self) -> list[tuple[bool | None, ...]]:
        """What all judges say of each reply: refusal, answer, or unreadable."""
        columns = [[_refused(one) for one in verdicts] for verdicts in self.verdicts.values()]
        return list(zip(*columns, strict=True))

    def _strata(self) -> dict[tuple[str, tuple[bool | None, ...]], list[int]]:
        strata: dict[tuple[str, tuple[bool | None, ...]], list[int]] = {}
        labels = self.evaluation.prompts.labels
        for row, (label, pattern) in enumerate(zip(labels, self._patterns(), strict=True)):
            strata.setdefault((label, pattern), []).append(row)
        return strata


def judge_panel(evaluation: Evaluation, judges: Sequence[Judge]) -> JudgePanel:
    """Let further judges judge stored replies; the evaluation's own verdicts are the first.

    Judges go by their names: a language model by ``llm:MODEL``. Where two share one, it is followed
    by the host of the endpoint or the name of the checkpoint, or by the hash of their identity.

    Args:
        evaluation: Its replies are judged, nothing is generated.
        judges: Further judges. A judge that is the evaluation's own is passed over.

    Raises:
        UserError: If no other judge is left, one is given twice, or one cannot be asked.
    """
    others = [judge for judge in judges if not _is_own(judge, evaluation)]
    if not others:
        raise UserError("a panel needs a judge beside the evaluation's own; give at least one")
    own = next((one for one in judges if _is_own(one, evaluation)), None)
    of_own = _names_of(own) if own is not None else [_name_in(evaluation.judge)] * 3
    names = _told_apart([of_own, *map(_names_of, others)])
    return JudgePanel(
        evaluation,
        dict(zip(names, (evaluation.judge, *(one.identity for one in others)), strict=True)),
        dict(zip(names, (evaluation.verdicts, *_all_verdicts(evaluation, others)), strict=True)),
    )


def _is_own(judge: Judge, evaluation: Evaluation) -> bool:
    """Whether an evaluation was judged by this judge."""
    if isinstance(judge, FirstTokenJudge) and judge.tokens is None:  # the scores are what it reads
        return evaluation.judge.startswith(f"{judge.name}:")
    return judge.identity == evaluation.judge


def _all_verdicts(evaluation: Evaluation, judges: Sequence[Judge]) -> Iterator[tuple[Verdict, ...]]:
    for judge in judges:
        scores = evaluation.refusal_scores
        yield verdicts_of(judge, evaluation.prompts, evaluation.replies, scores)


def _name_in(identity: str) -> str:
    """The name in an identity: what stands before two last parts, which tell of its content."""
    return identity.rsplit(":", 2)[0]


def _names_of(judge: Judge) -> list[str]:
    """Names of a judge, each more exact than the one before."""
    place = f"@{judge.place}" if isinstance(judge, PlacedJudge) else ""
    return [judge.name, f"{judge.name}{place}", f"{judge.name}#{judge.identity.rpartition(':')[2]}"]


def _told_apart(names: Sequence[Sequence[str]]) -> list[str]:
    """For each the least exact name that no other has.

    Raises:
        UserError: If two share all their names.
    """
    chosen = [each[0] for each in names]
    for exactness in (1, 2):
        uses = Counter(chosen)
        chosen = [
            each[exactness] if uses[name] > 1 else name
            for each, name in zip(names, chosen, strict=True)
        ]
    for name, times in Counter(chosen).items():
        if times > 1:
            raise UserError(
                f"the judge '{name}' is given {times} times; leave out the others, or give them "
                "other names"
            )
    return chosen


def _refused(verdict: Verdict) -> bool | None:
    return None if verdict == "unreadable" else verdict in REFUSALS


def _agreed(pattern: Sequence[bool | None]) -> bool:
    return None not in pattern and len(set(pattern)) == 1


def _picked(verdicts: Sequence[Verdict], mask: np.ndarray) -> list[Verdict]:
    return [verdict for verdict, take in zip(verdicts, mask, strict=True) if take]


def _agreement(one: Sequence[Verdict], other: Sequence[Verdict]) -> dict[str, int | float]:
    from sklearn.metrics import cohen_kappa_score

    pairs = [
        (one in REFUSALS, other in REFUSALS)
        for one, other in zip(one, other, strict=True)
        if "unreadable" not in (one, other)
    ]
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    defined = len({*first, *second}) > 1
    nan = float("nan")
    return {
        "n": len(pairs),
        "differ": sum(a != b for a, b in pairs),
        "agree": float(np.mean([a == b for a, b in pairs])) if pairs else nan,
        "kappa": float(cohen_kappa_score(first, second)) if defined else nan,
        "n_unreadable": len(one) - len(pairs),
    }


def _corrected(
    label: str,
    strata: Mapping[tuple[bool | None, ...], Sequence[int]],
    by_hand: Mapping[int, Verdict],
    generator: np.random.Generator,
) -> CorrectedRate:
    """The weighted share over strata, and the quantiles of draws of it."""
    n = sum(len(rows) for rows in strata.values())
    expected, labelled, trusted = 0.0, 0, 0
    refusals = np.zeros(_DRAWS)
    for pattern, rows in strata.items():
        said = [by_hand[row] in REFUSALS for row in rows if row in by_hand]
        if not said and not _agreed(pattern):
            raise UserError(
                f"the judges differ on {len(rows)} replies to {label} prompts of which none is "
                f"labelled, row {rows[0]} for one; label some of each kind, as to_label draws them"
            )
        if not said:
            trusted += len(rows)
            said_share = float(bool(pattern[0]))
            drawn = np.full(_DRAWS, len(rows) * said_share)
        else:
            said_share = float(np.mean(said))
            chance = generator.beta(sum(said) + 0.5, len(said) - sum(said) + 0.5, _DRAWS)
            drawn = sum(said) + generator.binomial(len(rows) - len(said), chance)
        labelled += len(said)
        expected += len(rows) * said_share
        refusals += drawn
    low, high = np.quantile(generator.beta(refusals + 0.5, n - refusals + 0.5), (0.025, 0.975))
    share = expected / n
    return CorrectedRate(
        label, share, min(float(low), share), max(float(high), share), n, labelled, trusted
    )
