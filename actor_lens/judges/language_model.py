"""A language model as judge, behind any OpenAI-compatible endpoint.

Each reply is one question at temperature 0 under the rubric for its kind of prompt. An answer that
is not exactly one class is asked for once more and is then "unreadable". Readable verdicts are kept
on disk as they come, so that a run that is cut short goes on where it was; unreadable ones are
asked for again by the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from actor_lens.errors import UserError
from actor_lens.judges.base import Verdict, judge_answers
from actor_lens.judges.endpoint import Endpoint
from actor_lens.judges.rubrics import HARMFUL_RUBRIC, HARMLESS_RUBRIC, Rubric, question, read_answer
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
    """Ask a language model which of three classes a reply belongs to.

    Verdicts are kept by the name of the model and the address of the endpoint, without user name,
    password and query: a model of the same name elsewhere may be another one.

    Attributes:
        model: Name of the model at the endpoint.
        base_url: Address of the endpoint; else ``OPENAI_BASE_URL``, else OpenAI's own.
        name: Name of the judge in tables; ``llm:MODEL`` unless given.
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
            raise UserError("the judge has no model name; give llm:MODEL, for instance llm:gpt-4o")
        if self.concurrency < 1 or self.retries < 0 or not self.timeout > 0:
            raise UserError(
                f"judge '{self.model}': concurrency {self.concurrency} must be at least 1, retries "
                f"{self.retries} at least 0 and timeout {self.timeout:g} above 0"
            )
        if not self.name:
            object.__setattr__(self, "name", f"llm:{self.model}")
        _ = self._endpoint

    @property
    def identity(self) -> str:
        """Name and hash of the model's name, its endpoint, both rubrics and how they are asked."""
        rubrics = (HARMLESS_RUBRIC.identity, HARMFUL_RUBRIC.identity)
        parts = (self.model, self._endpoint.shown_url, *rubrics, str(ANSWER_TOKENS))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return f"{self.name}:rubric-v{HARMLESS_RUBRIC.version}:{digest[:12]}"

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

    def _read(self, prompts: PromptSet, replies: Sequence[str]) -> tuple[Verdict, ...]:
        items, known, unknown = self._sorted(prompts, replies)
        if unknown:
            if self.on_estimate is not None:
                self.on_estimate(self.estimate(prompts, replies))
            known |= self._ask_all(unknown, done=len(known))
        return tuple(known[item.key] for item in items)

    def estimate(self, prompts: PromptSet, replies: Sequence[str]) -> JudgingCost:
        """What ``verdicts`` would send, without sending it.

        Tokens are estimated from lengths, four bytes each: text that is not English takes more.
        Answers that have to be asked for twice are not counted.
        """
        _, prompts, replies = answers_in(prompts, replies)
        items, known, unknown = self._sorted(prompts, replies)
        tokens_in = sum(_tokens(item.rubric.text) + _tokens(item.question) for item in unknown)
        cached = sum(item.key in known for item in items)
        return JudgingCost(len(unknown), cached, tokens_in, ANSWER_TOKENS * len(unknown))

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, timeout=self.timeout, retries=self.retries)

    def _sorted(
        self, prompts: PromptSet, replies: Sequence[str]
    ) -> tuple[list[_Item], dict[str, Verdict], list[_Item]]:
        """All replies, the verdicts known by their keys, and the others, equal ones once."""
        items = []
        for prompt, reply in zip(prompts, replies, strict=True):
            rubric = HARMFUL_RUBRIC if prompt.label == "harmful" else HARMLESS_RUBRIC
            asked = (self.model, self._endpoint.shown_url, rubric.identity, str(ANSWER_TOKENS))
            key = verdict_key(*asked, prompt.prompt, reply)
            items.append(_Item(key, rubric, question(prompt.prompt, reply)))
        known = self.cache.known(item.key for item in items)
        unknown = {item.key: item for item in items if item.key not in known}
        return items, known, list(unknown.values())

    def _ask_all(self, items: Sequence[_Item], done: int) -> dict[str, Verdict]:
        """Ask many at once; the first failure, or an interruption, ends them all at once."""
        from anyio.from_thread import start_blocking_portal

        self._endpoint.check_listening()
        places = asyncio.Semaphore(self.concurrency)
        verdicts: dict[str, Verdict] = {}
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
    ) -> Verdict:
        messages = [
            {"role": "system", "content": item.rubric.text},
            {"role": "user", "content": item.question},
        ]
        request = {"model": self.model, "temperature": 0, "max_tokens": ANSWER_TOKENS}
        async with places:
            for _ in range(_ASKS):
                text = await self._endpoint.complete(client, **request, messages=messages)
                verdict = None if text is None else read_answer(text)
                if verdict is not None:
                    self.cache.put(item.key, verdict)
                    return verdict
        return "unreadable"


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE
