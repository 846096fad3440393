"""What the model says: greedy replies, and the scores of the first reply token."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import check_whole
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import end_of_turn
from actor_lens.models.decoding import Ask, ReplySettings, ask_about, greedy_replies
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.models.reading import OwnWayError, last_logits, read_prompts
from actor_lens.progress import note, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import LogitsProcessor


def generate_replies(
    model: ChatModel,
    prompts: Sequence[str],
    *,
    new_tokens: int = 64,
) -> list[str]:
    """Greedy replies, in the order of the prompts.

    Generation ends at any of the model's ``end_tokens``; other settings of its
    ``generation_config`` (sampling, penalties) are not used.

    Args:
        model: Replies come from ``model.hf`` as it is now.
        prompts: User messages.
        new_tokens: Longest reply, in tokens. Late refusals are missed by short ones.

    Raises:
        UserError: If a prompt and its reply would not fit into the model, or ``new_tokens`` is
            below 1.
    """
    return continue_tokens(
        model,
        tokens_with_room(model, prompts, new_tokens),
        prompts=prompts,
        new_tokens=new_tokens,
    )


def continue_tokens(
    model: ChatModel,
    token_ids: Sequence[list[int]],
    *,
    prompts: Sequence[str] = (),
    new_tokens: int = 64,
) -> list[str]:
    """Greedy continuations of token ids, as ``generate_replies`` makes of templated prompts.

    Args:
        model: Continuations come from ``model.hf`` as it is now.
        token_ids: Token ids to continue; with ``new_tokens`` more they fit into the model.
        prompts: The user's message in each, for a model with a ``decoding`` of its own.
        new_tokens: Longest continuation, in tokens.
    """
    replies = [""] * len(token_ids)
    writer = ReplyWriter(model, prompts, new_tokens, total=len(token_ids))

    def reply(batch: TokenBatch) -> None:
        for index, ids in zip(batch.indices, writer.write(batch), strict=True):
            replies[index] = reply_text(model, ids)

    run_in_batches(
        model,
        token_ids,
        reply,
        new_tokens=new_tokens,
        kept_per_token=cache_bytes_per_token(model),
    )
    return replies


def reply_text(model: ChatModel, ids: Sequence[int]) -> str:
    """The text of a reply, without special tokens.

    Args:
        model: Its tokenizer is used.
        ids: Token ids of the reply.
    """
    [text] = model.tokenizer.batch_decode([list(ids)], skip_special_tokens=True)
    return text.strip()


class ReplyWriter:
    """Writes greedy replies batch by batch, and reports how many there are and how quickly."""

    def __init__(
        self, model: ChatModel, prompts: Sequence[str], new_tokens: int, *, total: int
    ) -> None:
        """Begin.

        Args:
            model: Replies come from ``model.hf`` as it is now.
            prompts: All user messages, for a model with a ``decoding`` of its own.
            new_tokens: Longest reply, in tokens.
            total: Number of replies to be written.
        """
        self._model, self._prompts, self._new_tokens = model, prompts, new_tokens
        self._total, self._done, self._tokens = total, 0, 0
        self._begun = time.monotonic()

    def write(
        self,
        batch: TokenBatch,
        on_read: Callable[[Ask], None] | None = None,
        longest_question: int = 0,
    ) -> list[list[int]]:
        """Token ids of the reply to each prompt of a batch.

        Args:
            batch: The prompts.
            on_read: Called once the prompts have been read, with a function to ask about them.
            longest_question: Tokens of the longest beginning that it asks about.
        """
        settings = ReplySettings(
            new_tokens=self._new_tokens,
            ends=end_tokens(self._model),
            processors=score_processors(self._model, self._prompts, batch),
            on_part=lambda share: self._report(share * len(batch.indices)),
            on_read=on_read,
            longest_question=longest_question,
        )
        rows = greedy_replies(self._model, batch, settings)
        self._done += len(rows)
        self._tokens += sum(map(len, rows))
        speed = self._tokens / max(time.monotonic() - self._begun, 1e-9)
        note(f"{speed:,.0f} tokens a second")
        return rows

    def _report(self, prompts: float) -> None:
        """Report as many prompts of a batch as its work so far is worth, but not the last."""
        report(min(self._done + int(prompts), self._total - 1), self._total)


def tokens_with_room(model: ChatModel, prompts: Sequence[str], new_tokens: int) -> list[list[int]]:
    """Token ids of the templated prompts, once it is sure that they can be replied to.

    Raises:
        UserError: If a prompt and its reply would not fit into the model, or ``new_tokens`` is
            below 1.
    """
    return model.tokenize(prompts, room=check_whole("new_tokens", new_tokens, 1))


def first_token_logits(
    model: ChatModel, prompts: Sequence[str]
) -> Float[Tensor, "prompt vocabulary"]:
    """Logits of the first token of each reply, float32 on the CPU.

    Args:
        model: Scores come from ``model.hf`` as it is now.
        prompts: User messages.
    """
    logits = torch.empty(
        len(prompts), int(model.hf.config.vocab_size), dtype=torch.float32, device="cpu"
    )

    def first_token(batch: TokenBatch) -> None:
        last = process_scores(model, prompts, batch, last_logits(model, batch))
        logits[list(batch.indices)] = last.float().cpu()

    run_in_batches(model, model.tokenize(prompts), first_token)
    return logits


def read_batch(
    model: ChatModel, prompts: Sequence[str], batch: TokenBatch, *, room: int = 0
) -> Ask:
    """Read a batch of prompts, to ask how likely their replies are to begin in several ways.

    Args:
        model: The model as it is now.
        prompts: All user messages, for a model with a ``decoding`` of its own.
        batch: Those that are asked about.
        room: Longest beginning that will be asked about, in tokens.
    """
    reading = None
    if room:
        with suppress(OwnWayError), torch.no_grad():
            reading = read_prompts(model, batch, room=room)
    return ask_about(model, batch, score_processors(model, prompts, batch), reading)


def kl_divergence(
    base: Float[Tensor, " vocabulary"], changed: Float[Tensor, " vocabulary"]
) -> Float[Tensor, ""]:
    """``KL(base || changed)`` of two next-token distributions, given their logits.

    In nats, float64; infinite where the second rules a token out that the first does not.
    """
    p, q = base.double().log_softmax(-1), changed.double().log_softmax(-1)
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    return terms.sum().clamp(min=0)  # rounding can lead a hair below 0


def end_tokens(model: ChatModel) -> tuple[int, ...]:
    """Ids that end a reply: those of the model's ``generation_config``, or else the tokenizer's.

    The token with which the chat template ends a turn ends a reply as well: checkpoints whose
    configuration does not name it would go on with a turn of the user's.
    """
    shipped = model.hf.generation_config
    ends: Any = None if shipped is None else shipped.eos_token_id
    ends = model.tokenizer.eos_token_id if ends is None else ends
    named = ends if isinstance(ends, (list, tuple)) else [ends]
    every = (*named, end_of_turn(model.tokenizer))
    return tuple(dict.fromkeys(int(token) for token in every if token is not None))


def process_scores(
    model: ChatModel,
    prompts: Sequence[str],
    batch: TokenBatch,
    logits: Float[Tensor, "prompt vocabulary"],
) -> Float[Tensor, "prompt vocabulary"]:
    """Logits after what the model's way of decoding does to them.

    Args:
        model: Its ``decoding`` is used.
        prompts: All user messages.
        batch: Those whose logits are given.
        logits: Logits of their first reply tokens.
    """
    for process in score_processors(model, prompts, batch):
        logits = process(batch.input_ids, logits)
    return logits


def score_processors(
    model: ChatModel, prompts: Sequence[str], batch: TokenBatch
) -> list[LogitsProcessor]:
    """What the model's way of decoding does to the next-token scores of a batch."""
    if model.decoding is None:
        return []
    return [model.decoding([prompts[index] for index in batch.indices])]
