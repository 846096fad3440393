"""What collecting, training one block and evaluating take in memory, by formulas."""

from __future__ import annotations

from dataclasses import dataclass

from actor_lens.models.batches import REPLY_BATCH_TOKENS
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import bytes_per_token, cache_bytes_per_token

BATCH_TOKENS = 4096
"""Tokens of a forward pass, padding included, that the estimates assume."""
_FLOAT32 = 4


@dataclass(frozen=True)
class MemoryNeeds:
    """Estimated peak memory of the three jobs, in bytes, the weights included.

    Attributes:
        weights: All tensors of the model, each counted once.
        block: The tensors of its largest block.
        collect: ``weights + BATCH_TOKENS * t``, where ``t`` is what the temporaries of a block take
            for a token (``memory.bytes_per_token``).
        train: ``collect + 16 * (parameters of the block) + inputs``: a float32 copy of the block,
            its gradients and the two moments of AdamW; the inputs of the block are the residuals
            of all training prompts at all tokens. None for quantised models, which are not trained.
        evaluate: ``collect + cache + logits``: keys and values of ``REPLY_BATCH_TOKENS`` tokens in
            every layer, and float32 scores of the vocabulary for each prompt of the batch. Where
            less is free, batches are smaller.
    """

    weights: int
    block: int
    collect: int
    train: int | None
    evaluate: int


def memory_needs(
    model: ChatModel, *, prompt_tokens: int = 64, train_prompts: int = 180
) -> MemoryNeeds:
    """Estimate the memory of each job.

    Args:
        model: Its sizes and dtypes.
        prompt_tokens: Length of a templated prompt.
        train_prompts: Number of training prompts.
    """
    weights = sum(tensor.nbytes for tensor in model.hf.parameters())
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.blocks]
    parameters = max(sum(p.numel() for p in block.parameters()) for block in model.blocks)
    inputs = train_prompts * prompt_tokens * model.d_model * model.hf.dtype.itemsize
    collect = weights + BATCH_TOKENS * bytes_per_token(model, prompt_tokens)
    prompts = max(1, REPLY_BATCH_TOKENS // prompt_tokens)
    logits = prompts * int(model.hf.config.vocab_size) * _FLOAT32
    return MemoryNeeds(
        weights=weights,
        block=max(blocks),
        collect=collect,
        train=None if model.quantization else collect + 4 * _FLOAT32 * parameters + inputs,
        evaluate=collect + REPLY_BATCH_TOKENS * cache_bytes_per_token(model) + logits,
    )
