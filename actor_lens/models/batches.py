"""Forward passes over many prompts, in batches of like length that fit into memory.

Batches are padded on the left, so that the last token is always at ``-1``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import is_out_of_memory, token_budget
from actor_lens.models.threads import suitable_threads
from actor_lens.progress import report

REPLY_BATCH_TOKENS = 16384
"""Most tokens, those of the replies included, of a batch that replies are written to."""
# Those of a batch that questions are asked about: each question reads all weights above a layer, so
# that two batches of fifty prompts take nearly twice as long as one of a hundred.
_QUESTION_BATCH_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of some prompts, padded on the left.

    Attributes:
        indices: Places of these prompts among all.
        input_ids: Padding ids on the left, then the prompt.
        attention_mask: 0 on padding, 1 on the prompt. Never leave it out: results on padded
            batches are silently wrong without it.
        position_ids: Positions from the first token that is not padding. GPT-2 style models need
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


class MemoryWarning(UserWarning):
    """Memory ran out, and the work goes on with smaller batches; results are right all the same."""


def run_in_batches(
    model: ChatModel,
    token_ids: Sequence[Sequence[int]],
    run: Callable[[TokenBatch], None],
    *,
    rows: Sequence[int] | None = None,
    new_tokens: int = 0,
    kept_per_token: int = 0,
) -> None:
    """Call a function with batches of prompts, the longest prompts first.

    Neighbours in length share a batch, so padding stays small; the longest first lets memory run
    out at once or not at all. A batch that does not fit is halved and run again, with one warning.

    Args:
        model: The model that ``run`` calls, with its batch size; where it has none, batches are
            filled up to a number of tokens that the free memory allows.
        token_ids: Token ids of every prompt.
        run: Function that does the work for a batch; after running out of memory it is called for
            the same prompts again, in smaller batches.
        rows: Places of the prompts to run; by default all of them.
        new_tokens: Tokens that ``run`` will add to each prompt.
        kept_per_token: Bytes that ``run`` keeps for each token while it works on a batch.

    Raises:
        UserError: If a single prompt does not fit into memory.
    """
    rows = range(len(token_ids)) if rows is None else rows
    pending = sorted(rows, key=lambda row: -len(token_ids[row]))
    if not pending:
        return
    longest = len(token_ids[pending[0]]) + new_tokens
    sizes = _Sizes(model, longest, generating=new_tokens > 0, kept_per_token=kept_per_token)
    done, total = len(token_ids) - len(pending), len(token_ids)
    while pending:
        count = sizes.next_count(len(token_ids[pending[0]]) + new_tokens)
        chosen = pending[:count]
        batch = pad_batch(
            [token_ids[row] for row in chosen],
            pad_token_id=model.pad_token_id,
            device=model.device,
            indices=chosen,
        )
        # A generated token is one for each prompt; what comes before it is a small part.
        tokens = len(chosen) if new_tokens else batch.input_ids.numel()
        try:
            with suitable_threads(model, tokens):
                run(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            sizes.shrink(len(chosen), batch.input_ids.shape[1], error)
            continue
        pending = pending[count:]
        done += len(chosen)
        report(done, total)


class _Sizes:
    """How many prompts go into the next batch."""

    def __init__(
        self, model: ChatModel, longest: int, *, generating: bool, kept_per_token: int
    ) -> None:
        self._batch_size = model.batch_size
        self._warned = False
        self._budget = 0
        if model.batch_size is None:
            # A generated token is one short pass a prompt, and so is a question about what is kept:
            # only large batches keep a device busy.
            cap = _QUESTION_BATCH_TOKENS if kept_per_token else None
            cap = REPLY_BATCH_TOKENS if generating else cap
            self._budget = token_budget(model, longest, cap=cap, kept_per_token=kept_per_token)

    def next_count(self, length: int) -> int:
        """Prompts of at most this length that fit."""
        if self._batch_size is not None:
            return self._batch_size
        return max(1, self._budget // max(1, length))

    def shrink(self, count: int, length: int, error: BaseException) -> None:
        """Halve what a batch may hold after one did not fit."""
        if count == 1:
            raise UserError(
                f"not enough memory for one prompt of {length} tokens; shorten or remove long "
                "prompts, free some memory, or load the model with dtype bfloat16"
            ) from error
        half = count // 2
        if self._batch_size is not None:
            self._batch_size = half
        else:
            self._budget = half * length
        if not self._warned:
            warnings.warn(
                f"out of memory with {count} prompts of {length} tokens in a batch; going on with "
                "smaller batches",
                MemoryWarning,
                stacklevel=4,
            )
            self._warned = True
