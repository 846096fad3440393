"""Greedy decoding of a batch of prompts: each new token is one short pass over the keys kept.

Rows whose reply has ended leave the batch, so that little is computed that nobody reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.models.fused_attention import with_fused_attention
from actor_lens.models.reading import (
    OwnWayError,
    Reading,
    read_prompts,
    run_tokens,
    scores_behind,
)

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedModel

Ask = Callable[[Sequence[int]], Float[Tensor, "prompt vocabulary"]]
"""Scores of the next tokens, after the processors, behind a beginning that all replies have."""

# Rows leave once one in so many has ended: to leave is to copy what the others keep.
_LEAVE_TOGETHER = 8


@dataclass(frozen=True)
class ReplySettings:
    """How replies go on from prompts.

    Attributes:
        new_tokens: Longest reply, in tokens.
        ends: Ids that end a reply, as its last token.
        processors: What changes the scores of the next tokens before the highest is taken. They
            are asked about all rows of the batch at every token.
        on_part: Hears how much of the batch is done, between 0 and 1.
        on_read: Called once the prompts have been read, with a function to ask about them.
        longest_question: Tokens of the longest beginning that it asks about.
    """

    new_tokens: int
    ends: tuple[int, ...] = ()
    processors: Sequence[LogitsProcessor] = ()
    on_part: Callable[[float], None] = lambda _share: None
    on_read: Callable[[Ask], None] | None = None
    longest_question: int = 0


def greedy_replies(
    model: ChatModel, batch: TokenBatch, settings: ReplySettings, start: Reading | None = None
) -> list[list[int]]:
    """Token ids of the greedy reply to each prompt, its end token included.

    Where hooks change the model, or processors the scores, rows stay when their replies have ended,
    and a hooked model reads all prompts in one pass: both may hold something for each row. A model
    that decodes in a way of its own goes through transformers' ``generate``: one that prepares its
    inputs itself, or whose cache is not made of keys and values of single tokens.

    Args:
        model: Replies come from ``model.hf`` as it is now.
        batch: The prompts.
        settings: How replies go on.
        start: What the model keeps of the prompts where it has read them; it is used up.

    Raises:
        NotFiniteError: If logits are not finite.
    """
    with torch.no_grad():
        try:
            rows = _Rows(model, batch, settings, start)
        except OwnWayError:
            return _generate(model, batch, settings)
        everything = _work(batch, settings)
        for left in reversed(range(settings.new_tokens)):
            going_on = rows.add_tokens()
            settings.on_part(1 - going_on * left / everything)
            if not (going_on and left):
                break
            rows.score_next()
    return rows.replies


class _Rows:
    """Rows of a batch whose replies go on, with the keys and values of their tokens.

    Attributes:
        replies: Token ids of the reply to each prompt of the batch, as far as it goes.
    """

    def __init__(
        self, model: ChatModel, batch: TokenBatch, settings: ReplySettings, start: Reading | None
    ) -> None:
        """Read the prompts, unless they have been read.

        Raises:
            OwnWayError: If the model's cache is not made of keys and values of single tokens.
        """
        everything = _work(batch, settings)
        reading = start or read_prompts(
            model,
            batch,
            room=max(settings.new_tokens, settings.longest_question),
            on_tokens=lambda tokens: settings.on_part(tokens / everything),
        )
        self._model, self._batch, self._settings, self._reading = model, batch, settings, reading
        self._hf = with_fused_attention(model)
        self._stay = model.is_hooked or bool(settings.processors)
        self._scores, self._mask = reading.scores, reading.mask
        self._ids, self._positions = batch.input_ids, batch.position_ids[:, -1:]
        self._places = torch.arange(len(self._ids), device=self._ids.device)
        self._ended = torch.zeros_like(self._places, dtype=torch.bool)
        self.replies: list[list[int]] = [[] for _ in batch.indices]

    def add_tokens(self) -> int:
        """Give every reply its likeliest next token; the number of replies that then go on."""
        scores = self._scores
        for process in self._settings.processors:
            scores = process(self._ids, scores)
        if self._settings.on_read is not None and self._ids is self._batch.input_ids:
            ask = ask_about(self._model, self._batch, self._settings.processors, self._reading)
            self._settings.on_read(lambda beginning: ask(beginning) if len(beginning) else scores)
        tokens = scores.argmax(dim=-1).masked_fill(self._ended, self._model.pad_token_id)
        steps = zip(self._places.tolist(), tokens.tolist(), self._ended.tolist(), strict=True)
        for place, token, ended in steps:
            if not ended:
                self.replies[place].append(token)
        ends = torch.tensor(self._settings.ends, dtype=torch.long, device=tokens.device)
        self._ended |= torch.isin(tokens, ends)
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        return int((~self._ended).sum())

    def score_next(self) -> None:
        """Run the newest tokens through the model, after rows that have ended have left."""
        n_ended = int(self._ended.sum())
        if not self._stay and n_ended * _LEAVE_TOGETHER >= len(self._ended):
            self._leave()
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._positions = self._positions + 1
        self._scores, _ = run_tokens(
            self._model,
            self._ids[:, -1:],
            self._mask,
            self._positions,
            self._reading.cache,
            hf=self._hf,
        )

    def _leave(self) -> None:
        on = (~self._ended).nonzero()[:, 0]
        self._reading.cache.batch_select_indices(on.cpu())  # layers may be on any device
        self._ids, self._mask, self._positions = (
            rows[on] for rows in (self._ids, self._mask, self._positions)
        )
        self._places, self._ended = self._places[on], self._ended[on]


def ask_about(
    model: ChatModel,
    batch: TokenBatch,
    processors: Sequence[LogitsProcessor] = (),
    reading: Reading | None = None,
) -> Ask:
    """A function that gives scores of next tokens, as greedy replies to a batch go by them.

    Args:
        model: The model as it is now.
        batch: The prompts.
        processors: What changes scores.
        reading: What the model keeps of the prompts; without it each question reads them anew.
    """

    def ask(beginning: Sequence[int]) -> Float[Tensor, "prompt vocabulary"]:
        if reading is not None and not len(beginning):
            scores = reading.scores
        else:
            scores = scores_behind(model, batch, beginning, reading)
        more = batch.input_ids.new_tensor(list(beginning)).expand(len(batch.indices), -1)
        for process in processors:
            scores = process(torch.cat([batch.input_ids, more], dim=1), scores)
        return scores

    return ask


def _work(batch: TokenBatch, settings: ReplySettings) -> int:
    """Tokens to be read and at most to be written."""
    return int(batch.attention_mask.sum()) + len(batch.indices) * settings.new_tokens


def _generate(model: ChatModel, batch: TokenBatch, settings: ReplySettings) -> list[list[int]]:
    """Replies by transformers' ``generate``, as a list of token ids each."""
    sums: list[Tensor] = []
    if settings.on_read is not None:
        settings.on_read(ask_about(model, batch, settings.processors))

    def watch(_ids: Tensor, scores: Tensor) -> Tensor:
        sums.append(scores.float().sum())
        settings.on_part(len(sums) / settings.new_tokens)
        return scores

    generated: Any = _greedy(model, settings).generate(  # type: ignore[operator]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        logits_processor=[watch, *settings.processors],
    )
    check_finite(model, torch.stack(sums), "logits")
    rows: list[list[int]] = generated[:, batch.input_ids.shape[1] :].tolist()
    return [_up_to_an_end(row, settings.ends) for row in rows]


def _up_to_an_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    places = (place for place, token in enumerate(ids) if token in ends)
    return ids[: next(places, len(ids)) + 1]


def _greedy(model: ChatModel, settings: ReplySettings) -> PreTrainedModel:
    """The model with generation settings of its own, of which only the end tokens are taken over.

    Sampling settings, penalties, minimum lengths and the like that checkpoints ship would make
    replies other than greedy; repetition penalties also count padding, so that a reply would
    depend on its batch. The copy shares all modules, and ``model.hf`` keeps its settings.
    """
    from transformers import GenerationConfig

    greedy = copy.copy(model.hf)
    greedy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=settings.new_tokens,
        eos_token_id=list(settings.ends) or None,
        pad_token_id=model.pad_token_id,
    )
    return greedy
