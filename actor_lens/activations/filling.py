"""Arrays that are computed prompt by prompt, from the activation store where it has them.

What is missing is computed in batches and written to the store as it comes, so that an interrupted
collection goes on where it stopped. Where the store cannot be used, the arrays are kept in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from actor_lens.activations.store import Store, StoreError, StoreWarning, default_store, format_size
from actor_lens.activations.store_files import Layout
from actor_lens.errors import UserError
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import free_memory
from actor_lens.progress import report

# Share of the free memory that arrays may take which no store holds.
_SHARE = 0.8
Rows = Sequence[np.ndarray]
"""For each prompt of a batch its part of an array: ``[plane, unit, ...]``."""
Put = Callable[[Rows], None]


class TooLargeForMemory(UserError):
    """Neither the store nor memory can hold what was asked for."""


@dataclass(frozen=True)
class Wanted:
    """An array to be collected.

    Attributes:
        identity: All that its content depends on.
        layout: How the prompts' parts lie in it.
    """

    identity: Mapping[str, Any]
    layout: Layout


@runtime_checkable
class _Filling(Protocol):
    """An array that is being filled: on disk (``store.Filling``) or in memory."""

    @property
    def missing(self) -> tuple[int, ...]: ...

    def put(self, rows: Sequence[int], arrays: Rows) -> None: ...

    def finish(self) -> np.ndarray: ...


def collect(
    model: ChatModel,
    token_ids: Sequence[Sequence[int]],
    wanted: Sequence[Wanted],
    run: Callable[[TokenBatch, Mapping[int, Put]], None],
    *,
    store: Store | bool = True,
) -> list[np.ndarray]:
    """Arrays of bytes, in the order wanted; those from the store are memory maps.

    Args:
        model: The model that ``run`` calls.
        token_ids: Of every prompt.
        wanted: The arrays.
        run: Told a batch and, by their places in ``wanted``, the arrays that are needed; hands
            each of them the parts of the batch's prompts as soon as it has them.
        store: Where to read and keep them; True for the default store, False for none.

    Raises:
        TooLargeForMemory: If neither the store nor memory can hold the arrays.
    """
    usable = _usable(model, store)
    found = {} if usable is None else _read(usable, wanted)
    needed = [place for place in range(len(wanted)) if place not in found]
    if not needed:
        report(len(token_ids), len(token_ids))

    def fill(fillings: Sequence[_Filling]) -> None:
        rows = sorted({row for filling in fillings for row in filling.missing})

        def run_batch(batch: TokenBatch) -> None:
            puts = [partial(filling.put, batch.indices) for filling in fillings]
            run(batch, dict(zip(needed, puts, strict=True)))

        run_in_batches(model, token_ids, run_batch, rows=rows)

    if needed and usable is not None:
        try:
            with ExitStack() as stack:
                fillings = _open(stack, usable, [wanted[place] for place in needed])
                fill(fillings)
                found |= zip(needed, [filling.finish() for filling in fillings], strict=True)
            needed = []
        except StoreError as error:
            warnings.warn(f"{error}; results are kept in memory only", StoreWarning, stacklevel=3)
    if needed:
        _check_fits([wanted[place].layout for place in needed])
        in_memory = [_InMemory(wanted[place].layout) for place in needed]
        fill(in_memory)
        found |= zip(needed, [filling.finish() for filling in in_memory], strict=True)
    return [found[place] for place in range(len(wanted))]


def _check_fits(layouts: Sequence[Layout]) -> None:
    nbytes = sum(layout.nbytes for layout in layouts)
    free = free_memory(torch.device("cpu"))
    if nbytes > _SHARE * free:
        raise TooLargeForMemory(
            f"activations of {format_size(nbytes)} do not fit into memory ({format_size(free)} "
            "free) and are in no store; use fewer prompts, or an activation store with room "
            "(ACTOR_LENS_STORE, ACTOR_LENS_STORE_LIMIT)"
        )


class _InMemory:
    """An array that is filled in memory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._bytes = np.empty((layout.planes, layout.n_units, layout.width), dtype=np.uint8)
        self.missing = tuple(range(layout.n_rows))

    def put(self, rows: Sequence[int], arrays: Rows) -> None:
        starts, width = self._layout.starts, self._layout.width
        for row, array in zip(rows, arrays, strict=True):
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._bytes[:, starts[row] : starts[row + 1]] = flat.reshape(
                self._layout.planes, -1, width
            )

    def finish(self) -> np.ndarray:
        return self._bytes.reshape(-1)


def _usable(model: ChatModel, store: Store | bool) -> Store | None:
    """The store, unless hooks may change what the model computes: nothing names their effect."""
    if isinstance(store, bool):
        if not store:
            return None
        chosen = default_store()
        if chosen is None:
            return None
        store = chosen
    return None if model.is_hooked else store


def _read(store: Store, wanted: Sequence[Wanted]) -> dict[int, np.ndarray]:
    maps = ((place, store.read(one.identity)) for place, one in enumerate(wanted))
    return {place: values for place, values in maps if values is not None}


def _say_wait(message: str) -> None:
    warnings.warn(message, StoreWarning, stacklevel=2)


def _open(stack: ExitStack, store: Store, wanted: Sequence[Wanted]) -> list[_Filling]:
    """Open entries in an order that all processes share, so that no two wait for each other."""
    opened: dict[int, _Filling] = {}
    for place in sorted(range(len(wanted)), key=lambda place: store.key(wanted[place].identity)):
        one = wanted[place]
        opened[place] = stack.enter_context(
            store.filling(one.identity, one.layout, on_wait=_say_wait)
        )
    return [opened[place] for place in range(len(wanted))]
