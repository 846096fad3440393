"""How a model answers prompts: replies, verdicts, and refusal rates with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from actor_lens.activations.store import Store
from actor_lens.errors import UserError, check_whole
from actor_lens.judges.base import (
    Judge,
    SafetyMeaning,
    Verdict,
    refuses,
    safety_meaning,
    verdicts_of,
)
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.faults import FAULTS, Fault, is_degenerate, reply_faults
from actor_lens.judges.first_token import (
    FirstTokenJudge,
    RefusalOpenings,
    RefusalTokens,
    with_tokens,
)
from actor_lens.judges.opening_scores import ids_of
from actor_lens.judges.openings import ScoreAgreement, score_agreement
from actor_lens.judges.replies import HARMFUL_REPLY_LENGTH, write_replies
from actor_lens.judges.thoughts import answer_in
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.rows import LABELS, Label
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.statistics.intervals import Estimate, share_estimate
from actor_lens.statistics.rates import Rate, RefusalRates, rate_of, twin_rate
from actor_lens.text import percent, plural


@dataclass(frozen=True, repr=False)
class Evaluation(Result, RefusalRates):
    """How a model answered some prompts.

    Attributes:
        prompts: The prompts.
        replies: Greedy replies. Those to harmful prompts are for judging in memory: ``frame``
            leaves out any that is not a refusal, and ``repr`` leaves out all, so that harmful
            answers reach no file, page or notebook.
        verdicts: Verdicts of the judge. One that could not be read counts neither way.
        refusal_scores: Refusal scores of the first tokens, NaN where no tokens were given.
        judge: Identity of the judge: its name and the hash of what its verdicts depend on.
        new_tokens: Longest reply, in tokens.
    """

    prompts: PromptSet
    replies: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    refusal_scores: tuple[float, ...]
    judge: str
    new_tokens: int

    _figure = "refusal_rates"
    _hint = "rates: .rates()"

    @property
    def refused(self) -> tuple[bool | None, ...]:
        """Whether each reply counts as a refusal; None where the judge was unreadable."""
        return tuple(map(refuses, self.verdicts))

    @property
    def safety_means(self) -> SafetyMeaning:
        """What the safety score counts: replies that refuse, or those that are not harmful."""
        return safety_meaning(self.judge)

    @property
    def n_unreadable(self) -> int:
        """Number of replies on which the judge said nothing that could be read."""
        return self.verdicts.count("unreadable")

    @property
    def score_agreement(self) -> ScoreAgreement:
        """How far refusal scores agree with the judge; of no prompt where none were measured."""
        return score_agreement(self.refusal_scores, self.refused)

    def rate(self, label: str) -> Rate:
        """Refusal rate of a label; with n = 0 the share is NaN."""
        return rate_of(label, self.refused, self.prompts.labels)

    @property
    def twins(self) -> Estimate:
        """Share of pairs of twins with the safe one answered and the unsafe one refused.

        NaN with ``n`` 0 where no prompts are twins; see ``twin_rate``.
        """
        return twin_rate(self.refused, self.prompts)

    @cached_property
    def faults(self) -> tuple[tuple[Fault, ...], ...]:
        """What is wrong with each reply beside a refusal; see ``reply_faults``."""
        pairs = zip(self.prompts.texts, self.replies, strict=True)
        return tuple(reply_faults(prompt, reply) for prompt, reply in pairs)

    def fault_rates(self) -> dict[str, Estimate]:
        """Share of the replies to harmless prompts with each fault, with Wilson's interval.

        First ``"degenerate"``, those that nobody could use, then every fault by its name. Refused
        prompts count among the replies.
        """
        labels = self.prompts.labels
        own = [one for one, label in zip(self.faults, labels, strict=True) if label != "harmful"]
        counts = {"degenerate": sum(map(is_degenerate, own))}
        counts |= {fault: sum(fault in one for one in own) for fault in FAULTS}
        return {name: share_estimate(count, len(own)) for name, count in counts.items()}

    def join(self, other: Evaluation) -> Evaluation:
        """This evaluation and one of other prompts, by the same judge, as one.

        Raises:
            UserError: If another judge judged, or replies had another longest length.
        """
        if (self.judge, self.new_tokens) != (other.judge, other.new_tokens):
            raise UserError("evaluations by two judges, or of replies of two lengths, do not join")
        return replace(
            self,
            prompts=PromptSet(self.prompts.prompts + other.prompts.prompts, self.prompts.name),
            replies=self.replies + other.replies,
            verdicts=self.verdicts + other.verdicts,
            refusal_scores=self.refusal_scores + other.refusal_scores,
        )

    def where(self, split: str) -> Evaluation:
        """The part of this evaluation that belongs to a split."""
        rows = [row for row, prompt in enumerate(self.prompts) if prompt.split == split]
        return Evaluation(
            self.prompts.select(rows),
            tuple(self.replies[row] for row in rows),
            tuple(self.verdicts[row] for row in rows),
            tuple(self.refusal_scores[row] for row in rows),
            self.judge,
            self.new_tokens,
        )

    def summary(self) -> dict[str, Any]:
        """Rate of each label that occurs, the scores, twins, faults, judge and length of replies.

        ``safety_means`` says what the safety score counts. ``twins`` is None where no prompts are
        twins; ``faults`` holds those of ``fault_rates`` that occur, and the degenerate replies
        always.
        """
        faults = self.fault_rates().items()
        scores = ("compliance_rate", "safety_score", "tradeoff_score")
        return {
            "rates": {label: plain(self.rate(label)) for label in self._labels()},
            **{score: plain(getattr(self, score)) for score in scores},
            "safety_means": self.safety_means,
            "twins": plain(self.twins._asdict()) if self.twins.n else None,
            "faults": {
                name: plain(one._asdict())
                for name, one in faults
                if one.value > 0 or name == "degenerate"
            },
            "judge": self.judge,
            "new_tokens": self.new_tokens,
        }

    def _figure_rows(self) -> dict[str, Result]:
        return {"evaluation": self}

    def _labels(self) -> list[Label]:
        """The labels that occur, in their order."""
        return [label for label in LABELS if label in self.prompts.labels]

    def _headline(self) -> str:
        shares = [
            f"{percent(self.rate(label).refused)} {label.replace('_', '-')}"
            for label in self._labels()
        ]
        prompts = plural(len(self.prompts), "prompt")
        return f"Evaluation: {prompts}; refused {', '.join(shares) or 'none'} ({self.judge})"

    def frame(self) -> pd.DataFrame:
        """One row a prompt.

        Columns: those of ``prompt_columns``, ``reply``, ``faults`` (as ``reply_faults`` names them,
        with semicolons between), ``verdict``, ``refused`` (missing where the verdict is
        "unreadable"), ``refusal_score``.

        The reply to a harmful prompt that was not refused, or in part only, is left out, as is one
        that is judged not harmful, and one that a first-token judge calls a refusal, as it reads no
        text. Of a refusal only the beginning is kept: something else may follow it.
        """
        unread = self.judge.startswith(f"{FirstTokenJudge.name}:")
        replies = [
            reply if label != "harmful" else _of_harmful(reply, verdict, unread=unread)
            for reply, verdict, label in zip(
                self.replies, self.verdicts, self.prompts.labels, strict=True
            )
        ]
        return pd.DataFrame(
            {
                **prompt_columns(self.prompts),
                "reply": replies,
                "faults": ["; ".join(one) for one in self.faults],
                "verdict": list(self.verdicts),
                "refused": pd.array(list(self.refused), dtype="boolean"),
                "refusal_score": np.array(self.refusal_scores, dtype=float),
            }
        )


def evaluate(
    model: ChatModel,
    prompts: PromptSet,
    *,
    judge: Judge | str | None = None,
    tokens: RefusalTokens | RefusalOpenings | None = None,
    new_tokens: int = 64,
    store: Store | bool = True,
) -> Evaluation:
    """Let a model answer prompts greedily and judge the replies.

    Args:
        model: The model as it is now, for instance inside ``run.applied_to(model)``.
        prompts: The prompts, at least one.
        judge: Judge of the replies, or its name as ``make_judge`` takes it; None for the keyword
            judge with its own list.
        tokens: How the untouched model begins refusals, from ``refusal_openings`` or
            ``refusal_tokens``, for refusal scores. A first-token judge that has tokens of its own
            goes by those.
        new_tokens: Longest reply, in tokens. Late refusals are missed by short replies: at least
            64 on real models.
        store: Store that keeps replies, batch by batch, for the next time and for work that is cut
            short; never an answer to a harmful prompt. True is the default store, False none.

    Raises:
        UserError: If there are no prompts, one does not fit into the model with its reply, or the
            judge is not known or cannot be asked.
    """
    if len(prompts) == 0:
        raise UserError("no prompts to evaluate; check the split or label they come from")
    new_tokens = check_whole("new_tokens", new_tokens, 1)
    judge = with_tokens(as_judge(judge), tokens)
    if isinstance(judge, FirstTokenJudge):
        tokens = judge.tokens
    openings = () if tokens is None else ids_of(tokens)
    replies = write_replies(model, prompts, openings=openings, new_tokens=new_tokens, store=store)
    return Evaluation(
        prompts=prompts,
        replies=replies.texts,
        verdicts=verdicts_of(judge, prompts, replies.texts, replies.refusal_scores),
        refusal_scores=replies.refusal_scores,
        judge=judge.identity,
        new_tokens=new_tokens,
    )


def _of_harmful(reply: str, verdict: Verdict, *, unread: bool) -> str:
    """What may be shown of the reply to a harmful prompt, whose judge may not have read it."""
    if verdict != "refused" or unread:
        words = {"unreadable": "verdict unreadable", "partly_refused": "refused in part"}
        words["not_harmful"] = "judged not harmful"
        return f"({words.get(verdict, verdict)}; not shown)"
    reply = answer_in(reply) or ""  # a thought may hold what the answer refuses
    return reply if len(reply) <= HARMFUL_REPLY_LENGTH else f"{reply[:HARMFUL_REPLY_LENGTH]}..."
