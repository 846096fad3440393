"""What the model says: greedy replies, and the scores of the first reply token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations import Progress
from actor_lens.batching import TokenBatch, batches_by_length
from actor_lens.errors import UserError
from actor_lens.models import ChatModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

Intervention = Callable[[TokenBatch], "AbstractContextManager[None]"]
"""Entered around the forward pass of a batch, for instance to shift its rows."""


def generate_replies(
    model: ChatModel,
    prompts: Sequence[str],
    *,
    new_tokens: int = 64,
    batch_size: int = 64,
    on_progress: Progress | None = None,
) -> list[str]:
    """Greedy replies, in the order of the prompts.

    Generation ends at any of the end tokens of the model's ``generation_config``.

    Args:
        model: Replies come from ``model.hf`` as it is now.
        prompts: User messages.
        new_tokens: Longest reply, in tokens. Late refusals are missed by short ones.
        batch_size: Prompts in one batch.
        on_progress: Told after every batch.

    Raises:
        UserError: If a prompt and its reply would not fit into the model, or ``new_tokens`` or
            ``batch_size`` is below 1.
    """
    for name, value in (("new_tokens", new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; give a whole number of at least 1")
    replies = [""] * len(prompts)
    done = 0
    for batch in batches_by_length(
        model.tokenize(prompts, room=new_tokens),
        batch_size=batch_size,
        pad_token_id=model.pad_token_id,
        device=model.device,
    ):
        with torch.no_grad():
            generated: Any = model.hf.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                # Sampling settings that some checkpoints ship warn in greedy decoding.
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=model.pad_token_id,
            )
        texts = model.tokenizer.batch_decode(
            generated[:, batch.input_ids.shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(batch.indices, texts, strict=True):
            replies[index] = text.strip()
        done += len(batch.indices)
        if on_progress is not None:
            on_progress(done, len(prompts))
    return replies


def first_token_logits(
    model: ChatModel,
    prompts: Sequence[str],
    *,
    batch_size: int = 64,
    intervention: Intervention | None = None,
) -> Float[Tensor, "prompt vocabulary"]:
    """Logits of the first token of each reply, float32 on the CPU.

    Args:
        model: Scores come from ``model.hf`` as it is now.
        prompts: User messages.
        batch_size: Prompts in one batch.
        intervention: Made for each batch and entered around its forward pass.
    """
    logits = torch.empty(len(prompts), int(model.hf.config.vocab_size))
    for batch in batches_by_length(
        model.tokenize(prompts),
        batch_size=batch_size,
        pad_token_id=model.pad_token_id,
        device=model.device,
    ):
        rows = list(batch.indices)
        if intervention is None:
            logits[rows] = _last_logits(model, batch)
        else:
            with intervention(batch):
                logits[rows] = _last_logits(model, batch)
    return logits


def _last_logits(model: ChatModel, batch: TokenBatch) -> Float[Tensor, "prompt vocabulary"]:
    with torch.no_grad():
        output: Any = model.hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=1,
        )
    last: Tensor = output.logits[:, -1].float().cpu()
    return last
