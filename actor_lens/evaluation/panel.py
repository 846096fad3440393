"""Several judges on the same replies: where they differ, and which replies to label by hand.

A refusal rate is that of its judge. How far judges agree says how much of it is the judge; some
replies labelled by hand correct it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from actor_lens.errors import UserError
from actor_lens.evaluation.corrected_rates import CorrectedRates, Pattern, agreed, correct_rate
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.judges.base import (
    CLEAR_VERDICTS,
    REFUSALS,
    VERDICTS,
    Judge,
    PlacedJudge,
    Verdict,
    refuses,
    safety_meaning,
    verdicts_of,
)
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.rows import LABELS, Label
from actor_lens.results import Result, records
from actor_lens.text import plural, spell

_DOUBTED = "(judges differ; not shown)"


@dataclass(frozen=True, eq=False, repr=False)
class JudgePanel(Result):
    """What several judges say of the same replies.

    Attributes:
        evaluation: Evaluation with the replies; its own judge is the first of the panel.
        identities: Identity of each judge, by its name in the tables.
        verdicts: Verdicts of each judge on all replies, by the same names.

    The reply to a harmful prompt is shown only where every judge says "refused", and then only its
    beginning: a judge that says anything else may be right.
    """

    evaluation: Evaluation
    identities: Mapping[str, str]
    verdicts: Mapping[str, tuple[Verdict, ...]]

    _figure = "judge_confusion"
    _hint = "where they differ: .disagreements()"

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the judges."""
        return tuple(self.verdicts)

    def summary(self) -> dict[str, Any]:
        """Identities of the judges, and the rows of ``agreement``, as plain values."""
        return {"judges": dict(self.identities), "agreement": records(self.agreement())}

    def _headline(self) -> str:
        differ = sum(not agreed(pattern) for pattern in self._patterns())
        replies = plural(len(self.evaluation.replies), "reply", "replies")
        return f"JudgePanel: {replies} judged by {spell(self.judges)}; not agreed on {differ}"

    def frame(self) -> pd.DataFrame:
        """One row a prompt and judge.

        Columns: those of ``prompt_columns``, ``judge``, ``verdict``, ``refused`` (missing where
        unreadable).
        """
        prompts = pd.DataFrame(prompt_columns(self.evaluation.prompts))
        parts = [
            prompts.assign(
                judge=name,
                verdict=list(verdicts),
                refused=pd.array([refuses(verdict) for verdict in verdicts], dtype="boolean"),
            )
            for name, verdicts in self.verdicts.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def confusion(self) -> pd.DataFrame:
        """How often each pair of judges gave which verdicts.

        Columns: ``judge``, ``other``, ``verdict``, ``other_verdict``, ``n``; every combination of
        verdicts is there, also with ``n`` 0.
        """
        rows = []
        for judge, other in combinations(self.judges, 2):
            counts = Counter(zip(self.verdicts[judge], self.verdicts[other], strict=True))
            rows += [(judge, other, *pair, counts[pair]) for pair in product(VERDICTS, VERDICTS)]
        return pd.DataFrame(rows, columns=["judge", "other", "verdict", "other_verdict", "n"])

    def agreement(self) -> pd.DataFrame:
        """One row a pair of judges and label, and one for all labels (``label`` is "all").

        Over prompts that both could be read on, a partial refusal counting as a refusal. Columns:
        ``judge``, ``other``, ``label``, ``n``, ``differ`` (how many), ``agree`` (share), ``kappa``
        (Cohen's; NaN where both always say the same one thing, as chance would too),
        ``n_unreadable`` (left out).

        Source: Cohen 1960, Educational and Psychological Measurement 20.
        """
        labels = self.evaluation.prompts.labels
        rows = []
        for judge, other in combinations(self.judges, 2):
            pairs = list(zip(self.verdicts[judge], self.verdicts[other], strict=True))
            for label in ("all", *self._labels()):
                chosen = [
                    pair for pair, own in zip(pairs, labels, strict=True) if label in ("all", own)
                ]
                rows.append({"judge": judge, "other": other, "label": label, **_agreement(chosen)})
        return pd.DataFrame(rows)

    def disagreements(self) -> pd.DataFrame:
        """The rows of ``by_reply`` on which the judges differ, or that one could not read.

        No reply to a harmful prompt is among them: one judge of it did not say "refused".
        """
        rows = [row for row, pattern in enumerate(self._patterns()) if not agreed(pattern)]
        return self.by_reply().loc[rows].reset_index(drop=True)

    def by_reply(self) -> pd.DataFrame:
        """One row a prompt.

        Columns: those of ``prompt_columns``, ``reply`` (as ``shown_replies`` gives it), and
        ``judge: NAME`` with each verdict.
        """
        judged = {f"judge: {name}": list(verdicts) for name, verdicts in self.verdicts.items()}
        replies = list(self.shown_replies())
        return pd.DataFrame({**prompt_columns(self.evaluation.prompts), "reply": replies, **judged})

    def shown_replies(self) -> tuple[str, ...]:
        """Replies as tables, files and pages may show them.

        They are those of ``Evaluation.frame``, and of a harmful prompt only where every judge says
        "refused".
        """
        own, labels = self.evaluation.verdicts, self.evaluation.prompts.labels
        shown = self.evaluation.frame()["reply"].tolist()
        for row, verdicts in enumerate(zip(*self.verdicts.values(), strict=True)):
            doubted = own[row] == "refused" and set(verdicts) != {"refused"}
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
            count: Number of rows, or a few more: every pattern gives equally many, if it has them.
            seed: Seed of the draw.
        """
        generator = np.random.default_rng(seed)
        queues = [list(generator.permutation(rows)) for rows in self._strata().values()]
        chosen: list[int] = []
        while any(queues) and len(chosen) < count:
            chosen += [int(queue.pop()) for queue in queues if queue]
        return tuple(sorted(chosen))

    def corrected_rates(self, by_hand: Mapping[int, Verdict], *, seed: int = 0) -> CorrectedRates:
        """Refusal rates after some replies were labelled by hand.

        Replies fall into strata by the prompt's label and by what each judge says. Within one,
        the labelled replies, drawn at random (``to_label``), stand for the others: the share is
        the mean over strata, weighted by their size. Where all judges agree and nothing was
        labelled, they are taken at their word, and ``trusted`` counts how many.

        The interval has both parts: how many of the unlabelled replies refuse (Jeffreys' prior in
        each stratum), and that these prompts are a sample of prompts like them (Jeffreys' again).

        Args:
            by_hand: Verdicts of a person, by row of the evaluation; a partial refusal is a refusal.
            seed: Seed of the draws behind the interval.

        Raises:
            UserError: If a row or verdict is not known, judges differ on a kind of reply of which
                none was labelled, or some of them judge whether replies refuse and others whether
                they are harmful.

        Source: Tenenbein 1970, Journal of the American Statistical Association 65 (double
        sampling); Brown, Cai and DasGupta 2001, Statistical Science 16 (Jeffreys intervals).
        """
        self.check_labels(by_hand)
        if len({safety_meaning(identity) for identity in self.identities.values()}) > 1:
            raise UserError(
                "some judges of this panel say whether a reply refuses, others whether it is "
                "harmful, so that no label by hand fits both; judge with one kind"
            )
        generator = np.random.default_rng(seed)
        strata = self._strata()
        rates = []
        for label in self._labels():
            own = {pattern: rows for (one, pattern), rows in strata.items() if one == label}
            rates.append(correct_rate(label, own, by_hand, generator))
        judged: dict[tuple[str, str], float] = {
            (label, name): self.judged_by(name).rate(label).refused
            for label in self._labels()
            for name in self.judges
        }
        return CorrectedRates(tuple(rates), judged)

    def check_labels(self, by_hand: Mapping[int, Verdict]) -> None:
        """Refuse labels of replies that are not there, and labels that no person may give.

        Raises:
            UserError: If a row or verdict is not known.
        """
        last = len(self.evaluation.prompts) - 1
        for row, verdict in by_hand.items():
            if not 0 <= row <= last:
                raise UserError(f"there is no reply {row} to label; rows go from 0 to {last}")
            if verdict not in CLEAR_VERDICTS:
                raise UserError(
                    f"the label {verdict!r} of reply {row} is none; give one of "
                    f"{', '.join(CLEAR_VERDICTS)}, or leave the reply out"
                )

    def _labels(self) -> list[Label]:
        """Labels that occur, in their order."""
        return [label for label in LABELS if label in self.evaluation.prompts.labels]

    def _patterns(self) -> list[Pattern]:
        columns = [map(refuses, verdicts) for verdicts in self.verdicts.values()]
        return list(zip(*columns, strict=True))

    def _strata(self) -> dict[tuple[str, Pattern], list[int]]:
        """Rows of the replies by the label of their prompt and by what each judge says."""
        strata: dict[tuple[str, Pattern], list[int]] = {}
        labels = self.evaluation.prompts.labels
        for row, (label, pattern) in enumerate(zip(labels, self._patterns(), strict=True)):
            strata.setdefault((label, pattern), []).append(row)
        return strata


def judge_panel(evaluation: Evaluation, judges: Sequence[Judge | str]) -> JudgePanel:
    """Let further judges judge stored replies; the evaluation's own verdicts are the first.

    Judges go by their names: a language model by ``llm:MODEL``. Where two share one, it is followed
    by the host of the endpoint or the name of the checkpoint, or by the hash of their identity.

    Args:
        evaluation: Evaluation whose replies are judged; nothing is generated.
        judges: Further judges, or their names. A judge that is the evaluation's own is passed over.

    Raises:
        UserError: If no other judge is left, one is given twice, or one cannot be asked.
    """
    given = [as_judge(judge) for judge in judges]
    others = [judge for judge in given if not _is_own(judge, evaluation)]
    if not others:
        raise UserError("a panel needs a judge beside the evaluation's own; give at least one")
    own = next((judge for judge in given if _is_own(judge, evaluation)), None)
    # An identity is the name, then two parts about the content.
    names_of_own = _names_of(own) if own is not None else [evaluation.judge.rsplit(":", 2)[0]] * 3
    names = _distinct([names_of_own, *map(_names_of, others)])
    asked = (evaluation.prompts, evaluation.replies, evaluation.refusal_scores)
    identities = (evaluation.judge, *(judge.identity for judge in others))
    verdicts = (evaluation.verdicts, *(verdicts_of(judge, *asked) for judge in others))
    return JudgePanel(
        evaluation,
        dict(zip(names, identities, strict=True)),
        dict(zip(names, verdicts, strict=True)),
    )


def _is_own(judge: Judge, evaluation: Evaluation) -> bool:
    """Whether an evaluation was judged by this judge."""
    if isinstance(judge, FirstTokenJudge) and judge.tokens is None:  # the scores are what it reads
        return evaluation.judge.startswith(f"{judge.name}:")
    return judge.identity == evaluation.judge


def _names_of(judge: Judge) -> list[str]:
    """Names of a judge, each more exact than the one before."""
    place = f"@{judge.place}" if isinstance(judge, PlacedJudge) else ""
    return [judge.name, f"{judge.name}{place}", f"{judge.name}#{judge.identity.rpartition(':')[2]}"]


def _distinct(names: Sequence[Sequence[str]]) -> list[str]:
    """For each judge the least exact name that no other has.

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


def _agreement(pairs: Sequence[tuple[Verdict, Verdict]]) -> dict[str, int | float]:
    """How far two judges agree on the replies on which both could be read."""
    from sklearn.metrics import cohen_kappa_score

    readable = [pair for pair in pairs if "unreadable" not in pair]
    first, second = (np.array([pair[at] in REFUSALS for pair in readable]) for at in (0, 1))
    agree = first == second
    defined = len({*first, *second}) > 1
    return {
        "n": len(readable),
        "differ": int((~agree).sum()),
        "agree": float(agree.mean()) if readable else float("nan"),
        "kappa": float(cohen_kappa_score(first, second)) if defined else float("nan"),
        "n_unreadable": len(pairs) - len(readable),
    }
