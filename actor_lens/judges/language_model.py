"""A language model as judge, behind any OpenAI-compatible endpoint.

Each reply is one question at temperature 0 under the rubric for its kind of prompt. An answer that
is not exactly one class is asked for once more and is then "unreadable". Readable verdicts are kept
on disk as they come, so that a run that is cut short goes on where it was; unreadable ones are
asked for again by the next run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from actor_lens.errors import UserError
from actor_lens.judges.base import Verdict
from actor_lens.judges.endpoint import Endpoint, Stopped
from actor_lens.judges.rubrics import HARMFUL_RUBRIC, HARMLESS_RUBRIC, Rubric, question, read_answer
from actor_lens.judges.verdict_cache import VerdictCache, default_cache, verdict_key
from actor_lens.prompts.sets import PromptSet

if TYPE_CHECKING:
    import pandas as pd

ANSWER_TOKENS = 64
# English has about four bytes a token with usual tokenizers; a message costs a few beside its text.
_BYTES_PER_TOKEN, _TOKENS_PER_MESSAGE = 4, 6
_ASKS = 2


@dataclass(frozen=True)
class JudgingCost:
    """What judging will send, estimated from lengths before anything is sent.

    Attributes:
        requests: Replies to be judged; equal ones once.
        cached: Replies whose verdict is on disk already.
        tokens_in: Of the requests, estimated.
        tokens_out: Most that the answers may have; the thoughts of a reasoning model come on top.
        money: In the currency of the prices; NaN without prices.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int
    money: float

    def frame(self) -> pd.DataFrame:
        """One row; a column for each attribute."""
        import pandas as pd

        return pd.DataFrame([asdict(self)])


@dataclass(frozen=True)
class _Item:
    """One reply to be judged."""

    key: str
    rubric: Rubric
    prompt: str
    reply: str


@dataclass(frozen=True)
class LanguageModelJudge:
    """Asks a language model which of three classes a reply belongs to.

    Verdicts are kept by the name of the model and the address of the endpoint, without user name,
    password and query: a model of the same name elsewhere may be another one.

    Attributes:
        model: Its name at the endpoint.
        base_url: Of the endpoint; else ``OPENAI_BASE_URL``, else OpenAI's own.
        name: Of the judge, for tables; ``llm:MODEL`` unless given.
        concurrency: Requests under way at once.
        timeout: Of one request, in seconds.
        retries: How often a request that failed (429, 5xx, time-out) is sent again.
        cache: Where verdicts are kept; the user's own cache unless given.
        on_estimate: Told what the judging will cost before the first request, if there is any.
        on_progress: Told after every verdict: how many are known, and of how many.
        wait: Called with seconds to wait before a request is sent again.

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
    on_progress: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)
    wait: Callable[[float], None] | None = field(default=None, repr=False, compare=False)

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
        items = self._items(prompts, replies)
        known = self._cached(items)
        todo = {item.key: item for item in items if item.key not in known}
        if todo and self.on_estimate is not None:
            self.on_estimate(self.estimate(prompts, replies))
        known |= self._ask_all(list(todo.values()), done=len(known))
        return tuple(known[item.key] for item in items)

    def estimate(
        self,
        prompts: PromptSet,
        replies: Sequence[str],
        *,
        price_in: float = math.nan,
        price_out: float = math.nan,
    ) -> JudgingCost:
        """What ``verdicts`` would send, without sending it.

        Tokens are estimated from lengths, four bytes each: text that is not English takes more.
        Answers that have to be asked for twice are not counted.

        Args:
            prompts: That were answered.
            replies: One each.
            price_in: Of a million tokens that are sent.
            price_out: Of a million tokens of answers.
        """
        items = self._items(prompts, replies)
        known = self._cached(items)
        todo = {item.key: item for item in items if item.key not in known}.values()
        tokens_in = sum(
            _tokens(item.rubric.text) + _tokens(question(item.prompt, item.reply)) for item in todo
        )
        tokens_out = ANSWER_TOKENS * len(todo)
        money = 0.0
        if todo:
            money = (tokens_in * price_in + tokens_out * price_out) / 1e6
        return JudgingCost(
            len(todo), sum(item.key in known for item in items), tokens_in, tokens_out, money
        )

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, timeout=self.timeout, retries=self.retries, wait=self.wait)

    def _items(self, prompts: PromptSet, replies: Sequence[str]) -> list[_Item]:
        items = []
        for prompt, reply in zip(prompts, replies, strict=True):
            rubric = HARMFUL_RUBRIC if prompt.label == "harmful" else HARMLESS_RUBRIC
            asked = (self.model, self._endpoint.shown_url, rubric.identity, str(ANSWER_TOKENS))
            key = verdict_key(*asked, prompt.prompt, reply)
            items.append(_Item(key, rubric, prompt.prompt, reply))
        return items

    def _cached(self, items: Sequence[_Item]) -> dict[str, Verdict]:
        self.cache.refresh()
        found = ((item.key, self.cache.get(item.key)) for item in items)
        return {key: verdict for key, verdict in found if verdict is not None}

    def _ask_all(self, items: Sequence[_Item], done: int) -> dict[str, Verdict]:
        """Ask in several threads; the first failure for good ends the others."""
        self._endpoint.stop.clear()
        known = count(done + 1)

        def note(asked: Future[Verdict]) -> None:
            if self.on_progress is not None and not asked.cancelled() and not asked.exception():
                self.on_progress(next(known), done + len(items))

        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self._ask, item) for item in items]
            try:
                for future in futures:
                    future.add_done_callback(note)
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(future.done() and not future.exception() for future in futures):
                    self._endpoint.stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
        _raise_first(futures)
        return {item.key: future.result() for item, future in zip(items, futures, strict=True)}

    def _ask(self, item: _Item) -> Verdict:
        for _ in range(_ASKS):
            text = self._endpoint.complete(
                model=self.model,
                temperature=0,
                max_tokens=ANSWER_TOKENS,
                messages=[
                    {"role": "system", "content": item.rubric.text},
                    {"role": "user", "content": question(item.prompt, item.reply)},
                ],
            )
            verdict = None if text is None else read_answer(text)
            if verdict is not None:
                self.cache.put(item.key, verdict)
                return verdict
        return "unreadable"


def _raise_first(futures: Sequence[Future[Verdict]]) -> None:
    """Raise what ended the judging, rather than what it made of the other requests."""
    errors = [one.exception() for one in futures if one.done() and not one.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, Stopped):
            raise error


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE
