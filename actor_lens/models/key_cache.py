"""The key-value cache of replies while they are written: room for all their tokens, made once.

transformers' own copies every key and value in order to add those of one token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, cat
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def is_plain(cache: object, n_tokens: int) -> bool:
    """Whether a cache holds keys and values of single tokens, and those of so many.

    Recurrent states, compressed keys, shared or quantised ones and whatever else a model may keep
    are not plain.
    """
    return (
        isinstance(cache, DynamicCache)
        and cache.get_seq_length() == n_tokens
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        and all(getattr(layer, "is_initialized", False) for layer in cache.layers)
    )


def is_whole(cache: DynamicCache) -> bool:
    """Whether a plain cache keeps every token it is given: no window slides over them."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def repeat(cache: DynamicCache, times: int) -> DynamicCache:
    """A cache with the one prompt of another so many times; the other stays as it is."""
    several = copy.deepcopy(cache)
    several.batch_repeat_interleave(times)
    return several


def beginning_of_each(cache: DynamicCache) -> DynamicCache:
    """A cache with one prompt, as the beginning of any number of others; nothing is copied.

    What is read after it is not kept.
    """
    common = copy.copy(cache)
    common.layers = [_BeginningLayer(*_keys_and_values(layer)) for layer in cache.layers]
    return common


def room_of(cache: DynamicCache) -> int:
    """How many tokens can be added and forgotten again."""
    rooms = [layer.room if isinstance(layer, _RoomyLayer) else 0 for layer in cache.layers]
    return min(rooms, default=0)


def forget(cache: DynamicCache, n_tokens: int) -> None:
    """Let go of the newest tokens of a cache that has had room for them."""
    for layer in cache.layers:
        assert isinstance(layer, _RoomyLayer)
        layer.show(layer.get_seq_length() - n_tokens)


def plain_cache(
    config: PreTrainedConfig, keys_and_values: Sequence[tuple[Tensor, Tensor]]
) -> DynamicCache | None:
    """The cache that a model would hold after it has read some prompts.

    Args:
        config: Configuration of the model.
        keys_and_values: Keys and values of all tokens at each of its blocks.

    Returns:
        None where the model's cache is not plain.
    """
    cache = DynamicCache(config=config)
    if len(cache.layers) != len(keys_and_values):
        return None
    for layer, (keys, values) in zip(cache.layers, keys_and_values, strict=True):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return None
        assert isinstance(layer, DynamicLayer)
        layer.update(keys, values)
    return cache


def join(caches: Sequence[DynamicCache], room: int) -> DynamicCache:
    """One cache for the prompts of several, which end at the same column.

    Args:
        caches: Plain ones; they are used up.
        room: Tokens that will be added to each prompt.
    """
    whole = max(caches, key=lambda cache: cache.get_seq_length())
    for index, layer in enumerate(whole.layers):
        parts: list[Any] = [cache.layers[index] for cache in caches]
        slides = isinstance(layer, DynamicSlidingWindowLayer)  # is short and drops its oldest
        n_tokens = parts[caches.index(whole)].keys.shape[-2]
        keys, values = (
            cat([_widened(rows, n_tokens, 0 if slides else room) for rows in several])
            for several in zip(*((part.keys, part.values) for part in parts), strict=True)
        )
        for part in parts:  # so that memory holds one layer twice, not all of them
            part.keys = part.values = None
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.keys, layer.values = keys, values
        else:
            whole.layers[index] = _RoomyLayer(keys, values, n_tokens)
    return whole


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer, at the left of tensors that have room for more."""

    def __init__(
        self,
        keys: Float[Tensor, "prompt head token d_head"],
        values: Float[Tensor, "prompt head token d_head"],
        n_tokens: int,
    ) -> None:
        """Take over tensors of which the first ``n_tokens`` tokens are filled."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._all = keys, values
        self.show(n_tokens)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values of further tokens after the others, and hand out all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for kept, fresh in zip(self._all, (key_states, value_states), strict=True):
            kept[:, :, start:end] = fresh
        return self.show(end)

    @property
    def room(self) -> int:
        """Tokens that can be added."""
        return int(self._all[0].shape[-2]) - self.get_seq_length()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some prompts only."""
        n_tokens = self.get_seq_length()
        self._all = self._all[0][indices], self._all[1][indices]
        self.show(n_tokens)

    def show(self, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Hand out the first so many tokens, and count the others as room."""
        self.keys, self.values = (kept[:, :, :n_tokens] for kept in self._all)
        return self.keys, self.values


class _BeginningLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer that every prompt begins with."""

    def __init__(
        self,
        keys: Float[Tensor, "1 head token d_head"],
        values: Float[Tensor, "1 head token d_head"],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Hand out those of the beginning and the further ones of each prompt."""
        keys, values = _keys_and_values(self)
        rows = len(key_states), -1, -1, -1
        return (
            cat([keys.expand(*rows), key_states], dim=-2),
            cat([values.expand(*rows), value_states], dim=-2),
        )


def _keys_and_values(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _widened(rows: Tensor, n_tokens: int, room: int) -> Tensor:
    """Rows with zeros before them up to ``n_tokens`` tokens, and after them for the room.

    Zeros, since a masked NaN would reach the sum all the same.
    """
    return pad(rows, (0, 0, n_tokens - rows.shape[-2], room))
