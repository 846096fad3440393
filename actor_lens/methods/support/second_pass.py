"""A second reading of the same reply while it is generated: by another prompt or other weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedModel


class SecondPass:
    """Next-token logits of a model that reads its own prompts, then the reply so far.

    It keeps a key-value cache of its own, so that a token costs one short pass. For a reply that
    does not continue the one before, it goes back to where they part; where the model keeps more
    than keys and values of all tokens, or less, it begins anew.
    """

    def __init__(self, hf: PreTrainedModel, reader: ChatModel, prompts: Sequence[str]) -> None:
        """Tokenise the prompts; nothing is run yet.

        Raises:
            UserError: If a templated prompt is longer than the model takes.
        """
        self._hf = hf
        self._reader = reader
        self._batch: TokenBatch = pad_batch(
            reader.tokenize(prompts), pad_token_id=reader.pad_token_id, device=reader.device
        )
        self._read: Tensor | None = None
        self._cache: Any = None

    def logits(self, reply: Int[Tensor, "prompt token"]) -> Float[Tensor, "prompt vocabulary"]:
        """Logits of the token after a reply so far, float32.

        Args:
            reply: Generated tokens of each row, none at first. Rows that have ended go on with
                padding; their logits are not used.
        """
        kept = self._rewind(reply)
        fresh = torch.cat([self._batch.input_ids, reply], dim=1)[:, kept:]
        self._read = reply.clone()
        return self._run(fresh, reply.shape[1])

    def _rewind(self, reply: Int[Tensor, "prompt token"]) -> int:
        """Let the cache hold nothing but a beginning of prompts and reply, without the last token.

        Returns:
            How many tokens that is.
        """
        from actor_lens.models.key_cache import is_plain, is_whole

        known, most = self._read, reply.shape[1] - 1
        if known is None or most < 0:
            self._cache = None
            return 0
        most = min(most, known.shape[1])
        same = (reply[:, :most] == known[:, :most]).all(dim=0)
        common, width = int(same.cumprod(dim=0).sum()), self._batch.input_ids.shape[1]
        beyond = known.shape[1] - common
        if beyond:
            if not (is_plain(self._cache, width + known.shape[1]) and is_whole(self._cache)):
                self._cache = None
                return 0
            self._cache.crop(-beyond)
        return width + common

    def _run(
        self, fresh: Int[Tensor, "prompt fresh"], length: int
    ) -> Float[Tensor, "prompt vocabulary"]:
        """Read the tokens that are not in the cache yet; the reply has ``length`` tokens."""
        batch = self._batch
        more = torch.arange(1, length + 1, device=fresh.device)
        positions = torch.cat([batch.position_ids, batch.position_ids[:, -1:] + more], dim=1)
        ones = batch.attention_mask.new_ones(len(fresh), length)
        with torch.no_grad():
            output: Any = self._hf(
                input_ids=fresh,
                attention_mask=torch.cat([batch.attention_mask, ones], dim=1),
                position_ids=positions[:, -fresh.shape[1] :],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1].float()
        check_finite(self._reader, logits, "logits")
        return logits


def with_second_reading(
    model: ChatModel,
    hf: PreTrainedModel,
    reader: ChatModel,
    mix: Callable[[Tensor, Tensor], Tensor],
    first_tokens: int | None = None,
) -> ChatModel:
    """A model that shares every tensor with this one and decodes by its scores and other logits.

    Args:
        model: Model that replies.
        hf: Module tree of the second reading.
        reader: Model that says how prompts are templated and tokenised for that.
        mix: Gives the scores of the next tokens from those of the model and the logits of the
            second reading, both ``[prompt, vocabulary]`` and float32.
        first_tokens: Number of tokens of a reply for which there is a second reading; None for all.
    """

    def decoding(prompts: Sequence[str]) -> LogitsProcessor:
        from transformers import LogitsProcessor

        # The batch is padded on the left to the longest prompt.
        width = max(len(ids) for ids in model.tokenize(prompts))
        second = SecondPass(hf, reader, prompts)

        class Mixed(LogitsProcessor):
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                reply = input_ids[:, width:]
                if first_tokens is not None and reply.shape[1] >= first_tokens:
                    return scores
                return mix(scores.float(), second.logits(reply))

        return Mixed()

    return replace(model, decoding=decoding)
