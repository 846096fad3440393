"""Replies to prompts that are shifted at their last token, from one pass over the prompts.

The shift acts while the prompt is read: it is added to the residual of the last prompt token after
one block, as for the causal score. Blocks above make other keys and values of that token, which
the whole reply sees; tokens of the reply are not shifted themselves. Another shift changes no
earlier token and nothing below, so it costs one token before the reply goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.decoding import ReplySettings, greedy_replies
from actor_lens.models.interventions import edit_blocks, shift_last_token
from actor_lens.models.prefix_cache import NoKeyValueCache, PrefixCache
from actor_lens.models.reading import Reading, last_logits, reads_plainly
from actor_lens.models.replies import end_tokens, score_processors


class ShiftedReplies:
    """Replies to a batch of prompts, asked for again and again with other shifts.

    Where the model keeps no keys and values of single tokens, or hooks change it, each question
    reads the prompts again under a hook.

    Attributes:
        residuals: The last token's residual after the block, as it is without a shift.
    """

    residuals: Float[Tensor, "prompt d_model"]

    def __init__(
        self, model: ChatModel, prompts: Sequence[str], batch: TokenBatch, layer: int
    ) -> None:
        """Read the prompts once.

        Args:
            model: The model as it is now; it must not change meanwhile.
            prompts: All user messages, for a model with a ``decoding`` of its own.
            batch: Those that are replied to.
            layer: Block after which they are shifted.
        """
        self._model, self._prompts, self._batch, self._layer = model, prompts, batch, layer
        self._cache: PrefixCache | None = None
        if reads_plainly(model) and not model.is_hooked:
            with suppress(NoKeyValueCache):
                self._cache = PrefixCache(model, batch)
        if self._cache is not None:
            self.residuals = self._cache.residuals[layer]
        else:
            self._read_under_hook()

    def write(
        self, rows: Sequence[int], shifts: Float[Tensor, "row d_model"], new_tokens: int
    ) -> list[list[int]]:
        """Token ids of the greedy replies to some prompts of the batch.

        Args:
            rows: Places of the prompts in the batch.
            shifts: What is added to the last token's residual of each.
            new_tokens: Longest reply, in tokens.

        Raises:
            NotFiniteError: If logits are not finite.
        """
        chosen, whole = list(rows), self._batch
        start = self._start(chosen, shifts, new_tokens)
        mask = whole.attention_mask[chosen]
        # What is read anew is read without the padding that only longer prompts need.
        first = 0 if start is not None else int(mask.argmax(dim=1).min())
        part = TokenBatch(
            indices=tuple(whole.indices[row] for row in chosen),
            input_ids=whole.input_ids[chosen][:, first:],
            attention_mask=mask[:, first:],
            position_ids=whole.position_ids[chosen][:, first:],
        )
        settings = ReplySettings(
            new_tokens=new_tokens,
            ends=end_tokens(self._model),
            processors=score_processors(self._model, self._prompts, part),
        )
        if start is not None:
            return greedy_replies(self._model, part, settings, start)
        with shift_last_token(self._model, self._layer, shifts):
            return greedy_replies(self._model, part, settings)

    def _start(self, rows: list[int], shifts: Tensor, new_tokens: int) -> Reading | None:
        """The shifted prompts as if they had just been read; None where no cache holds them."""
        from actor_lens.models.key_cache import join, plain_cache

        if self._cache is None:
            return None
        moved = self.residuals.clone()  # of all rows: the cache asks about its whole batch
        moved[rows] += shifts.to(moved)
        [(_, scores)] = self._cache.logits({self._layer: moved})
        kept = plain_cache(self._model.hf.config, self._cache.keys_and_values(rows))
        if kept is None:
            return None
        device = self._batch.input_ids.device
        mask = self._batch.attention_mask[rows]
        return Reading(scores[rows].to(device), join([kept], new_tokens), mask)

    def _read_under_hook(self) -> None:
        def keep(residual: Tensor) -> Tensor:
            self.residuals = residual[:, -1].clone()
            return residual

        with torch.no_grad(), edit_blocks(self._model, [self._layer], keep):
            last_logits(self._model, self._batch)
