"""One pass over a batch of prompts: what is between the blocks, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actor_lens.activations.filling import Key, Put
from actor_lens.models.batches import TokenBatch
from actor_lens.models.blocks import Tap, tap_blocks
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite

if TYPE_CHECKING:
    from transformers import DynamicCache


def observe_residuals(
    model: ChatModel,
    batch: TokenBatch,
    take: Callable[[int, Tensor], None],
    taps: Mapping[int, Tap] | None = None,
    *,
    start: DynamicCache | None = None,
) -> None:
    """Run a batch and hand out ``resid_post`` of each layer as it comes.

    The pass ends after the last block: there are no logits and no KV cache. It runs the blocks of
    Hugging Face themselves, for TransformerLens takes milliseconds a layer in Python; where
    ``model.bridge`` is hooked, it goes through TransformerLens, and the hooks act.

    Args:
        model: The model to look into.
        batch: Prompts padded on the left.
        take: Function of each layer, in order, and its residuals ``[prompt, token, d_model]``.
        taps: Functions by layer, called with ``resid_pre`` of the same shape.
        start: From ``read_beginning``: what the prompts begin with, which is then not handed out.
    """
    if not model.bridge_is_hooked:
        after = {layer: partial(take, layer) for layer in range(model.n_layers)}
        tap_blocks(model, batch, before=taps, after=after, start=start)
        return

    def hand_out(residual: Tensor, hook: Any, layer: int) -> None:  # noqa: ARG001
        take(layer, residual)
        if layer == model.n_layers - 1:
            raise _LastBlockDone

    def call_tap(residual: Tensor, hook: Any, tap: Tap) -> None:  # noqa: ARG001
        tap(residual)

    hooks: list[Any] = [
        (f"blocks.{layer}.hook_resid_pre", partial(call_tap, tap=tap))
        for layer, tap in (taps or {}).items()
    ]
    hooks += [
        (f"blocks.{layer}.hook_resid_post", partial(hand_out, layer=layer))
        for layer in range(model.n_layers)
    ]
    with suppress(_LastBlockDone), torch.no_grad():
        model.bridge.run_with_hooks(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            logits_to_keep=1,
            fwd_hooks=hooks,
        )


class _LastBlockDone(Exception):
    """Ends a TransformerLens pass, whose head is not needed."""


def run_batch(
    model: ChatModel,
    behind: int,
    beginning: Callable[[], DynamicCache | None],
    batch: TokenBatch,
    puts: Mapping[Key, Put],
) -> None:
    """Run a batch; hand on residuals of all layers, and inputs of some blocks as they come.

    Args:
        model: The model to look into.
        behind: Tokens behind the one at which residuals are read.
        beginning: Gives what all prompts begin with, from ``read_beginning``; called only where it
            serves.
        batch: Prompts, padded on the left.
        puts: Functions that take the parts of a batch, by array.
    """
    lengths = batch.attention_mask.sum(dim=1).tolist()

    def hand_on(states: Tensor, put: Put) -> None:
        rows = [row[-n:] for row, n in zip(states.cpu(), lengths, strict=True)]  # no padding
        for row in rows:
            check_finite(model, row, "inputs of a block")
        put(rows)

    taps = {key: partial(hand_on, put=put) for key, put in puts.items() if isinstance(key, int)}
    if "residuals" not in puts:
        tap_blocks(model, batch, before=taps)
        return
    kept: list[Tensor] = []

    def keep_one_token(_layer: int, residual: Tensor) -> None:
        # A copy: a view would keep all tokens. Fetched below: a GPU would wait at every layer.
        kept.append(residual[:, -1 - behind].to(torch.float32, copy=True))

    observe_residuals(model, batch, keep_one_token, taps, start=None if taps else beginning())
    residuals = torch.stack([part.cpu() for part in kept], dim=1)
    check_finite(model, residuals, "residuals")
    puts["residuals"](residuals.unbind())
