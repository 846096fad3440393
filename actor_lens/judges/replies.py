"""Replies to prompts and how each begins, kept batch by batch for work that is cut short.

What a model answers to a harmful prompt is never kept: of those prompts only refusals of one
sentence lie in the store, and other replies are generated again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actor_lens.activations.filling import Array, Key, Put, collect, identity_of
from actor_lens.activations.store import Store
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.opening_scores import score_openings
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.decoding import Ask
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.models.replies import (
    ReplyWriter,
    end_tokens,
    read_batch,
    reply_text,
    tokens_with_room,
)
from actor_lens.prompts.sets import PromptSet

HARMFUL_REPLY_LENGTH = 140
"""A refusal of a harmful prompt is told by its beginning; what follows this may be no refusal."""
_ONE_SENTENCE = re.compile(rf"[^.!?:;<>\n]{{1,{HARMFUL_REPLY_LENGTH}}}[.!?]?")
# Token ids are never negative.
_NO_TOKEN, _NOT_KEPT = -1, -2


@dataclass(frozen=True)
class Replies:
    """What a model says to prompts.

    Attributes:
        texts: Its replies as text.
        refusal_scores: Refusal scores; NaN where they were not asked for.
        ids: Token ids of each reply, at least one.
    """

    texts: tuple[str, ...]
    refusal_scores: tuple[float, ...]
    ids: tuple[tuple[int, ...], ...] = ()


def write_replies(
    model: ChatModel,
    prompts: PromptSet,
    *,
    openings: Sequence[tuple[int, ...]] = (),
    new_tokens: int,
    store: Store | bool = True,
) -> Replies:
    """Greedy replies, with refusal scores from the same reading of the prompts.

    Args:
        model: The model as it is now.
        prompts: The prompts.
        openings: Token ids of each way to begin refusals; none for no scores.
        new_tokens: Longest reply, in tokens.
        store: Store that keeps replies and scores: True is the default store, False none. None is
            used for a model with a ``decoding``.

    Raises:
        UserError: If a prompt and its reply do not fit into the model.
    """
    asked = max(map(len, openings), default=1) - 1  # the last token of an opening is not read
    token_ids = tokens_with_room(model, prompts.texts, max(new_tokens, asked))
    judge = KeywordJudge()
    common, ones = identity_of(model, token_ids), [1] * len(prompts)
    kind = {
        "kind": "replies",
        "version": 2,  # of how replies are written, and of which are kept
        "ends": list(end_tokens(model)),
        "device": model.device.type,
        "new_tokens": new_tokens,
        "labels": list(prompts.labels),
    }
    arrays: dict[Key, Array] = {
        "replies": Array({**common, **kind}, 1, ones, new_tokens, torch.int32)
    }
    if openings:
        kind = {"kind": "opening_scores", "openings": [list(ids) for ids in openings]}
        arrays["scores"] = Array({**common, **kind}, 1, ones, 1, torch.float32)
    writer = ReplyWriter(model, prompts.texts, new_tokens, total=len(prompts))
    replies: dict[int, list[int]] = {}

    def run(batch: TokenBatch, puts: Mapping[Key, Put]) -> None:
        def take(ask: Ask) -> None:
            puts["scores"](list(score_openings(ask, openings)[:, None, None, None]))

        if "replies" not in puts:
            take(read_batch(model, prompts.texts, batch, room=asked))
            return
        rows = writer.write(batch, take if "scores" in puts else None, asked)
        kept = []
        for index, ids in zip(batch.indices, rows, strict=True):
            replies[index], text = ids, reply_text(model, ids)
            harmless = prompts[index].label != "harmful" or _is_short_refusal(text, judge)
            padded = np.full((1, 1, new_tokens), _NO_TOKEN, dtype=np.int32)
            padded[..., : len(ids)] = ids if harmless else _NOT_KEPT
            kept.append(torch.from_numpy(padded))
        puts["replies"](kept)

    values = collect(
        model,
        token_ids,
        arrays,
        run,
        store=store if model.decoding is None else False,
        new_tokens=new_tokens,
        kept_per_token=cache_bytes_per_token(model),
    )
    for index, ids in enumerate(values["replies"][0].tolist()):
        if index not in replies and ids[0] != _NOT_KEPT:
            replies[index] = [token for token in ids if token != _NO_TOKEN]

    left = [index for index in range(len(prompts)) if index not in replies]
    further = ReplyWriter(model, prompts.texts, new_tokens, total=len(left))

    def write_again(batch: TokenBatch) -> None:
        replies.update(zip(batch.indices, further.write(batch), strict=True))

    run_in_batches(
        model,
        token_ids,
        write_again,
        rows=left,
        new_tokens=new_tokens,
        kept_per_token=cache_bytes_per_token(model),
    )
    scores = [float("nan")] * len(prompts)
    if openings:
        scores = values["scores"][0, :, 0].tolist()
    written = tuple(tuple(replies[index]) for index in range(len(prompts)))
    return Replies(tuple(reply_text(model, ids) for ids in written), tuple(scores), written)


def _is_short_refusal(reply: str, judge: KeywordJudge) -> bool:
    """Whether a reply is one sentence that refuses: nothing else may follow, or stand before."""
    return _ONE_SENTENCE.fullmatch(reply) is not None and judge.refused(reply)
