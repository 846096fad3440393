"""Greedy decoding of a batch of prompts: each new token is one short pass over the keys kept.

Prompts are read a moment's work at a time, and rows whose reply has ended leave the batch, so that
little is computed that nobody reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.models.memory import token_budget

if TYPE_CHECKING:
    from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

Start = tuple[Float[Tensor, "prompt vocabulary"], "DynamicCache"]
"""Scores of the first reply tokens, and the cache with the prompts in it."""

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
        on_first: Hears the scores of the first token of each reply, after the processors.
    """

    new_tokens: int
    ends: tuple[int, ...] = ()
    processors: Sequence[LogitsProcessor] = ()
    on_part: Callable[[float], None] = lambda _share: None
    on_first: Callable[[Float[Tensor, "prompt vocabulary"]], None] = lambda _scores: None


class _OwnWayError(Exception):
    """A model decodes in a way of its own."""


def greedy_replies(
    model: ChatModel, batch: TokenBatch, settings: ReplySettings, start: Start | None = None
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
        start: Where the prompts have been read already, scores of the first reply tokens and a
            cache made by ``join``, which is used up. Only for a model that ``reads_plainly``.

    Raises:
        NotFiniteError: If logits are not finite.
    """
    with torch.no_grad():
        try:
            rows = _Rows(model, batch, settings, start)
        except _OwnWayError:
            return _generated(model, batch, settings)
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
        self, model: ChatModel, batch: TokenBatch, settings: ReplySettings, start: Start | None
    ) -> None:
        """Read the prompts, unless they have been read.

        Raises:
            _OwnWayError: If the model's cache is not made of keys and values of single tokens.
        """
        if not reads_plainly(model):
            raise _OwnWayError
        self._model, self._settings = model, settings
        hooked = model.is_hooked
        self._stay = hooked or bool(settings.processors)
        self._scores, self._cache = start or _read(model, batch, settings, together=hooked)
        self._ids, self._mask = batch.input_ids, batch.attention_mask
        self._width = batch.input_ids.shape[1]
        self._positions = batch.position_ids[:, -1:]
        self._places = torch.arange(len(self._ids), device=self._ids.device)
        self._ended = torch.zeros_like(self._places, dtype=torch.bool)
        self.replies: list[list[int]] = [[] for _ in batch.indices]

    def add_tokens(self) -> int:
        """Give every reply its likeliest next token; the number of replies that then go on."""
        scores = self._scores
        for process in self._settings.processors:
            scores = process(self._ids, scores)
        if self._ids.shape[1] == self._width:
            self._settings.on_first(scores)
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
        self._scores, _ = _pass(
            self._model, self._ids[:, -1:], self._mask, self._positions, self._cache
        )

    def _leave(self) -> None:
        on = (~self._ended).nonzero()[:, 0]
        self._cache.batch_select_indices(on.cpu())  # layers may be on any device
        self._ids, self._mask, self._positions = (
            rows[on] for rows in (self._ids, self._mask, self._positions)
        )
        self._places, self._ended = self._places[on], self._ended[on]


def _read(
    model: ChatModel, batch: TokenBatch, settings: ReplySettings, *, together: bool
) -> tuple[Float[Tensor, "prompt vocabulary"], DynamicCache]:
    """Scores of the first reply tokens, and the cache with the prompts in it.

    Args:
        model: The model.
        batch: The prompts.
        settings: Hears how much has been read.
        together: Whether all prompts go through the model in one pass.
    """
    from actor_lens.models.key_cache import join

    n_rows, width = batch.input_ids.shape
    at_once = n_rows if together else max(1, token_budget(model, width) // width)
    scores, caches, done = [], [], 0
    for start in range(0, n_rows, at_once):
        rows = slice(start, start + at_once)
        mask = batch.attention_mask[rows]
        columns = slice(int(mask.argmax(dim=1).min()), None)  # without the padding of all of them
        last, cache = _pass(
            model,
            batch.input_ids[rows, columns],
            mask[:, columns],
            batch.position_ids[rows, columns],
        )
        scores.append(last)
        caches.append(cache)
        done += int(mask.sum())
        settings.on_part(done / _work(batch, settings))
    return torch.cat(scores), join(caches, settings.new_tokens)


def _pass(
    model: ChatModel,
    ids: Int[Tensor, "prompt token"],
    mask: Int[Tensor, "prompt seen"],
    positions: Int[Tensor, "prompt token"],
    cache: DynamicCache | None = None,
) -> tuple[Float[Tensor, "prompt vocabulary"], DynamicCache]:
    """Scores of the tokens after these, float32, and the cache with these in it.

    Raises:
        _OwnWayError: If the model keeps no cache of the plain kind.
    """
    from actor_lens.models.key_cache import is_plain

    output: Any = model.hf(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    kept: Any = getattr(output, "past_key_values", None)
    if cache is None and not is_plain(kept, ids.shape[1]):
        raise _OwnWayError
    scores = output.logits[:, -1].to(device=ids.device, dtype=torch.float32)
    check_finite(model, scores.sum(), "logits")  # of one NaN or infinity the sum is none, too
    return scores, kept


def _work(batch: TokenBatch, settings: ReplySettings) -> int:
    """Tokens to be read and at most to be written."""
    return int(batch.attention_mask.sum()) + len(batch.indices) * settings.new_tokens


def reads_plainly(model: ChatModel) -> bool:
    """Whether the model's class leaves it to transformers how tokens are put into it."""
    from transformers import GenerationMixin

    own = getattr(type(model.hf), "prepare_inputs_for_generation", None)
    return own is GenerationMixin.prepare_inputs_for_generation


def _generated(model: ChatModel, batch: TokenBatch, settings: ReplySettings) -> list[list[int]]:
    """Replies by transformers' ``generate``, as a list of token ids each."""
    sums: list[Tensor] = []

    def watch(_ids: Tensor, scores: Tensor) -> Tensor:
        sums.append(scores.float().sum())
        settings.on_part(len(sums) / settings.new_tokens)
        return scores

    def hand_out(_ids: Tensor, scores: Tensor) -> Tensor:
        if len(sums) == 1:
            settings.on_first(scores.float())
        return scores

    generated: Any = _greedy(model, settings).generate(  # type: ignore[operator]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        logits_processor=[watch, *settings.processors, hand_out],
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
