"""Prompts that a model has read: the scores of what comes next, and all it needs to go on.

Prompts are read a moment's work at a time. What all of them begin with, a system prompt most of
all, is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.models.memory import token_budget

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# A beginning is read apart from the rest where that spares so many tokens.
_WORTH_TOKENS = 64
# Their frequencies depend on the longest prompt: keys of a short beginning are turned otherwise.
_CHANGING_ROPE = ("dynamic", "longrope")


class OwnWayError(Exception):
    """A model reads tokens, or keeps what it has read, in a way of its own."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model keeps of a batch of prompts.

    Attributes:
        scores: Scores of the first reply tokens, float32.
        cache: Keys and values of the prompts, with room for more tokens.
        mask: 1 where these belong to a token of a prompt. The beginning that all prompts have may
            stand left of the padding.
    """

    scores: Float[Tensor, "prompt vocabulary"]
    cache: DynamicCache
    mask: Int[Tensor, "prompt token"]


def read_prompts(
    model: ChatModel,
    batch: TokenBatch,
    *,
    room: int,
    on_tokens: Callable[[int], None] = lambda _tokens: None,
) -> Reading:
    """Read a batch of prompts.

    A hooked model reads all of them in one pass, as they are: hooks may hold something for each.

    Args:
        model: The model as it is now.
        batch: The prompts.
        room: Most tokens that will be added to each prompt.
        on_tokens: Hears how many tokens of the prompts have been read.

    Raises:
        OwnWayError: If the model prepares its inputs itself, or its cache is not made of keys and
            values of single tokens.
        NotFiniteError: If logits are not finite.
    """
    from actor_lens.models.key_cache import join, repeat

    if not reads_plainly(model):
        raise OwnWayError
    n_rows, width = batch.input_ids.shape
    starts = batch.attention_mask.argmax(dim=1).tolist()
    own = (ids[start:] for ids, start in zip(batch.input_ids.tolist(), starts, strict=True))
    start = read_beginning(model, own)
    at_once = n_rows if model.is_hooked else max(1, token_budget(model, width) // width)
    scores, caches, masks, done = [], [], [], 0
    for first in range(0, n_rows, at_once):
        rows = slice(first, first + at_once)
        ids, seen, positions = after_beginning(batch, start, rows)
        begun = None if start is None else repeat(start, len(ids))
        last, cache = run_tokens(model, ids, seen, positions, begun)
        scores.append(last)
        caches.append(cache)
        masks.append(seen)
        done += int(seen.sum())
        on_tokens(done)
    widest = max(mask.shape[1] for mask in masks)
    padded = [torch.nn.functional.pad(mask, (widest - mask.shape[1], 0)) for mask in masks]
    return Reading(torch.cat(scores), join(caches, room), torch.cat(padded))


def run_tokens(
    model: ChatModel,
    ids: Int[Tensor, "prompt token"],
    mask: Int[Tensor, "prompt seen"],
    positions: Int[Tensor, "prompt token"],
    cache: DynamicCache | None = None,
    *,
    hf: PreTrainedModel | None = None,
) -> tuple[Float[Tensor, "prompt vocabulary"], DynamicCache]:
    """Scores of the tokens after these, float32, and the cache with these in it.

    Args:
        model: The model.
        ids: Tokens that the cache does not hold.
        mask: 1 on each token that is seen, those of the cache included.
        positions: Their positions.
        cache: What has been read before; it is used up.
        hf: Module tree to run in place of ``model.hf``, of which it is another form.

    Raises:
        OwnWayError: If the model keeps no cache of the plain kind.
    """
    output = run_keeping(hf or model.hf, ids, mask, positions, cache, logits_to_keep=1)
    scores = output.logits[:, -1].to(device=ids.device, dtype=torch.float32)
    check_finite(model, scores.sum(), "logits")  # of one NaN or infinity the sum is none, too
    return scores, output.past_key_values


def run_keeping(
    module: nn.Module,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: DynamicCache | None = None,
    **settings: int,
) -> Any:
    """A pass of a model, or of its base alone, that goes on from a cache and keeps one."""
    from actor_lens.models.key_cache import is_plain

    output: Any = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **settings,
    )
    if cache is None and not is_plain(getattr(output, "past_key_values", None), ids.shape[1]):
        raise OwnWayError
    return output


def scores_behind(
    model: ChatModel, batch: TokenBatch, beginning: Sequence[int], reading: Reading | None = None
) -> Float[Tensor, "prompt vocabulary"]:
    """Scores of the next tokens, behind a beginning that all replies of a batch have.

    Args:
        model: The model as it is now.
        batch: The prompts.
        beginning: Token ids of the beginning.
        reading: What the model keeps of the prompts, which stays as it is. Without it, or where
            hooks change the model, prompts are read anew.
    """
    from actor_lens.models.key_cache import forget, room_of

    length, n_rows = len(beginning), len(batch.indices)
    fresh = batch.input_ids.new_tensor(list(beginning)).expand(n_rows, length)
    ones = batch.attention_mask.new_ones(n_rows, length)
    further = torch.arange(1, length + 1, device=fresh.device)
    positions = batch.position_ids[:, -1:] + further
    if reading is None or model.is_hooked or not 0 < length <= room_of(reading.cache):
        longer = TokenBatch(
            indices=batch.indices,
            input_ids=torch.cat([batch.input_ids, fresh], dim=1),
            attention_mask=torch.cat([batch.attention_mask, ones], dim=1),
            position_ids=torch.cat([batch.position_ids, positions], dim=1),
        )
        return last_logits(model, longer)
    with torch.no_grad():
        mask = torch.cat([reading.mask, ones], dim=1)
        scores, cache = run_tokens(model, fresh, mask, positions, reading.cache)
    forget(cache, length)
    return scores


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


def reads_plainly(model: ChatModel) -> bool:
    """Whether the model's class leaves it to transformers how tokens are put into it."""
    from transformers import GenerationMixin

    own = getattr(type(model.hf), "prepare_inputs_for_generation", None)
    return own is GenerationMixin.prepare_inputs_for_generation


def read_beginning(
    model: ChatModel, token_ids: Iterable[Sequence[int]], *, tail: int = 1
) -> DynamicCache | None:
    """What a model keeps of the beginning that all prompts have; its head is not run.

    Args:
        model: The model as it is now.
        token_ids: Token ids of each prompt.
        tail: Last tokens of each that do not count as beginning.

    Returns:
        Keys and values of one prompt; None where there are no prompts, little would be spared, a
        hook changes the model, it keeps something else, a window slides, or positions are not
        turned into the keys (RoPE), or otherwise in longer prompts.
    """
    from transformers import DynamicCache

    from actor_lens.models.key_cache import is_whole

    config = model.hf.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {own.get("rope_type") for own in (rope, *rope.values()) if isinstance(own, dict)}
    turned = rope and kinds.isdisjoint(_CHANGING_ROPE) and not getattr(config, "alibi", False)
    # Elsewhere attention may count columns, and those between the beginning and the rest with them.
    if not turned or not reads_plainly(model) or not is_whole(DynamicCache(config=model.hf.config)):
        return None
    own = [list(ids) for ids in token_ids]
    if not own:
        return None
    first = min(own)
    pairs = enumerate(zip(first, max(own), strict=False))
    shortest = min(map(len, own))
    length = next((place for place, (one, other) in pairs if one != other), shortest)
    length = min(length, shortest - tail)
    if model.is_hooked or length * (len(own) - 1) < _WORTH_TOKENS:
        return None
    begun = pad_batch([first[:length]], pad_token_id=model.pad_token_id, device=model.device)
    with suppress(OwnWayError), torch.no_grad():
        ids, mask, positions = begun.input_ids, begun.attention_mask, begun.position_ids
        cache: DynamicCache = run_keeping(model.hf.base_model, ids, mask, positions).past_key_values
        return cache
    return None


def after_beginning(
    batch: TokenBatch, start: DynamicCache | None, rows: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of some prompts behind the beginning that all have.

    Args:
        batch: The prompts.
        start: What the model keeps of their beginning; None where they are read whole.
        rows: Places of the prompts in the batch.

    Returns:
        Token ids, what is seen of the beginning and of them, and their positions. Tokens stay in
        their columns, less the padding of all; the beginning moves to the left of the padding.
    """
    begun = 0 if start is None else start.get_seq_length()
    mask = batch.attention_mask[rows]
    padding = int(mask.argmax(dim=1).min())  # that all of these have
    fresh = slice(padding + begun, None)
    seen = mask[:, padding : mask.shape[1] - begun]
    seen = torch.cat([mask.new_ones(len(mask), begun), seen], dim=1)
    return batch.input_ids[rows, fresh], seen, batch.position_ids[rows, fresh]
