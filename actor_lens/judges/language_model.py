"""A language model as judge, behind any OpenAI-compatible endpoint.

Each reply is one question at temperature 0 under the rubric for its kind of prompt. An answer that
is not exactly one of those offered is asked for once more and is then "unreadable". Readable ones
are kept on disk as they come, so that a run that is cut short goes on where it was; the others are
asked for again by the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Container, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from actor_lens.errors import UserError
from actor_lens.judges.base import Verdict, judge_answers
from actor_lens.judges.endpoint import Endpoint
from actor_lens.judges.rubrics import (
    RATING_RUBRIC,
    THREE_CLASSES,
    USEFULNESS_RUBRIC,
    Rubric,
    Rubrics,
    question,
)
from actor_lens.judges.thoughts import answers_in
from actor_lens.judges.verdict_cache import VerdictCache, default_cache, verdict_key
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.text import plural

if TYPE_CHECKING:
    import openai

ANSWER_TOKENS = 64
# English has about four bytes a token with usual tokenizers; a message costs a few beside its text.
_BYTES_PER_TOKEN, _TOKENS_PER_MESSAGE = 4, 6
_ASKS = 2


@dataclass(frozen=True, repr=False)
class JudgingCost(Result):
    """What judging will send, estimated from lengths before anything is sent.

    Attributes:
        requests: Number of replies to be judged; equal ones count once.
        cached: Number of replies whose verdict is on disk already.
        tokens_in: Estimated tokens of the requests.
        tokens_out: Most tokens that the answers may have; the thoughts of a reasoning model come
            on top.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int

    def _headline(self) -> str:
        return (
            f"JudgingCost: {plural(self.requests, 'reply', 'replies')} to be judged, {self.cached} "
            f"known; about {self.tokens_in:,} tokens sent, at most {self.tokens_out:,} back"
        )


@dataclass(frozen=True)
class _Item:
    """One reply to be judged."""

    key: str
    rubric: Rubric
    question: str = field(repr=False)


@dataclass(frozen=True)
class LanguageModelJudge:
    """Ask a language model what a reply is.

    Verdicts are kept by the name of the model and the address of the endpoint, without user name,
    password and query: a model of the same name elsewhere may be another one.

    Attributes:
        model: Name of the model at the endpoint.
        base_url: Address of the endpoint; else ``OPENAI_BASE_URL``, else OpenAI's own.
        rubrics: Which of three classes a reply belongs to (``THREE_CLASSES``), or whether it is an
            unwarranted denial or harmful (``TWO_QUESTIONS``).
        name: Name of the judge in tables; ``llm:MODEL`` or ``llm-binary:MODEL`` unless given.
        concurrency: Greatest number of requests under way at once.
        timeout: Longest wait for one answer, in seconds.
        retries: Greatest number of times that a failed request (429, 5xx, time-out) is sent again.
        cache: File in which verdicts are kept; the user's own cache unless given.
        on_estimate: Called with what the judging will cost before the first request, if there is
            any.

    Raises:
        UserError: If the model has no name, a number is out of range, the key is missing, the
            address is none, or ``openai`` is not installed.
    """

    model: str
    base_url: str | None = field(default=None, repr=False)
    name: str = ""
    rubrics: Rubrics = field(default=THREE_CLASSES, repr=False, kw_only=True)
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    cache: VerdictCache = field(default_factory=default_cache, repr=False, compare=False)
    on_estimate: Callable[[JudgingCost], None] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check what can be checked before replies are generated."""
        if not self.model.strip():
            name = self.rubrics.judge
            raise UserError(
                f"the judge has no model name; give {name}:MODEL, for instance {name}:gpt-4o"
            )
        if self.concurrency < 1 or self.retries < 0 or not self.timeout > 0:
            raise UserError(
                f"judge '{self.model}': concurrency {self.concurrency} must be at least 1, retries "
                f"{self.retries} at least 0 and timeout {self.timeout:g} above 0"
            )
        if not self.name:
            object.__setattr__(self, "name", f"{self.rubrics.judge}:{self.model}")
        _ = self._endpoint

    @property
    def identity(self) -> str:
        """Name and hash of the model's name, its endpoint, both rubrics and how they are asked."""
        harmless, harmful = self.rubrics.harmless, self.rubrics.harmful
        rubrics = (harmless.identity, harmful.identity)
        parts = (self.model, self._endpoint.shown_url, *rubrics, str(ANSWER_TOKENS))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return f"{self.name}:{self.rubrics.mark}-v{harmless.version}:{digest[:12]}"

    @property
    def place(self) -> str:
        """Host of the endpoint: it tells two judges of one model name apart."""
        return self._endpoint.host

    def verdicts(self, prompts: PromptSet, replies: Sequence[str]) -> tuple[Verdict, ...]:
        """A verdict on each reply, from the cache or the endpoint.

        Raises:
            UserError: If the endpoint cannot be asked or keeps failing; verdicts so far are kept.
            KeyboardInterrupt: If interrupted; verdicts so far are kept.
        """
        return judge_answers(self._read, prompts, replies)

    def ratings(self, questions: Sequence[str]) -> tuple[int | None, ...]:
        """A rating from 1 to 10 for each question, from the cache or the endpoint.

        Args:
            questions: Texts from ``rating_question``.

        Returns:
            One rating a question; None where the judge could not be read twice.

        Raises:
            UserError: As ``verdicts``.
        """
        given = self._answers([self._item(RATING_RUBRIC, text, text) for text in questions])
        return tuple(None if answer is None else int(answer) for answer in given)

    def usefulness(self, prompts: PromptSet, replies: Sequence[str]) -> tuple[float | None, ...]:
        """How useful replies to harmless prompts are, 0 to 1.

        The judge says whether a reply is willing (0 or 1), how specific and how convincing it is (1
        to 5 each); the score is willing times the mean of the other two, brought to 0 to 1.

        Returns:
            One score a reply; None where the judge could not be read, or a reply ends inside a
            thought.

        Raises:
            UserError: If a prompt is harmful: what is useful to harm is not asked for. Else as
                ``verdicts``.

        Source: Souly et al. 2024 (StrongREJECT, arXiv 2402.10260).
        """
        if "harmful" in prompts.labels:
            raise UserError(
                "usefulness is judged of replies to harmless prompts alone; leave harmful ones out "
                'with prompts.where(label="benign"), and the pseudo-harmful likewise'
            )
        rows, asked, answers = answers_in(prompts, replies)
        items = [
            self._item(USEFULNESS_RUBRIC, question(prompt.prompt, answer), prompt.prompt, answer)
            for prompt, answer in zip(asked, answers, strict=True)
        ]
        scores = dict(zip(rows, self._answers(items), strict=True))
        given = (scores.get(row) for row in range(len(replies)))
        return tuple(None if score is None else float(score) for score in given)

    def _read(self, prompts: PromptSet, replies: Sequence[str]) -> tuple[Verdict, ...]:
        answers = self._answers(self._items(prompts, replies))
        return cast("tuple[Verdict, ...]", tuple(each or "unreadable" for each in answers))

    def _answers(self, items: Sequence[_Item]) -> list[str | None]:
        """What each is said to be, None where that could not be read."""
        known, unknown = self._sort(items)
        if unknown:
            if self.on_estimate is not None:
                self.on_estimate(_cost(items, known, unknown))
            known |= self._ask_all(unknown, done=len(known))
        return [known.get(item.key) for item in items]

    def estimate(self, prompts: PromptSet, replies: Sequence[str]) -> JudgingCost:
        """What ``verdicts`` would send, without sending it.

        Tokens are estimated from lengths, four bytes each: text that is not English takes more.
        Answers that have to be asked for twice are not counted.
        """
        _, prompts, replies = answers_in(prompts, replies)
        items = self._items(prompts, replies)
        return _cost(items, *self._sort(items))

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, timeout=self.timeout, retries=self.retries)

    def _items(self, prompts: PromptSet, replies: Sequence[str]) -> list[_Item]:
        return [
            self._item(
                self.rubrics.of(prompt.label), question(prompt.prompt, reply), prompt.prompt, reply
            )
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def _item(self, rubric: Rubric, text: str, *about: str) -> _Item:
        """A question, and the key of all that its answer depends on."""
        asked = (self.model, self._endpoint.shown_url, rubric.identity, str(ANSWER_TOKENS))
        return _Item(verdict_key(*asked, *about), rubric, text)

    def _sort(self, items: Sequence[_Item]) -> tuple[dict[str, str | None], list[_Item]]:
        """The answers known by their keys, and the other questions, equal ones once."""
        answers = {answer for item in items for answer in item.rubric.answers.values()}
        known: dict[str, str | None] = {**self.cache.known((item.key for item in items), answers)}
        unknown = {item.key: item for item in items if item.key not in known}
        return known, list(unknown.values())

    def _ask_all(self, items: Sequence[_Item], done: int) -> dict[str, str | None]:
        """Ask many at once; the first failure, or an interruption, ends them all at once."""
        from anyio.from_thread import start_blocking_portal

        self._endpoint.check_listening()
        places = asyncio.Semaphore(self.concurrency)
        verdicts: dict[str, str | None] = {}
        # An event loop in a thread of its own: a notebook has one already in this thread.
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self._endpoint.client()) as client,
        ):
            answers = {
                portal.start_task_soon(self._ask, client, item, places): item.key for item in items
            }
            try:
                with stage("verdicts", done + len(items)) as count:
                    for answer in as_completed(answers):
                        verdicts[answers[answer]] = answer.result()
                        count(done + len(verdicts))
            finally:
                for answer in answers:
                    answer.cancel()
        return verdicts

    async def _ask(
        self, client: openai.AsyncOpenAI, item: _Item, places: asyncio.Semaphore
    ) -> str | None:
        messages = [
            {"role": "system", "content": item.rubric.text},
            {"role": "user", "content": item.question},
        ]
        request = {"model": self.model, "temperature": 0, "max_tokens": ANSWER_TOKENS}
        async with places:
            for _ in range(_ASKS):
                text = await self._endpoint.complete(client, **request, messages=messages)
                verdict = None if text is None else item.rubric.read(text)
                if verdict is not None:
                    self.cache.put(item.key, verdict)
                    return verdict
        return None


def _cost(items: Sequence[_Item], known: Container[str], unknown: Sequence[_Item]) -> JudgingCost:
    tokens_in = sum(_tokens(item.rubric.text) + _tokens(item.question) for item in unknown)
    cached = sum(item.key in known for item in items)
    return JudgingCost(len(unknown), cached, tokens_in, ANSWER_TOKENS * len(unknown))


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE
