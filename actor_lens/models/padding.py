"""Prompts of like length in one left-padded batch, so that the last token is always at ``-1``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of some prompts, padded on the left.

    Attributes:
        indices: Which prompts these are.
        input_ids: Padding ids on the left, then the prompt.
        attention_mask: 0 on padding, 1 on the prompt. Never leave it out: results on padded
            batches are silently wrong without it.
        position_ids: Counted from the first token that is not padding. GPT-2 style models need
            them; models with rotary positions give the same result with or without.
    """

    indices: tuple[int, ...]
    input_ids: Int[Tensor, "prompt token"]
    attention_mask: Int[Tensor, "prompt token"]
    position_ids: Int[Tensor, "prompt token"]


def left_padding(
    lengths: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "prompt token"], Int[Tensor, "prompt token"]]:
    """Attention mask and position ids of prompts that are padded on the left to the longest."""
    longest = max(lengths)
    columns = torch.arange(longest, device=device)
    starts = torch.tensor([longest - length for length in lengths], device=device)[:, None]
    mask = (columns >= starts).long()
    return mask, (columns - starts).clamp(min=0)


def pad_batch(
    token_ids: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    device: torch.device,
    indices: Sequence[int] | None = None,
) -> TokenBatch:
    """Pad prompts on the left to the longest of them."""
    mask, positions = left_padding([len(ids) for ids in token_ids], device)
    longest = mask.shape[1]
    padded = [[pad_token_id] * (longest - len(ids)) + list(ids) for ids in token_ids]
    return TokenBatch(
        indices=tuple(indices) if indices is not None else tuple(range(len(token_ids))),
        input_ids=torch.tensor(padded, device=device),
        attention_mask=mask,
        position_ids=positions,
    )
