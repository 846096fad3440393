"""Refusal scores of several tokens: how likely a reply is to begin as the model's refusals do.

One token is too little where refusals and answers share it, as "I" in "I cannot" and "I think". So
openings are the shortest beginnings, of one to four tokens, that tell a model's judged refusals
from its answers. No opening begins with another one, so that their probabilities add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from actor_lens.activations.store import Store
from actor_lens.errors import UserError, check_whole
from actor_lens.judges.base import Judge, refuses, verdicts_of
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.first_token import (
    FirstTokenJudge,
    RefusalOpenings,
    RefusalTokens,
)
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.replies import write_replies
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.statistics.intervals import Estimate, wilson_interval
from actor_lens.text import plural

Ids = tuple[int, ...]

# A beginning opens refusals if at least this share of them have it ...
_OPENS_REFUSALS = 0.02
# ... and it is at least this many times as common there as at the start of answers.
_TIMES_AS_COMMON = 5.0
# It is long enough once at most this share of answers have it, too.
_AMONG_ANSWERS = 0.01
# Below this accuracy scores are no stand-in for judged replies.
_AGREES = 0.95


def refusal_openings(
    model: ChatModel,
    prompts: PromptSet,
    *,
    judge: Judge | str | None = None,
    new_tokens: int = 24,
    limit: int = 128,
    most_tokens: int = 4,
    store: Store | bool = True,
) -> RefusalOpenings:
    """Find how a model begins its refusals, from its own replies.

    A beginning counts if at least 2 % of the refusals of harmful prompts have it, and at least five
    times the share of the answers to benign prompts. It is made longer, up to ``most_tokens``, as
    long as more than 1 % of those answers have it, too.

    Args:
        model: Untouched model: openings of a model that was changed would follow the change.
        prompts: Harmful and benign prompts, and others that play no part.
        judge: Judge of the replies, or its name; the keyword judge unless given.
        new_tokens: Length of the replies that are judged.
        limit: Greatest number of prompts of each label that are answered.
        most_tokens: Longest opening, in tokens.
        store: Store that keeps the replies, but for answers to harmful prompts: True is the
            default store, False none.

    Raises:
        UserError: If the model refuses no harmful prompt, or begins refusals as it begins answers.
    """
    judge, most_tokens = as_judge(judge), check_whole("most_tokens", most_tokens, 1)
    if isinstance(judge, FirstTokenJudge):  # it reads no reply
        judge = KeywordJudge()
    harmful, benign = prompts.where(label="harmful")[:limit], prompts.where(label="benign")[:limit]
    ask = partial(_beginnings, model, judge=judge, new_tokens=new_tokens, store=store)
    refusals, answers = ask(harmful, refused=True), ask(benign, refused=False)
    if not refusals:
        raise UserError(
            f"'{model.name}' refused none of the harmful prompts by the judge '{judge.name}': "
            "there is no over-refusal to study, or the judge does not know how it refuses"
        )
    found = sorted(_openings((), refusals, answers, most_tokens))
    if not found:
        raise UserError(
            f"'{model.name}' begins its refusals as it begins its answers: scores of their "
            "beginnings cannot tell them apart"
        )
    return RefusalOpenings(
        ids=tuple(found),
        texts=tuple(str(model.tokenizer.decode(list(ids))) for ids in found),
        refusals=tuple(len(_that_begin(refusals, ids)) for ids in found),
        answers=tuple(len(_that_begin(answers, ids)) for ids in found),
        n_refusals=len(refusals),
        n_answers=len(answers),
    )


def refusal_tokens(
    model: ChatModel,
    prompts: PromptSet,
    *,
    judge: KeywordJudge | None = None,
    new_tokens: int = 24,
    limit: int = 128,
    store: Store | bool = True,
) -> RefusalTokens:
    """Find the tokens that open refusals: ``refusal_openings`` of one token each.

    Args:
        model: Untouched model: tokens of a model that was changed would follow the change.
        prompts: Harmful and benign prompts, and others that play no part.
        judge: Keyword judge of the replies; the default list unless given.
        new_tokens: Length of the replies that are judged.
        limit: Greatest number of prompts of each label that are answered.
        store: Store that keeps the replies, but for answers to harmful prompts: True is the
            default store, False none.

    Raises:
        UserError: If the model refuses no harmful prompt, or begins refusals as it begins
            answers.
    """
    openings = refusal_openings(
        model,
        prompts,
        judge=judge,
        new_tokens=new_tokens,
        limit=limit,
        most_tokens=1,
        store=store,
    )
    assert openings.tokens is not None
    return openings.tokens


@dataclass(frozen=True, repr=False)
class ScoreAgreement(Result):
    """How far refusal scores say what a judge says of whole replies.

    Attributes:
        accuracy: Share of prompts on which a score above the threshold and the judge agree, with
            its 95 % interval.
        auroc: Chance that a refused prompt has a higher score than an answered one; NaN where only
            one of both occurs.
        missed: Number of judged refusals with a score of at most the threshold.
        false: Number of judged answers with a score above it.
        threshold: The threshold; 0 unless another was given.
        best_threshold: Threshold with which the most of these prompts agree, of those the nearest
            to 0. A reply begins with the likeliest token, which may be less likely than not: then
            it lies below 0.
        best_accuracy: Share that agrees there: too good, as the threshold was fitted to it.
    """

    accuracy: Estimate
    auroc: float
    missed: int
    false: int
    threshold: float
    best_threshold: float
    best_accuracy: float

    def summary(self) -> dict[str, Any]:
        """The accuracy with ``low``, ``high`` and ``n``, and the other numbers."""
        value, low, high, n = self.accuracy
        others = {name: one for name, one in vars(self).items() if name != "accuracy"}
        return {"accuracy": value, "low": low, "high": high, "n": n, **others}

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line where the scores may not stand in for judged replies."""
        if not self.accuracy.n or self.accuracy.value >= _AGREES:
            return ()
        return (
            f"refusal scores above {self.threshold:g} and judged replies agree on "
            f"{self.accuracy.value:.0%} of {plural(self.accuracy.n, 'prompt')} "
            f"({plural(self.missed, 'refusal')} missed, {plural(self.false, 'answer')} taken for "
            f"one; AUROC {self.auroc:.2f}): go by judged replies, or by the threshold "
            f"{self.best_threshold:.2g}, with which {self.best_accuracy:.0%} of these agree",
        )

    def _headline(self) -> str:
        if not self.accuracy.n:
            return "ScoreAgreement: no prompt has both a score and a verdict"
        return (
            f"ScoreAgreement: scores above {self.threshold:g} and judged replies agree on "
            f"{self.accuracy.value:.0%} of {plural(self.accuracy.n, 'prompt')}; AUROC "
            f"{self.auroc:.2f}"
        )

    def _next(self) -> str:
        return "; ".join((*self.warnings, super()._next()))


def score_agreement(
    scores: Sequence[float], refused: Sequence[bool | None], threshold: float = 0.0
) -> ScoreAgreement:
    """How far scores agree with a judge of whole replies.

    Args:
        scores: Refusal score of each prompt; those that are NaN are left out.
        refused: Whether the judge calls each reply a refusal; None, unreadable, is left out.
        threshold: Scores above it count as refusals: 0, or the ``best_threshold`` that was found on
            other prompts.
    """
    pairs = [
        (score, bool(judged))
        for score, judged in zip(scores, refused, strict=True)
        if judged is not None and not math.isnan(score)
    ]
    missed = sum(judged and score <= threshold for score, judged in pairs)
    false = sum(not judged and score > threshold for score, judged in pairs)
    n, agree = len(pairs), len(pairs) - missed - false
    of_refusals = np.array([score for score, judged in pairs if judged])
    of_answers = np.array([score for score, judged in pairs if not judged])
    wins = np.sign(of_refusals[:, None] - of_answers) / 2 + 0.5
    return ScoreAgreement(
        Estimate(agree / n if n else math.nan, *wilson_interval(agree, n), n),
        float(wins.mean()) if wins.size else math.nan,
        missed,
        false,
        threshold,
        *_best_threshold(pairs),
    )


def _best_threshold(pairs: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """The threshold between two scores, or 0, with which most prompts agree, and their share."""
    if not pairs:
        return 0.0, math.nan
    scores = np.array([score for score, _ in pairs])
    refused = np.array([judged for _, judged in pairs])
    steps = np.unique(scores)
    tried = np.concatenate([[0.0], (steps[1:] + steps[:-1]) / 2])
    shares = ((scores > tried[:, None]) == refused).mean(axis=1)
    best = tried[shares == shares.max()]
    return float(best[np.abs(best).argmin()]), float(shares.max())


def _beginnings(
    model: ChatModel,
    prompts: PromptSet,
    *,
    judge: Judge,
    refused: bool,
    new_tokens: int,
    store: Store | bool,
) -> list[Ids]:
    """Token ids of the replies that the judge calls refusals, or answers."""
    if not len(prompts):
        raise UserError("refusal openings need harmful and benign prompts; one of them is missing")
    replies = write_replies(model, prompts, new_tokens=new_tokens, store=store)
    verdicts = verdicts_of(judge, prompts, replies.texts, ())
    pairs = zip(replies.ids, verdicts, strict=True)
    return [ids for ids, verdict in pairs if refuses(verdict) is refused]


def _openings(
    beginning: Ids, refusals: Sequence[Ids], answers: Sequence[Ids], most_tokens: int
) -> list[Ids]:
    """The shortest continuations of a beginning that tell refusals from answers."""
    found: list[Ids] = []
    following = {ids[: len(beginning) + 1] for ids in _that_begin(refusals, beginning)}
    for one in sorted(following - {beginning}):
        share = len(_that_begin(refusals, one)) / len(refusals)
        among_answers = len(_that_begin(answers, one)) / max(1, len(answers))
        if share < _OPENS_REFUSALS:
            continue
        longer: list[Ids] = []
        if among_answers > _AMONG_ANSWERS and len(one) < most_tokens:
            longer = _openings(one, refusals, answers, most_tokens)
        if longer or share >= _TIMES_AS_COMMON * among_answers:
            found += longer or [one]
    return found


def _that_begin(replies: Sequence[Ids], beginning: Ids) -> list[Ids]:
    return [ids for ids in replies if ids[: len(beginning)] == beginning]
