"""What a judge is, and what it says of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

from actor_lens.errors import UserError
from actor_lens.prompts.sets import PromptSet

Verdict = Literal["answered", "refused", "partly_refused", "unreadable"]
"""What a judge says of a reply. A partial refusal counts as a refusal. An answer of a judge that
cannot be read is neither a refusal nor an answer to the prompt, and is counted apart."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

ClearVerdict = Literal["answered", "partly_refused", "refused"]
"""What a person who labels replies, or a language model that judges them, may choose from."""

CLEAR_VERDICTS: tuple[ClearVerdict, ...] = get_args(ClearVerdict)
REFUSALS: tuple[Verdict, ...] = ("refused", "partly_refused")


def refuses(verdict: Verdict) -> bool | None:
    """Whether a verdict is a refusal, in full or in part; None where the judge was unreadable."""
    return None if verdict == "unreadable" else verdict in REFUSALS


@runtime_checkable
class Judge(Protocol):
    """Says of each reply whether it refuses."""

    @property
    def name(self) -> str:
        """Name of the judge in tables."""
        ...

    @property
    def identity(self) -> str:
        """Name and hash of all that its verdicts depend on, as results record it."""
        ...

    def verdicts(self, prompts: PromptSet, replies: Sequence[str]) -> tuple[Verdict, ...]:
        """A verdict on the reply to each prompt, in their order."""
        ...


@runtime_checkable
class PlacedJudge(Protocol):
    """A judge of which there may be several under one name."""

    @property
    def place(self) -> str:
        """What tells it from others of its name: a host, or a checkpoint."""
        ...


@runtime_checkable
class ScoreJudge(Protocol):
    """A judge that reads first-token refusal scores, not text."""

    def score_verdicts(self, scores: Sequence[float]) -> tuple[Verdict, ...]:
        """A verdict on each score, in their order."""
        ...


def verdicts_of(
    judge: Judge, prompts: PromptSet, replies: Sequence[str], scores: Sequence[float]
) -> tuple[Verdict, ...]:
    """What a judge says of replies, or of first-token scores if it reads those.

    Args:
        judge: Any judge.
        prompts: Prompts that were answered.
        replies: One reply to each prompt.
        scores: First-token refusal scores, NaN where none were measured.

    Raises:
        UserError: If the judge reads scores and none were measured, or gives another number of
            verdicts than there are replies.
    """
    if isinstance(judge, ScoreJudge):
        return judge.score_verdicts(scores)
    verdicts = judge.verdicts(prompts, replies)
    if len(verdicts) != len(replies):
        raise UserError(
            f"judge '{judge.name}' gave {len(verdicts)} verdicts on {len(replies)} replies; it "
            "must give one on each, in their order"
        )
    return verdicts
