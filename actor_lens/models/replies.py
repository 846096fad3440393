"""What the model says: greedy replies, and the scores of the first reply token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import check_whole
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import end_of_turn
from actor_lens.models.finite import check_finite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from transformers import LogitsProcessor, PreTrainedModel

Intervention = Callable[[TokenBatch], "AbstractContextManager[None]"]
"""Entered around the forward pass of a batch, for instance to shift its rows."""


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
    greedy = _greedy(model, new_tokens)
    replies = [""] * len(token_ids)

    def reply(batch: TokenBatch) -> None:
        sums: list[Tensor] = []

        def add_up(_ids: Tensor, scores: Tensor) -> Tensor:
            sums.append(scores.float().sum())  # of one NaN or infinity the sum is none, too
            return scores

        with torch.no_grad():
            generated: Any = greedy.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                logits_processor=[add_up, *_processors(model, prompts, batch)],
            )
        check_finite(model, torch.stack(sums), "logits")
        texts = model.tokenizer.batch_decode(
            generated[:, batch.input_ids.shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(batch.indices, texts, strict=True):
            replies[index] = text.strip()

    run_in_batches(model, token_ids, reply, new_tokens=new_tokens)
    return replies


def tokens_with_room(model: ChatModel, prompts: Sequence[str], new_tokens: int) -> list[list[int]]:
    """Token ids of the templated prompts, once it is sure that they can be replied to.

    Raises:
        UserError: If a prompt and its reply would not fit into the model, or ``new_tokens`` is
            below 1.
    """
    return model.tokenize(prompts, room=check_whole("new_tokens", new_tokens, 1))


def first_token_logits(
    model: ChatModel,
    prompts: Sequence[str],
    *,
    intervention: Intervention | None = None,
) -> Float[Tensor, "prompt vocabulary"]:
    """Logits of the first token of each reply, float32 on the CPU.

    Args:
        model: Scores come from ``model.hf`` as it is now.
        prompts: User messages.
        intervention: Function that makes, for each batch, a context for its forward pass.
    """
    logits = torch.empty(len(prompts), int(model.hf.config.vocab_size))

    def first_token(batch: TokenBatch) -> None:
        entered = nullcontext() if intervention is None else intervention(batch)
        with entered:
            last = last_logits(model, batch)
        logits[list(batch.indices)] = processed(model, prompts, batch, last).float().cpu()

    run_in_batches(model, model.tokenize(prompts), first_token)
    return logits


def kl_divergence(
    base: Float[Tensor, " vocabulary"], changed: Float[Tensor, " vocabulary"]
) -> Float[Tensor, ""]:
    """``KL(base || changed)`` of two next-token distributions, given their logits.

    In nats, float64; infinite where the second rules a token out that the first does not.
    """
    p, q = base.double().log_softmax(-1), changed.double().log_softmax(-1)
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    return terms.sum().clamp(min=0)  # rounding can lead a hair below 0


def _greedy(model: ChatModel, new_tokens: int) -> PreTrainedModel:
    """The model with generation settings of its own, of which only the end tokens are taken over.

    Sampling settings, penalties, minimum lengths and the like that checkpoints ship would make
    replies other than greedy; repetition penalties also count padding, so that a reply would
    depend on its batch. The copy shares all modules, and ``model.hf`` keeps its settings.
    """
    from transformers import GenerationConfig

    greedy = copy.copy(model.hf)
    greedy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=list(end_tokens(model)) or None,
        pad_token_id=model.pad_token_id,
    )
    return greedy


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


def last_logits(model: ChatModel, batch: TokenBatch) -> Float[Tensor, "prompt vocabulary"]:
    """Logits of the first reply token of a batch, float32, as the network gives them.

    Raises:
        NotFiniteError: If they are not finite.
    """
    with torch.no_grad():
        output: Any = model.hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=1,
        )
    last: Tensor = output.logits[:, -1].float()
    check_finite(model, last, "logits")
    return last


def processed(
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
    for process in _processors(model, prompts, batch):
        logits = process(batch.input_ids, logits)
    return logits


def _processors(
    model: ChatModel, prompts: Sequence[str], batch: TokenBatch
) -> list[LogitsProcessor]:
    """What the model's way of decoding does to the next-token scores of a batch."""
    if model.decoding is None:
        return []
    return [model.decoding([prompts[index] for index in batch.indices])]
