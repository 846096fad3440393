"""Arrays that are computed prompt by prompt, from the activation store where it has them.

What is missing is computed in batches and written to the store as it comes, so that an interrupted
collection goes on where it stopped. Where the store cannot be used, the arrays are kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from actor_lens.activations.store import Filling, Store, StoreError, StoreWarning, default_store
from actor_lens.activations.store_files import Layout
from actor_lens.errors import UserError
from actor_lens.files.sizes import format_size
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import free_memory
from actor_lens.progress import report

# Share of the free memory that arrays may take which no store holds.
_SHARE = 0.8
# Settings that say where a model comes from or how it is held, not what it computes.
_NOT_COMPUTED_WITH = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("_attn_implementation", "_attn_implementation_autoset", "quantization_config", "use_cache"),
}
Key = int | str
"""An array of a collection: by its kind, or the inputs of a block by its layer."""
Put = Callable[[Sequence[Tensor]], None]
"""Takes, for each prompt of a batch, its part of an array: ``[plane, token, d_model]``."""


class TooLargeForMemory(UserError):
    """Neither the store nor memory can hold what was asked for."""


@dataclass(frozen=True)
class Array:
    """An array to be filled prompt by prompt: ``[plane, token, d_model]``.

    Attributes:
        identity: All that its content depends on.
        planes: Number of planes, such as layers.
        lengths: Number of tokens that each prompt has in it.
        d_model: Width.
        dtype: Number format.
    """

    identity: Mapping[str, Any]
    planes: int
    lengths: Sequence[int]
    d_model: int
    dtype: torch.dtype

    @property
    def starts(self) -> tuple[int, ...]:
        """First token of each prompt, and the number of all tokens."""
        return (0, *accumulate(self.lengths))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, tokens of all prompts, width."""
        return self.planes, sum(self.lengths), self.d_model

    @property
    def layout(self) -> Layout:
        """How the array lies in the store."""
        return Layout(self.planes, self.starts, self.d_model * self.dtype.itemsize)


@runtime_checkable
class _Target(Protocol):
    """Where an array is filled: on disk or in memory."""

    @property
    def missing(self) -> Sequence[int]: ...

    def put(self, rows: Sequence[int], parts: Sequence[Tensor]) -> None: ...

    def finish(self) -> Tensor: ...


class _OnDisk:
    """An array in an entry of the store, which holds bytes (numpy knows no bfloat16)."""

    def __init__(self, array: Array, filling: Filling) -> None:
        self._array, self._filling = array, filling
        self.missing = filling.missing

    def put(self, rows: Sequence[int], parts: Sequence[Tensor]) -> None:
        self._filling.put(rows, [part.contiguous().view(torch.uint8).numpy() for part in parts])

    def finish(self) -> Tensor:
        return _tensor(self._filling.finish(), self._array)


class _InMemory:
    """An array in memory."""

    def __init__(self, array: Array) -> None:
        self._values = torch.empty(array.shape, dtype=array.dtype, device="cpu")
        self._rows = torch.split(self._values, list(array.lengths), dim=1)
        self.missing = range(len(array.lengths))

    def put(self, rows: Sequence[int], parts: Sequence[Tensor]) -> None:
        for row, part in zip(rows, parts, strict=True):
            self._rows[row].copy_(part.view_as(self._rows[row]))

    def finish(self) -> Tensor:
        return self._values


def collect(
    model: ChatModel,
    token_ids: Sequence[Sequence[int]],
    arrays: Mapping[Key, Array],
    run: Callable[[TokenBatch, Mapping[Key, Put]], None],
    *,
    store: Store | bool = True,
    new_tokens: int = 0,
    kept_per_token: int = 0,
) -> dict[Key, Tensor]:
    """Values of some arrays, on the CPU; those from the store are mapped from its files.

    Args:
        model: The model that ``run`` calls.
        token_ids: Token ids of every prompt.
        arrays: Arrays to fill.
        run: Function that runs a batch and hands each of the arrays that are needed the parts of
            the batch's prompts as soon as it has them.
        store: Store to read from and to keep them in; True for the default store, False for none.
        new_tokens: Tokens that ``run`` adds to each prompt.
        kept_per_token: Bytes that ``run`` keeps for each token while it works on a batch.

    Raises:
        TooLargeForMemory: If neither the store nor memory can hold the arrays.
    """
    usable = _usable(model, store)
    values = {} if usable is None else _read(usable, arrays)
    needed = {key: array for key, array in arrays.items() if key not in values}

    def fill(targets: Mapping[Key, _Target]) -> None:
        def run_batch(batch: TokenBatch) -> None:
            puts = {key: partial(target.put, batch.indices) for key, target in targets.items()}
            run(batch, puts)

        rows = sorted({row for target in targets.values() for row in target.missing})
        run_in_batches(
            model,
            token_ids,
            run_batch,
            rows=rows,
            new_tokens=new_tokens,
            kept_per_token=kept_per_token,
        )
        values.update({key: target.finish() for key, target in targets.items()})

    if not needed:
        report(len(token_ids), len(token_ids))
        return values
    if usable is not None:
        try:
            with ExitStack() as stack:
                fill(_open(stack, usable, needed))
            return values
        except StoreError as error:
            warnings.warn(f"{error}; results are kept in memory only", StoreWarning, stacklevel=3)
    _check_fits(needed.values())
    fill({key: _InMemory(array) for key, array in needed.items()})
    return values


def identity_of(model: ChatModel, token_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What all arrays of a model and some prompts depend on; prompts are a hash, never text.

    Weights alone do not say what a model computes: positions, soft caps, windows and the like are
    settings of its configuration.

    Args:
        model: The model as it is now.
        token_ids: Token ids of every prompt.
    """
    import transformers

    tokens = json.dumps([list(ids) for ids in token_ids]).encode()
    config = model.hf.config.get_text_config().to_dict()
    computing = {name: value for name, value in config.items() if name not in _NOT_COMPUTED_WITH}
    settings = json.dumps(computing, sort_keys=True, default=str).encode()
    return {
        "model": model.identity,
        "config": hashlib.blake2b(settings, digest_size=16).hexdigest(),
        "model_name": model.name,
        "tokens": hashlib.blake2b(tokens, digest_size=16).hexdigest(),
        "prompts": len(token_ids),
        "computed_in": str(model.hf.dtype).removeprefix("torch."),
        "transformers": transformers.__version__,
    }


def _check_fits(arrays: Iterable[Array]) -> None:
    nbytes = sum(array.layout.nbytes for array in arrays)
    free = free_memory(torch.device("cpu"))
    if nbytes > _SHARE * free:
        raise TooLargeForMemory(
            f"activations of {format_size(nbytes)} do not fit into memory ({format_size(free)} "
            "free) and are in no store; use fewer prompts, or an activation store with room "
            "(ACTOR_LENS_STORE, ACTOR_LENS_STORE_LIMIT)"
        )


def _usable(model: ChatModel, store: Store | bool) -> Store | None:
    """The store, unless hooks may change what the model computes: nothing names their effect."""
    chosen = default_store() if store is True else store or None
    return None if chosen is None or model.is_hooked else chosen


def _read(store: Store, arrays: Mapping[Key, Array]) -> dict[Key, Tensor]:
    stored = {key: store.read(array.identity) for key, array in arrays.items()}
    return {key: _tensor(data, arrays[key]) for key, data in stored.items() if data is not None}


def _tensor(data: np.ndarray, array: Array) -> Tensor:
    return torch.from_numpy(data).view(array.dtype).view(array.shape)


def _say_wait(message: str) -> None:
    warnings.warn(message, StoreWarning, stacklevel=2)


def _open(stack: ExitStack, store: Store, arrays: Mapping[Key, Array]) -> dict[Key, _Target]:
    """Open entries in an order that all processes share, so that no two wait for each other."""
    targets: dict[Key, _Target] = {}
    for key in sorted(arrays, key=lambda key: store.key(arrays[key].identity)):
        filling = store.filling(arrays[key].identity, arrays[key].layout, on_wait=_say_wait)
        targets[key] = _OnDisk(arrays[key], stack.enter_context(filling))
    return targets
